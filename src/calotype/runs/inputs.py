"""The user's files of a run: read before the model is loaded, copied into the run folder, found again for the next time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from calotype.core.errors import InputError
from calotype.core.events import Events
from calotype.core.files import atomic_path, file_suffix
from calotype.core.nifti import medical
from calotype.data.files import plain_file
from calotype.runs.hashing import path_digest
from calotype.runs.kinds import KINDS, Media, from_tensors, suited, to_tensors
from calotype.runs.record import shortened
from calotype.runs.signature import Parameter

FOLDER = "inputs"
_EXACT = ".safetensors"


def split(parameters: Sequence[Parameter], arguments: Mapping[str, Any]) -> tuple[dict[str, tuple[str, Any]], dict[str, Any]]:
    """The given arguments, split into files and plain values.

    Returns:
        {name or name.index: (kind, path or object)} and {name: value}.

    Raises:
        InputError: an argument that the method doesn't have, or a required one that is missing.
    """
    known = {parameter.name for parameter in parameters}
    for name in arguments:
        if name not in known:
            raise InputError(f"{name}: the method has no such argument; it takes {', '.join(sorted(known))}")
    media: dict[str, tuple[str, Any]] = {}
    plain: dict[str, Any] = {}
    for parameter in parameters:
        value = arguments.get(parameter.name, parameter.default)
        if parameter.required and parameter.name not in arguments:
            raise InputError(f"{parameter.name}: nothing was given and the method needs it; pass {parameter.name}")
        if parameter.kind == "value":
            plain[parameter.name] = value
        elif parameter.kind.endswith("s") and value is not None:
            media.update({f"{parameter.name}.{index}": (parameter.kind[:-1], item) for index, item in enumerate(value)})
        elif value is not None:
            media[parameter.name] = (parameter.kind, value)
    return media, plain


def read(kind: str, value: Any, name: str, events: Events) -> Media:
    """One input as the object that the method takes; objects pass as they are.

    Raises:
        InputError: a file that is refused.
        MissingError: a package that reads or writes it is not installed.
    """
    if kind == "volume":
        # Its results will be NIfTI files, so a missing package is told now and not when they are to be written.
        medical("nibabel")
    if isinstance(value, Media):
        return value
    path = Path(value).expanduser()
    if path.suffix == _EXACT:
        return suited(kind, read_exact(path, name), f"{name}: {path} holds")
    found: Media = KINDS[kind].read(path, name=name, events=events)
    return found


def read_exact(path: Path, name: str = "file") -> Media:
    """What `write_exact` wrote.

    Raises:
        InputError: no such file, or one that holds something else.
    """
    try:
        tensors = load_file(plain_file(path, name))
    except SafetensorError as error:
        raise InputError(f"{name}: {path} can't be read ({error}); give a picture, or a file that a run kept") from None
    found = from_tensors(tensors)
    if found is None:
        raise InputError(f"{name}: {path} holds nothing that a run kept; it has {', '.join(sorted(tensors)) or 'no tensors'}")
    return found


def entry(kind: str, value: Any, name: str) -> dict[str, Any]:
    """What the record says of an input before it is copied; objects that came from no file have no path."""
    if isinstance(value, Media):
        return {"kind": kind, "file": f"{FOLDER}/{name}{_EXACT}", "path": "", "name": f"{name}{_EXACT}", "sha256": ""}
    path = Path(value).expanduser()
    target = f"{FOLDER}/{name}{'' if path.is_dir() else file_suffix(path)}"
    return {"kind": kind, "file": target, "path": shortened(path), "name": path.name, "sha256": path_digest(path)}


def keep(folder: Path, value: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    """Copy one input into the run folder, whole or not at all. Returns its entry with the hash of what was kept."""
    target = folder / told["file"]
    if isinstance(value, Media):
        write_exact(value, target)
        return {**told, "sha256": path_digest(target)}
    source = Path(value).expanduser()
    if source.resolve() == target.resolve():
        return dict(told)
    files = [item for item in source.rglob("*") if item.is_file()] if source.is_dir() else [source]
    for file in files:
        with atomic_path(target / file.relative_to(source) if source.is_dir() else target, overwrite=True) as temporary:
            shutil.copyfile(file, temporary)
    return dict(told)


def write_exact(value: Media, path: Path) -> None:
    """Write an object to the bit, as a .safetensors file that `read` takes."""
    with atomic_path(path, overwrite=True) as temporary:
        save_file(to_tensors(value), temporary)


def find(name: str, told: Mapping[str, Any], run_folder: Path | None, extra: Path | None) -> Path:
    """Where an input of a recorded run is: the run's own copy, the recorded path, or the folder that the user names.

    Raises:
        InputError: no file with the recorded contents is in any of these places.
    """
    tried = []
    for place in _places(told, run_folder, extra):
        tried.append(str(place))
        if place.exists() and path_digest(place) == told["sha256"]:
            return place
    if extra is not None and extra.is_dir():
        for place in sorted(extra.rglob("*"))[:5000]:
            if place.is_file() and path_digest(place) == told["sha256"]:
                return place
    where = ", ".join(dict.fromkeys(tried)) or "nowhere"
    wanted = f"the file {told['name']} (sha256 {told['sha256'][:12]}...)"
    raise InputError(f"{name}: {wanted} of that run was not found (looked at {where}); give --inputs DIR")


def _places(told: Mapping[str, Any], run_folder: Path | None, extra: Path | None) -> Iterator[Path]:
    if run_folder is not None:
        yield run_folder / told["file"]
    if told.get("path"):
        yield Path(told["path"]).expanduser()
    if extra is not None:
        yield extra / told["name"]
        yield extra / Path(told["file"]).name
