"""Results of a run on disk, and a picture of what is none itself, each with the run's parameters in its metadata."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calotype.errors import CalotypeError
from calotype.imaging.types import Video, Volume
from calotype.runs.entries import OutputEntry, Record
from calotype.runs.hashing import file_digest
from calotype.runs.kinds import KINDS, Media, contents, glance_name, kind_of

Result = Media


def named_results(value: Any) -> dict[str, Result]:
    """What a method returned, by name: one result is called "result", several keep their names.

    Raises:
        CalotypeError: there is nothing among it that can be saved.
    """
    if isinstance(value, Media):
        return {"result": value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        found = {str(name): item for name, item in value.items() if isinstance(item, Media)}
        if found:
            return found
    known = ", ".join(kind.phrase for kind in KINDS.values())
    raise CalotypeError(f"the method returned a {type(value).__name__}; a run saves {known}, or several of them by name")


def save(folder: Path, results: Mapping[str, Result], record: Record) -> dict[str, OutputEntry]:
    """Write every result, replacing those of an earlier session of the same run.

    Returns:
        The record's entries by name; a clip has its contact sheet beside it, a volume its three planes.
    """
    entries: dict[str, OutputEntry] = {}
    for name, result in results.items():
        kind = KINDS[kind_of(result)]
        told = describe(name, result)
        metadata = record.embedded(told)
        _write(folder, f"{name}{kind.suffix}", result, metadata, name, told, entries)
        if kind.show is not None:
            glance, picture = glance_name(kind_of(result), name), kind.show(result)
            _write(folder, f"{glance}.png", picture, metadata, glance, describe(glance, picture), entries)
    return entries


def describe(name: str, result: Result) -> OutputEntry:
    """Name, shape and the hash of the values, which tells whether two results are bit for bit the same (of volumes, with their affine)."""
    tensors = contents(result)
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    told: OutputEntry = {"name": name, "pixels_sha256": digest.hexdigest()}
    if isinstance(result, Volume):
        return {**told, "size": list(result.size), "spacing": list(result.spacing), "unit": result.unit}
    told["height"], told["width"] = (int(side) for side in tensors[0].shape[-2:])
    if isinstance(result, Video):
        told["frames"], told["fps"] = len(result), float(result.fps)
    return told


def _write(
    folder: Path,
    file: str,
    result: Result,
    metadata: Mapping[str, str],
    name: str,
    told: OutputEntry,
    entries: dict[str, OutputEntry],
) -> None:
    result.save(folder / file, metadata=metadata, overwrite=True)
    entries[name] = {**told, "file": file, "sha256": file_digest(folder / file)}
