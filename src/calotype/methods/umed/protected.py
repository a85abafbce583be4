"""The data set that is published, the key that stays at home, and the way back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as Pillow
from torch import Tensor

from calotype.core.artifacts import DatasetFolder
from calotype.core.events import SILENT, Events
from calotype.core.untrusted import mapping, read_json
from calotype.data.folders import name_columns, ways_to_name
from calotype.data.raw import read_labels, read_raw
from calotype.data.segmentation_folder import Pair, SegmentationFolder, write_segmentation
from calotype.data.tables import read_columns
from calotype.errors import InputError
from calotype.imaging.files import write_json

KEY, DIFFERENCES = "key.json", "differences"
_MIDDLE = 1 << 15
"""What no change is in a difference of 16 bits."""

Values = Float[np.ndarray, "channels height width"]


@dataclass(frozen=True, eq=False)
class Change:
    """One picture before and after, as the files' numbers."""

    stem: str
    before: Values
    after: Values
    mask: Int[Tensor, "height width"]
    depth: int

    @property
    def levels(self) -> Values:
        """What was added."""
        levels: Values = self.after - self.before
        return levels

    def unit(self, values: Values) -> Float[Tensor, "channels height width"]:
        """Numbers of the file over their largest one."""
        found: Tensor = torch.from_numpy(values.astype(np.float32)) / (2**self.depth - 1)
        return found


def changes(data: SegmentationFolder, draw: Callable[[Tensor, Tensor], Tensor], events: Events = SILENT) -> Iterator[Change]:
    """Every picture with what `draw(image, mask)` adds to it, rounded to the file's levels and cut to its range.

    The budget is in units of the window that the intensities are read with, so that 16 bits change by more levels.
    """
    rule = data.intensity
    for row in data.content:
        raw, pair = read_raw(data.path(row, "image"), name="data"), data.read(row)
        shift = draw(pair["image"], pair["mask"]).numpy() * (rule.high - rule.low)
        after = np.clip(raw.values + np.rint(shift), 0, 2**rule.depth - 1).astype(np.float32)
        yield Change(row.stem, raw.values, after, pair["mask"], rule.depth)
        events.step()
        events.check()


def write_protected(data: SegmentationFolder, changed: Iterator[Change]) -> tuple[DatasetFolder, DatasetFolder]:
    """The protected folder, with the table's columns, and its key; memory holds one picture at a time."""
    protected, key = DatasetFolder.temporary(), DatasetFolder.temporary()
    columns = _columns(data)
    hashes: dict[str, str] = {}

    def pairs() -> Iterator[Pair]:
        for one in changed:
            hashes[one.stem] = _digest(one.before)
            _write_difference(one, key.path / DIFFERENCES / f"{one.stem}.png")
            yield Pair(one.stem, one.unit(one.after), one.mask, columns.get(one.stem, {}))

    values = (data.class_values[0], data.class_values[-1]) if data.merged else data.class_values
    write_segmentation(protected.path, pairs(), class_values=values, depth=data.intensity.depth)
    write_json(key.path / KEY, {"depth": data.intensity.depth, "originals": hashes})
    return protected, key


def restore(data: Path, key: Path, events: Events = SILENT) -> DatasetFolder:
    """The originals, bit for bit in every pixel, from a protected folder and its key.

    Raises:
        InputError: the key is none, or belongs to another folder; a picture was changed since.
    """
    told = mapping(read_json(key / KEY, "give the folder `key` that the protecting run made"), KEY)
    hashes = mapping(told.get("originals"), f"{KEY}: originals")
    folder = SegmentationFolder.open(data, empty_masks=True, events=events)
    stems = {row.stem for row in folder.content}
    if stems != hashes.keys() or told.get("depth") != folder.intensity.depth:
        raise InputError(f"key: {key} is for {len(hashes)} pictures and {data} holds {len(stems)}, or of other names; give its own key")
    columns = _columns(folder)
    made = DatasetFolder.temporary()

    def pairs() -> Iterator[Pair]:
        events.stage("restore", len(folder))
        for row in folder.content:
            raw = read_raw(folder.path(row, "image"), name="data")
            before = raw.values - _read_difference(key / DIFFERENCES / f"{row.stem}.png", raw.values.shape)
            if _digest(before) != hashes[row.stem]:
                raise InputError(f"{row.stem}: the picture was changed since it was protected; take the protected file as it was written")
            labels = torch.from_numpy(read_labels(folder.path(row, "mask"), name="data"))
            order = {value: number for number, value in enumerate(folder.class_values)}
            numbers = labels.clone()
            for value, number in order.items():
                numbers[labels == value] = number
            yield Pair(row.stem, torch.from_numpy(before) / (2**folder.intensity.depth - 1), numbers, columns.get(row.stem, {}))
            events.step()

    write_segmentation(made.path, pairs(), class_values=folder.class_values, depth=folder.intensity.depth)
    return made


def _columns(data: SegmentationFolder) -> Mapping[str, Mapping[str, str]]:
    """The table's columns by stem, without those that name files."""
    named = name_columns("image")
    told = read_columns(data.root, ways_to_name({row.stem: [row.files["image"].path] for row in data.content}), named)
    return {stem: {name: value for name, value in row.items() if name not in named} for stem, row in told.items()}


def _digest(values: Values) -> str:
    """sha256 of a picture's numbers and sides."""
    whole = np.ascontiguousarray(values.astype(np.uint16))
    return hashlib.sha256(json.dumps(whole.shape).encode() + whole.tobytes()).hexdigest()


def _write_difference(one: Change, path: Path) -> None:
    """A grey PNG of 16 bits with the channels one below the other; 32768 is no change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked = (one.levels + _MIDDLE).astype(np.uint16)
    Pillow.fromarray(stacked.reshape(-1, stacked.shape[-1])).save(path)


def _read_difference(path: Path, shape: tuple[int, ...]) -> Values:
    found = read_raw(path, name="key").values
    if found.size != int(np.prod(shape)):
        raise InputError(f"key: {path} is for a picture of another size; give the key that belongs to the folder")
    return found.reshape(shape) - _MIDDLE
