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
from calotype.data import as_mask
from calotype.data.files import plain_file
from calotype.data.masks import mask_reading
from calotype.errors import InputError, printable
from calotype.imaging.files import atomic_path, file_suffix, user_path
from calotype.imaging.nifti import medical
from calotype.runs.entries import InputEntry, plain_name, shortened
from calotype.runs.hashing import checked_digest, path_digest, regular_files
from calotype.runs.kinds import KINDS, Media, from_tensors, suited, to_tensors
from calotype.runs.record import INPUTS, input_suffix, own_copy
from calotype.runs.signature import Parameter

_EXACT = ".safetensors"


def split(
    parameters: Sequence[Parameter], arguments: Mapping[str, Any]
) -> tuple[dict[str, tuple[str, Any]], dict[str, Any], dict[str, Any]]:
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
    media: dict[str, tuple[str, Any]] = {}
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
        elif parameter.kind.endswith("s") and value is not None:
            media.update({f"{parameter.name}.{index}": (parameter.kind[:-1], item) for index, item in enumerate(value)})
        elif value is not None:
            media[parameter.name] = (parameter.kind, value)
    return media, models, plain


def settled(kind: str, value: Any, name: str, events: Events) -> Any:
    """A mask's file that is read in a way that the user said, as the mask that comes out: the copy in the run folder is then that mask."""
    if kind == "mask" and isinstance(value, str | os.PathLike) and mask_reading(value)[0]:
        return as_mask(value, name=name, events=events)
    return value


def read(kind: str, value: Any, name: str, events: Events, options: Mapping[str, Any] | None = None) -> Media:
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
    if kind == "volume":
        # Its results will be NIfTI files, so a missing package is told now and not when they are to be written.
        medical("nibabel")
    if isinstance(value, Media):
        return value
    path = user_path(value)
    if path.suffix == _EXACT:
        return suited(kind, read_exact(path, name), f"{name}: {path} holds")
    found: Media = KINDS[kind].read(path, name=name, events=events, **(options or {}))
    return found


def read_exact(path: Path, name: str = "file") -> Media:
    """What `write_exact` wrote.

    Raises:
        InputError: no such file, or one that holds something else.
    """
    source = plain_file(path, name)
    try:
        tensors = load_file(source)
    except (SafetensorError, ValueError, TypeError) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: {path} can't be read ({told}); give a picture, or a file that a run kept") from None
    try:
        found = from_tensors(tensors)
    except InputError as error:
        raise InputError(f"{name}: {path} can't be used: {error}") from None
    if found is None:
        held = ", ".join(sorted(tensors)[:8]) or "no tensors"
        raise InputError(f"{name}: {path} holds nothing that a run kept; it has {printable(held)[:200]}")
    return found


def entry(kind: str, value: Any, name: str) -> InputEntry:
    """What the record says of an input before it is copied; objects that came from no file have no path.

    Raises:
        InputError: a pipe, a device, or a folder with one in it or with a link that leaves it.
    """
    if isinstance(value, Media):
        return {"kind": kind, "file": f"{INPUTS}/{name}{_EXACT}", "path": "", "name": f"{name}{_EXACT}", "sha256": ""}
    path = user_path(value)
    target = f"{INPUTS}/{name}{'' if path.is_dir() else input_suffix(path)}"
    own_name = plain_name(path.name or path.absolute().name)
    return {"kind": kind, "file": target, "path": printable(shortened(path)), "name": own_name, "sha256": checked_digest(path, name)}


def keep(place: Path, value: Any, told: InputEntry) -> InputEntry:
    """Copy one input into the folder that stands for `inputs/`, whole or not at all. Returns its entry with the hash of what was kept.

    Raises:
        InputError: as `entry`.
    """
    target = place / Path(told["file"]).name
    if isinstance(value, Media):
        write_exact(value, target)
        return {**told, "sha256": path_digest(target)}
    source = user_path(value)
    for file in regular_files(source, told["name"]):
        with atomic_path(target / file.relative_to(source) if source.is_dir() else target, overwrite=True) as temporary:
            shutil.copyfile(file, temporary)
    return told


def write_exact(value: Media, path: Path) -> None:
    """Write an object to the bit, as a .safetensors file that `read` takes."""
    with atomic_path(path, overwrite=True) as temporary:
        save_file(to_tensors(value), temporary)


def find(name: str, told: InputEntry, run_folder: Path | None, extra: Path | None, *, trust: bool = False) -> Path:
    """Where an input of a recorded run is: the run's own copy, the recorded path if the record is trusted, or the user's folder.

    Args:
        name: the argument.
        told: what the record says of it.
        run_folder: the run's folder.
        extra: the folder that the user names.
        trust: whether the recorded path may be followed.

    Raises:
        InputError: no file with the recorded contents is in any of these places.
    """
    tried = []
    for place in _places(told, run_folder, extra, trust):
        tried.append(str(place))
        if _holds(place, told):
            return place
    if extra is not None and extra.is_dir():
        for place in sorted(extra.rglob("*"))[:5000]:
            if place.is_file() and file_suffix(place) == file_suffix(told["name"]) and _holds(place, told):
                return place
    where = ", ".join(dict.fromkeys(tried)) or "nowhere"
    wanted = f"the file {told['name']} (sha256 {told['sha256'][:12]}...)"
    raise InputError(f"{name}: {wanted} of that run was not found (looked at {where}); give --inputs DIR")


def _holds(place: Path, told: InputEntry) -> bool:
    """Whether a place has the recorded contents; what can't be read, or is no file and no folder of files, has not."""
    try:
        return place.exists() and checked_digest(place) == told["sha256"]
    except (InputError, OSError):
        return False


def _places(told: InputEntry, run_folder: Path | None, extra: Path | None, trust: bool) -> Iterator[Path]:
    own = own_copy(run_folder, told["file"]) if run_folder is not None else None
    if own is not None:
        yield own
    if trust and told["path"]:
        yield user_path(told["path"])
    if extra is not None:
        yield extra / told["name"]
        yield extra / Path(told["file"]).name
