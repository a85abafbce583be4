"""Two runs side by side: in what their settings differ, and in what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.core.events import SILENT
from calotype.errors import InputError, MissingError
from calotype.runs.entries import Record
from calotype.runs.kinds import is_glance, kind_named, kind_of_file
from calotype.runs.record import own_copy, read_record


@dataclass(frozen=True)
class Line:
    """One value of both runs."""

    section: str
    name: str
    left: Any
    right: Any

    @property
    def same(self) -> bool:
        """Whether both runs have it and it is equal."""
        return bool(self.left == self.right)


@dataclass(frozen=True)
class Comparison:
    """All values of two runs."""

    left: str
    right: str
    lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the two names, and every line with whether it is the same."""
        lines = [
            {"section": line.section, "name": line.name, "left": line.left, "right": line.right, "same": line.same} for line in self.lines
        ]
        return {"left": self.left, "right": self.right, "lines": lines}


def compare(left: str | os.PathLike[str], right: str | os.PathLike[str]) -> Comparison:
    """Table the settings, metrics and results of two runs.

    Args:
        left, right: run folders, `run.json` files, or files that a run made.

    Raises:
        InputError: one of them is no run.
    """
    (first, first_folder), (second, second_folder) = _whole_record(left), _whole_record(right)
    lines = []
    for (section, name), pair in _merge(_values(first), _values(second)).items():
        lines.append(Line(section, name, *pair))
    for name in [name for name in first.outputs if name in second.outputs and not is_glance(name)]:
        same = first.outputs[name]["pixels_sha256"] == second.outputs[name]["pixels_sha256"]
        distance = "bit for bit the same" if same else _distance(first, first_folder, second, second_folder, name)
        lines.append(Line("results", name, "reference", distance))
    return Comparison(str(left), str(right), tuple(lines))


def _whole_record(source: str | os.PathLike[str]) -> tuple[Record, Path | None]:
    """The record of a run; for a result that still lies in its run folder, the folder's, which knows the costs, too."""
    record, folder = read_record(source)
    if folder is None or Path(source).suffix == ".json" or Path(source).is_dir():
        return record, folder
    whole, _ = read_record(folder)
    same = (whole.method, whole.parameters, whole.seed, whole.inputs.keys()) == (
        record.method,
        record.parameters,
        record.seed,
        record.inputs.keys(),
    )
    return (whole, folder) if same else (record, None)


def _values(record: Record) -> dict[tuple[str, str], Any]:
    values: dict[tuple[str, str], Any] = {
        ("run", "method"): record.method,
        ("run", "model"): record.model.name,
        ("run", "preset"): record.preset,
        ("run", "seed"): record.seed,
        ("run", "status"): record.status,
    }
    values.update({("run", name): request.name for name, request in record.models.items()})
    for label, found in {"": record.checkpoint, **{f"{name} ": found for name, found in record.checkpoints.items()}}.items():
        if found.get("sha256"):
            values["run", f"{label}checkpoint"] = found["sha256"][:12]
    for name, entry in record.inputs.items():
        values["inputs", name] = f"{entry['name']} ({entry['sha256'][:8]})"
    for section, source in (("parameters", record.parameters), ("arguments", record.arguments), ("metrics", record.metrics)):
        values.update({(section, name): value for name, value in flat(source).items()})
    values.update({("cost", f"seconds, {name}"): value for name, value in record.seconds.items()})
    values.update({("cost", f"peak MB, {name}"): round(value / 2**20) for name, value in record.peak_memory_bytes.items()})
    for name in ("device", "device_name", "threads"):
        if name in record.environment:
            values["machine", name] = record.environment[name]
    values.update({("machine", name): value for name, value in record.environment.get("versions", {}).items()})
    return values


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names.

    Example:
        >>> flat({"steps": 5, "reinject": {"ratio": 0.8}})
        {'steps': 5, 'reinject.ratio': 0.8}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def _merge(left: dict[tuple[str, str], Any], right: dict[tuple[str, str], Any]) -> dict[tuple[str, str], tuple[Any, Any]]:
    order = list(dict.fromkeys([key[0] for key in (*left, *right)]))
    keys = sorted(dict.fromkeys((*left, *right)), key=lambda key: order.index(key[0]))
    return {key: (left.get(key), right.get(key)) for key in keys}


def _distance(first: Record, first_folder: Path | None, second: Record, second_folder: Path | None, name: str) -> str:
    """How far apart two results of one kind are, as far as the files are there."""
    files = first.outputs[name].get("file", ""), second.outputs[name].get("file", "")
    if first_folder is None or second_folder is None or not all(files):
        return "different values"
    places = [own_copy(first_folder, files[0]), own_copy(second_folder, files[1])]
    if places[0] is None or places[1] is None:
        return "different values (a file is gone)"
    names = {entry.outputs[name]["kind"] for entry in (first, second)}
    if len(names) > 1 or len({kind_of_file(place) for place in places if place is not None}) > 1:
        return "different kinds of files"
    try:
        kind = kind_named(names.pop())
    except (InputError, MissingError):
        return "different values"
    there = [place for place in places if place is not None and place.is_file() and place.name.endswith(kind.suffix)]
    if kind.distance is None or len(there) < 2:
        return "different values"
    return kind.distance(*(kind.read(place, name=name, events=SILENT) for place in there))
