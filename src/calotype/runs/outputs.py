"""Results of a run on disk, and a picture of what is none itself, with the run's parameters in their metadata where a format has such."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from calotype.errors import CalotypeError
from calotype.runs.artifact import ArtifactKind
from calotype.runs.entries import OutputEntry, Record
from calotype.runs.hashing import path_digest
from calotype.runs.kinds import KINDS, glance_name, is_artifact, kind_of

Result: TypeAlias = Any
"""A value of some kind, see `calotype.runs.kinds`."""


def named_results(value: Any) -> dict[str, Result]:
    """What a method returned, by name: one result is called "result", several keep their names.

    Raises:
        CalotypeError: there is nothing among it that can be saved.
    """
    if is_artifact(value):
        return {"result": value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        found = {str(name): item for name, item in value.items() if is_artifact(item)}
        if found:
            return found
    known = ", ".join(kind.phrase for kind in KINDS.values() if kind.tensors)
    others = ", ".join(kind.name for kind in KINDS.values() if not kind.tensors)
    raise CalotypeError(
        f"the method returned a {type(value).__name__}; a run saves {known}, or several of them by name (and the kinds {others})"
    )


def save(folder: Path, results: Mapping[str, Result], record: Record) -> dict[str, OutputEntry]:
    """Write every result, replacing those of an earlier session of the same run.

    Returns:
        The record's entries by name; a clip has its contact sheet beside it, a volume its three planes.
    """
    entries: dict[str, OutputEntry] = {}
    for name, result in results.items():
        kind = kind_of(result)
        entry = describe(name, result)
        metadata = record.embedded(entry)
        entries[name] = _written(folder, f"{name}{kind.suffix}", kind, result, metadata, entry)
        if kind.show is not None:
            glance, picture = glance_name(kind, name), kind.show(result)
            shown = kind_of(picture)
            entries[glance] = _written(folder, f"{glance}{shown.suffix}", shown, picture, metadata, describe(glance, picture))
    return entries


def describe(name: str, result: Result) -> OutputEntry:
    """Name, kind, facts such as the shape, and the hash of the values, which tells whether two results are bit for bit the same."""
    kind = kind_of(result)
    return cast(OutputEntry, {"name": name, "kind": kind.name, "pixels_sha256": kind.digest(result), **kind.metadata.of(result)})


def _written(folder: Path, file: str, kind: ArtifactKind, result: Result, metadata: Mapping[str, str], entry: OutputEntry) -> OutputEntry:
    kind.write(result, folder / file, metadata)
    return {**entry, "file": file, "sha256": path_digest(folder / file)}
