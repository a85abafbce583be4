"""The user's files of a run: read before the model is loaded, copied into the run folder, found again for the next time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from calotype.core.events import Events
from calotype.data.files import plain_file
from calotype.errors import InputError, printable
from calotype.imaging.files import atomic_path, file_suffix, user_path
from calotype.registry import ARTIFACT_KINDS
from calotype.runs.artifact import ArtifactKind, copy_files
from calotype.runs.entries import InputEntry, plain_name, shortened
from calotype.runs.hashing import checked_digest, path_digest, regular_files
from calotype.runs.kinds import adopted, from_tensors, is_artifact, kind_names, kind_of, to_tensors
from calotype.runs.record import INPUTS, input_suffix, own_copy
from calotype.runs.signature import Parameter

_EXACT = ".safetensors"


def split(
    parameters: Sequence[Parameter], arguments: Mapping[str, Any]
) -> tuple[dict[str, tuple[ArtifactKind, Any]], dict[str, Any], dict[str, Any]]:
    """The given arguments, split into files, checkpoints and plain values.

    Returns:
        {name or name.index: (kind, path or object)}, {name: name of a checkpoint} and {name: value}.

    Raises:
        InputError: an argument that the method doesn't have, or a required one that is missing.
    """
    known = {parameter.name for parameter in parameters}
    for name in arguments:
        if name not in known:
            raise InputError(f"{name}: the method has no such argument; it takes {', '.join(sorted(known))}")
    media: dict[str, tuple[ArtifactKind, Any]] = {}
    models: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for parameter in parameters:
        value = arguments.get(parameter.name, parameter.default)
        if parameter.required and parameter.name not in arguments:
            raise InputError(f"{parameter.name}: nothing was given and the method needs it; pass {parameter.name}")
        if parameter.kind == "value":
            plain[parameter.name] = value
        elif parameter.kind == "model":
            models.update({parameter.name: value} if value is not None else {})
        elif parameter.artifact is not None and value is not None:
            if parameter.kind not in kind_names():
                reason = f"the artifact kind {parameter.kind} is in no package's entry points of the group {ARTIFACT_KINDS}"
                raise InputError(f"{parameter.name}: {reason}; add it there")
            items = enumerate(value) if parameter.several else ()
            pairs = [(f"{parameter.name}.{index}", item) for index, item in items] if parameter.several else [(parameter.name, value)]
            media.update({name: (parameter.artifact, item) for name, item in pairs})
    return media, models, plain


def settled(kind: ArtifactKind, value: Any, name: str, events: Events) -> Any:
    """A file that is read in a way that the user said, as what comes out: the copy in the run folder is then that."""
    if isinstance(value, str | os.PathLike) and kind.says_how(value):
        return kind.read(value, name=name, events=events)
    return value


def read(kind: ArtifactKind, value: Any, name: str, events: Events, options: Mapping[str, Any] | None = None) -> Any:
    """One input as the object that the method takes; objects pass as they are.

    Args:
        kind: a row of `calotype.runs.kinds`.
        value: a path, or an object.
        name: what messages call it.
        events: hears notes.
        options: keywords for the reader, see `Method.reading`.

    Raises:
        InputError: a file that is refused.
        MissingError: a package that reads or writes it is not installed.
    """
    # A package that the results need is told now and not when they are to be written.
    kind.needs()
    if is_artifact(value):
        return value
    path = user_path(value)
    if path.suffix == _EXACT and kind.suffix != _EXACT:
        return adopted(kind, read_exact(path, name), f"{name}: {path} holds")
    return kind.read(path, name=name, events=events, **(options or {}))


def read_exact(path: Path, name: str = "file") -> Any:
    """What `write_exact` wrote.

    Raises:
        InputError: no such file, or one that holds something else.
    """
    source = plain_file(path, name)
    try:
        tensors = load_file(source)
    except (SafetensorError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: {path} can't be read ({reason}); give a picture, or a file that a run kept") from None
    try:
        found = from_tensors(tensors)
    except InputError as error:
        raise InputError(f"{name}: {path} can't be used: {error}") from None
    if found is None:
        held = ", ".join(sorted(tensors)[:8]) or "no tensors"
        raise InputError(f"{name}: {path} holds nothing that a run kept; it has {printable(held)[:200]}")
    return found


def entry(kind: ArtifactKind, value: Any, name: str) -> InputEntry:
    """What the record says of an input before it is copied; objects that came from no file have no path.

    Raises:
        InputError: a pipe, a device, or a folder with one in it or with a link that leaves it.
    """
    if is_artifact(value):
        suffix = kind_of(value).kept_suffix
        return {"kind": kind.name, "file": f"{INPUTS}/{name}{suffix}", "path": "", "name": f"{name}{suffix}", "sha256": ""}
    path = user_path(value)
    target = f"{INPUTS}/{name}{'' if path.is_dir() else input_suffix(path)}"
    own_name = plain_name(path.name or path.absolute().name)
    return {"kind": kind.name, "file": target, "path": printable(shortened(path)), "name": own_name, "sha256": checked_digest(path, name)}


def keep(place: Path, value: Any, metadata: InputEntry, *, copied: bool = True) -> InputEntry:
    """Copy one input into the folder that stands for `inputs/`, whole or not at all. Returns its entry with the hash of what was kept.

    Args:
        place: the folder.
        value: a path, or an object.
        metadata: its entry.
        copied: whether a file or folder is copied; objects are always kept.

    Raises:
        InputError: as `entry`.
    """
    target = place / Path(metadata["file"]).name
    if is_artifact(value):
        write_exact(value, target)
        return {**metadata, "sha256": path_digest(target)}
    source = user_path(value)
    if not copied:
        return {**metadata, "path": printable(shortened(source))}
    files = regular_files(source, metadata["name"])
    if source.is_dir():
        copy_files(files, source, target)
        return metadata
    with atomic_path(target, overwrite=True) as temporary:
        shutil.copyfile(source, temporary)
    return metadata


def write_exact(value: Any, path: Path) -> None:
    """Write an object to the bit: as a .safetensors file of its fields that `read` takes, or as its own kind's file where that is exact."""
    kind = kind_of(value)
    if not kind.tensors:
        kind.write(value, path, {})
        return
    with atomic_path(path, overwrite=True) as temporary:
        save_file(to_tensors(value), temporary)


def find(name: str, metadata: InputEntry, run_folder: Path | None, extra: Path | None, *, trust: bool = False) -> Path:
    """Where an input of a recorded run is: the run's own copy, the recorded path if the record is trusted, or the user's folder.

    Args:
        name: the argument.
        metadata: what the record says of it.
        run_folder: the run's folder.
        extra: the folder that the user names.
        trust: whether the recorded path may be followed.

    Raises:
        InputError: no file with the recorded contents is in any of these places.
    """
    tried = []
    for place in _places(metadata, run_folder, extra, trust):
        tried.append(str(place))
        if _holds(place, metadata):
            return place
    if extra is not None and extra.is_dir() and metadata["sha256"]:
        for place in sorted(extra.rglob("*"))[:5000]:
            if place.is_file() and file_suffix(place) == file_suffix(metadata["name"]) and _holds(place, metadata):
                return place
    where = ", ".join(dict.fromkeys(tried)) or "nowhere"
    wanted = f"the file {metadata['name']} (sha256 {metadata['sha256'][:12]}...)"
    raise InputError(f"{name}: {wanted} of that run was not found (looked at {where}); give --inputs DIR")


def _holds(place: Path, metadata: InputEntry) -> bool:
    """Whether a place has the recorded contents; what can't be read, or is no file and no folder of files, has not."""
    try:
        return place.exists() and metadata["sha256"] in ("", checked_digest(place))
    except (InputError, OSError):
        return False


def _places(metadata: InputEntry, run_folder: Path | None, extra: Path | None, trust: bool) -> Iterator[Path]:
    own = own_copy(run_folder, metadata["file"]) if run_folder is not None else None
    if own is not None:
        yield own
    if trust and metadata["path"]:
        yield user_path(metadata["path"])
    if extra is not None:
        yield extra / metadata["name"]
        yield extra / Path(metadata["file"]).name
