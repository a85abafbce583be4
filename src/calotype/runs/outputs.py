"""Results of a run on disk: the clip or picture, a contact sheet of a clip, each with the run's parameters in its metadata."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calotype.core.errors import CalotypeError
from calotype.core.types import Image, Mask, Video
from calotype.data import contact_sheet
from calotype.runs.hashing import file_digest
from calotype.runs.record import Record

Result = Image | Mask | Video


def named_results(value: Any) -> dict[str, Result]:
    """What a method returned, by name: one result is called "result", several keep their names.

    Raises:
        CalotypeError: there is nothing among it that can be saved.
    """
    if isinstance(value, Image | Mask | Video):
        return {"result": value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        found = {str(name): item for name, item in value.items() if isinstance(item, Image | Mask | Video)}
        if found:
            return found
    raise CalotypeError(f"the method returned a {type(value).__name__}; a run saves an Image, a Mask, a Video or several of them by name")


def save(folder: Path, results: Mapping[str, Result], record: Record) -> dict[str, dict[str, Any]]:
    """Write every result, replacing those of an earlier session of the same run.

    Returns:
        The record's entries by name; a clip has its contact sheet beside it.
    """
    entries: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        told = describe(name, result)
        metadata = record.embedded(told)
        if isinstance(result, Video):
            _write(folder, f"{name}.mp4", result, metadata, name, told, entries)
            sheet_name = "contact-sheet" if name == "result" else f"{name}-contact-sheet"
            sheet = contact_sheet(result)
            _write(folder, f"{sheet_name}.png", sheet, metadata, sheet_name, describe(sheet_name, sheet), entries)
        else:
            _write(folder, f"{name}.png", result, metadata, name, told, entries)
    return entries


def describe(name: str, result: Result) -> dict[str, Any]:
    """Name, shape and the hash of the values, which tells whether two results are bit for bit the same."""
    values = result.frames if isinstance(result, Video) else result.pixels if isinstance(result, Image) else result.values
    array = np.ascontiguousarray(values.detach().cpu().numpy())
    told: dict[str, Any] = {"name": name, "pixels_sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    told["height"], told["width"] = (int(side) for side in array.shape[-2:])
    if isinstance(result, Video):
        told["frames"], told["fps"] = int(array.shape[0]), float(result.fps)
    return told


def _write(
    folder: Path,
    file: str,
    result: Result,
    metadata: Mapping[str, str],
    name: str,
    told: Mapping[str, Any],
    entries: dict[str, dict[str, Any]],
) -> None:
    result.save(folder / file, metadata=metadata, overwrite=True)
    entries[name] = {**told, "file": file, "sha256": file_digest(folder / file)}
