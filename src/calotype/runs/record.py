"""Records as a stranger may have written them, read into checked values: the only place where a `Record` is made from JSON.

What comes out of here names no place outside of the run folder but in `InputEntry.path`, `ModelRequest.name` and what a method makes of its
own arguments; `calotype.runs.trust` decides whether these may be followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from calotype.core.untrusted import choice, file_name, listed, mapping, number, parse_json, short, text, whole
from calotype.data.files import plain_file
from calotype.errors import InputError
from calotype.imaging.files import file_suffix, user_path
from calotype.imaging.media import read_metadata
from calotype.runs.artifact import NO_METADATA
from calotype.runs.entries import FORMAT, METADATA_KEY, RECORD_NAME, InputEntry, ModelRequest, OutputEntry, Record
from calotype.runs.hashing import checked_digest
from calotype.runs.kinds import KINDS, kind_names

INPUTS = "inputs"
"""The folder, in a run's, of copies of the user's files."""
STATUSES = ("running", "interrupted", "failed", "finished")
MOST_SEED = (1 << 32) - 1
_REMEDY = "give another file of the same run"
_ARGUMENT = r"[A-Za-z_][A-Za-z0-9_]{0,99}(\.\d{1,6})?"
_SUFFIX = r"(\.[a-z0-9_+-]{1,20}){0,2}"
_DIGEST = r"[0-9a-f]{64}"
_SLUG = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*"
_DEVICE = r"(?!meta)[a-z]{1,20}(:\d{1,3})?"
_KIND = r"[a-z][a-z0-9-]{0,39}"
_MANY = 1_000_000
_LONGEST = 4_000_000
"""Characters of what is shown and never followed, such as a command line."""


def read_record(source: str | os.PathLike[str]) -> tuple[Record, Path | None]:
    """The record of a run, from its folder, its `run.json` or one of its results.

    Returns:
        The record, and the run folder if `source` is one or lies in the one that made it.

    Raises:
        InputError: nothing there, nothing that a run of ours made, or a value in it that no run of ours writes.
    """
    path = user_path(source)
    if path.name != RECORD_NAME and (found := _listed_beside(path)) is not None:
        return found, path.parent
    if path.is_dir():
        if not (path / RECORD_NAME).is_file():
            raise InputError(f"{path} holds no {RECORD_NAME}, so it is no run folder (or was stopped before the run began)")
        path = path / RECORD_NAME
    if not os.path.lexists(path):
        raise InputError(f"{path} does not exist; give a run folder, its run.json, or a file that a run made")
    if path.suffix == ".json":
        return parse_record(parse_json(plain_file(path, "record").read_bytes(), str(path), _REMEDY), str(path)), path.parent
    try:
        content = read_metadata(plain_file(path)).get(METADATA_KEY, "")
    except InputError:
        content = ""
    values = parse_json(content, str(path), _REMEDY) if content else {}
    beside = path.parent / RECORD_NAME
    return parse_record(values, str(path)), path.parent if beside.is_file() else None


def _listed_beside(path: Path) -> Record | None:
    """The record of the folder that a result lies in, where the result is of a kind whose files hold no record themselves."""
    beside = own_file(path.parent, RECORD_NAME)
    if beside is None or not os.path.lexists(path):
        return None
    try:
        record = parse_record(parse_json(plain_file(beside, "record").read_bytes(), str(beside), _REMEDY), str(beside))
        entry = next((entry for entry in record.outputs.values() if entry.get("file") == path.name and "contents" in entry), None)
        return record if entry is not None and checked_digest(path) == entry["sha256"] else None
    except InputError:
        return None


def parse_record(values: Any, source: str = RECORD_NAME) -> Record:
    """The record that `Record.to_json` wrote; entries that it doesn't know are left out.

    Args:
        values: as `parse_json` gives them.
        source: what messages call it.

    Raises:
        InputError: no record, one of a later format, or a value of another type or out of its range.
    """
    if not isinstance(values, Mapping) or "calotype_run" not in values:
        raise InputError(f"{source} holds no Calotype run; give a run folder, its run.json, or a file that a run made")
    if values["calotype_run"] != FORMAT:
        found = short(values["calotype_run"])
        raise InputError(f"{source} has run format {found}, this version reads {FORMAT}; use the version that wrote it")
    for key in ("method", "model", "preset", "parameters", "arguments", "seed"):
        if key not in values:
            raise InputError(f"{source} is not a complete run record ({key} is missing); {_REMEDY}")

    def of(key: str) -> str:
        return f"{source}: {key}"

    def entries(key: str) -> dict[str, Any]:
        return mapping(values.get(key, {}), of(key))

    def line(key: str) -> str:
        return text(values.get(key, ""), of(key), most=_LONGEST)

    def lines(key: str) -> tuple[str, ...]:
        return tuple(text(each, of(key), most=_LONGEST) for each in listed(values.get(key, []), of(key)))

    return Record(
        method=text(values["method"], of("method"), pattern=_SLUG, expected="the name of a method"),
        model=parse_model(values["model"], of("model")),
        preset=text(values["preset"], of("preset"), pattern=f"({_WORD})?", expected="the name of a preset"),
        parameters=entries("parameters"),
        arguments=entries("arguments"),
        seed=whole(values["seed"], of("seed"), 0, MOST_SEED),
        inputs={name: _input(name, metadata, of(f"inputs: {short(name)}")) for name, metadata in entries("inputs").items()},
        environment=_environment(values.get("environment", {}), of("environment")),
        checkpoint=_checkpoint(values.get("checkpoint", {}), of("checkpoint")),
        models={
            _argument(name, of("models")): parse_model(metadata, of(f"models: {short(name)}"))
            for name, metadata in entries("models").items()
        },
        checkpoints={
            _argument(name, of("checkpoints")): _checkpoint(metadata, of(f"checkpoints: {short(name)}"))
            for name, metadata in entries("checkpoints").items()
        },
        outputs={name: _output(name, metadata, of(f"outputs: {short(name)}")) for name, metadata in entries("outputs").items()},
        metrics={name: number(value, of(f"metrics: {short(name)}")) for name, value in entries("metrics").items()},
        seconds={name: number(value, of(f"seconds: {short(name)}"), 0, 1e12) for name, value in entries("seconds").items()},
        peak_memory_bytes={name: whole(value, of("peak_memory_bytes")) for name, value in entries("peak_memory_bytes").items()},
        status=choice(values.get("status", "running"), of("status"), STATUSES),
        sessions=whole(values.get("sessions", 1), of("sessions"), 1, _MANY),
        started=line("started"),
        finished=line("finished"),
        command=lines("command"),
        notes=lines("notes"),
        error=line("error"),
        rerun_of=line("rerun_of"),
    )


def parse_model(value: Any, name: str) -> ModelRequest:
    """A model of a run: what to load, and how.

    Raises:
        InputError: a value that `calotype.load` takes from nobody.
    """
    metadata = mapping(value, name)

    def optional(key: str, pattern: str) -> str | None:
        found = metadata.get(key)
        return None if found is None else text(found, f"{name}: {key}", most=200, pattern=pattern)

    def bound(key: str) -> int | None:
        found = metadata.get(key)
        return None if found is None else whole(found, f"{name}: {key}", 1, _MANY)

    offload = metadata.get("offload")
    return ModelRequest(
        name=text(metadata.get("name"), f"{name}: name", pattern=r"[^\x00-\x1f\x7f]*", expected="a model, a folder or a hub id"),
        device=text(metadata.get("device", "auto"), f"{name}: device", pattern=_DEVICE, expected="a device such as cpu"),
        dtype=choice(metadata.get("dtype", "auto"), f"{name}: dtype", ("auto", "float32", "float16", "bfloat16")),
        variant=optional("variant", _WORD),
        revision=optional("revision", _REVISION),
        offload=None if offload is None else choice(offload, f"{name}: offload", ("model", "sequential")),
        max_rows=bound("max_rows"),
        decode_chunk_size=bound("decode_chunk_size"),
    )


def _argument(name: str, subject: str) -> str:
    return text(name, subject, pattern=_ARGUMENT, expected="the name of an argument")


def _input(key: str, value: Any, name: str) -> InputEntry:
    """The file's place is made from the argument's name and a suffix, whatever the record says."""
    _argument(key, name)
    metadata = mapping(value, name)
    file = text(metadata.get("file"), f"{name}: file", expected="a file in inputs/")
    suffix = file.removeprefix(f"{INPUTS}/{key}")
    if f"{INPUTS}/{key}{suffix}" != file:
        raise InputError(f"{name}: file is {short(file)}; {INPUTS}/{key} and a suffix are expected")
    text(suffix, f"{name}: file", pattern=_SUFFIX, expected=f"{INPUTS}/{key} and a suffix")
    return {
        "kind": choice(metadata.get("kind"), f"{name}: kind", kind_names()),
        "file": f"{INPUTS}/{key}{suffix}",
        "path": text(metadata.get("path", ""), f"{name}: path"),
        "name": file_name(metadata.get("name"), f"{name}: name"),
        "sha256": text(metadata.get("sha256"), f"{name}: sha256", pattern=_DIGEST, expected="a sha256 in hexadecimal"),
    }


def _output(key: str, value: Any, name: str) -> OutputEntry:
    file_name(key, name)
    metadata = mapping(value, name)
    digest = text(metadata.get("pixels_sha256"), f"{name}: pixels_sha256", pattern=_DIGEST, expected="a sha256 in hexadecimal")
    # Records of earlier versions name no kind: a volume has a spacing, a clip frames.
    guess = "volume" if "spacing" in metadata else "video" if "frames" in metadata else "image"
    kind = text(metadata.get("kind", guess), f"{name}: kind", pattern=_KIND, expected="the name of a kind")
    known = KINDS[kind].metadata if kind in KINDS else NO_METADATA
    made: dict[str, Any] = {"name": key, "kind": kind, "pixels_sha256": digest, **known.checked(metadata, name)}
    if "file" in metadata:
        made["file"] = file_name(metadata["file"], f"{name}: file")
        made["sha256"] = text(metadata.get("sha256"), f"{name}: sha256", pattern=_DIGEST, expected="a sha256 in hexadecimal")
    return cast(OutputEntry, made)


def _environment(value: Any, name: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, metadata in mapping(value, name, most=100).items():
        if key == "versions":
            made[key] = {package: text(found, f"{name}: {short(package)}", most=200) for package, found in mapping(metadata, name).items()}
        elif key == "threads":
            made[key] = None if metadata is None else whole(metadata, f"{name}: threads", 1, 100_000)
        elif key == "device":
            made[key] = text(metadata, f"{name}: device", pattern=_DEVICE, expected="a device such as cpu")
        elif metadata is not None:
            made[key] = text(metadata, f"{name}: {short(key)}")
    return made


def _checkpoint(value: Any, name: str) -> dict[str, Any]:
    """What the checkpoint said of itself is compared and shown, and never followed."""
    made = dict(mapping(value, name, most=1000))
    if "sha256" in made:
        made["sha256"] = text(made["sha256"], f"{name}: sha256", pattern=_DIGEST, expected="a sha256 in hexadecimal")
    return made


def own_copy(folder: Path, file: str) -> Path | None:
    """The file or folder at a place in a folder of ours, `name` or `folder/name`; None if it isn't there, or only by a link."""
    place = folder
    for name in file.split("/"):
        place = place / name
        try:
            status = place.lstat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            return None
    return place


def own_file(folder: Path, name: str) -> Path | None:
    """The same for a regular file."""
    place = own_copy(folder, name)
    return place if place is not None and place.is_file() else None


def input_suffix(path: Path) -> str:
    """The suffix that the copy of a file gets: its own where that is one of letters and digits, else none."""
    suffix = file_suffix(path)
    return suffix if re.fullmatch(_SUFFIX, suffix) else ""
