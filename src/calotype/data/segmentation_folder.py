"""Pictures with label masks: a folder of pairs, checked as a whole and split by patient, its writer, and the same rows from tensors.

```text
my-slides/
  images/a.png ...      PNG, JPEG, TIFF (also 16 bits), NIfTI or DICOM slices, or NIfTI volumes
  masks/a.png ...       one whole number a class: grey levels, a palette's numbers, or NIfTI; the lowest is the background
  table.csv             optional: stem, patient, split, and any other columns
```
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as Pillow
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.folders import FolderData, Sample, check_folder, held_out_groups, left_aside, name_columns, ways_to_name
from calotype.data.raw import MOST_VALUES, Intensity, percentile_window, read_labels, read_raw
from calotype.data.segmentation_files import (
    ALONE,
    IMAGES,
    MASKS,
    conversions,
    image_problems,
    listed,
    mask_problems,
    size_of,
    values_of,
)
from calotype.data.segmentation_files import told_size as told_size
from calotype.data.tables import read_columns
from calotype.errors import DataError, InputError
from calotype.imaging.files import new_folder

_SAMPLED = 64
"""Files that the range of intensities is read from."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RawFolder(FolderData):
    """What folders with masks and without share: depth, channels and sides of their pictures."""

    intensity: Intensity
    """How the files' numbers become [0, 1]."""
    notes: tuple[str, ...] = ()
    """What is no problem but should be known: pictures that were converted, files that were left aside, missing patients."""

    @property
    def channels(self) -> int:
        """Of a picture: 1 or 3."""
        return self.content[0].files["image"].metadata["channels"]

    @property
    def spatial_dims(self) -> int:
        """2 of pictures and slices, 3 of volumes."""
        return len(size_of(self.content[0], "image"))

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Each picture's sides."""
        return tuple(size_of(row, "image") for row in self.content)

    @property
    def patients(self) -> tuple[str, ...]:
        """Each row's patient; its own stem where the table names none."""
        return tuple(row.group for row in self.content)

    def columns(self, name: str) -> list[str]:
        """A column of the table, row by row; "" where it says nothing.

        Raises:
            InputError: no row has it.
        """
        told = read_columns(self.root, ways_to_name({row.stem: [row.files["image"].path] for row in self.content}), name_columns("image"))
        found = [told.get(row.stem, {}).get(name.lower(), "") for row in self.content]
        if not any(found):
            raise InputError(f"data: {self.root} has no table with a column {name}")
        return found

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"intensity": self.intensity.to_json()}

    def read(self, row: Sample) -> dict[str, Tensor]:
        return {"image": self.intensity.to_unit(read_raw(self.path(row, "image"), name="data"))}


@dataclass(frozen=True, eq=False, kw_only=True)
class UnlabelledFolder(RawFolder):
    """Pictures alone: `image` [C, *sides] float32 in [0, 1]."""

    @staticmethod
    def open(
        folder: str | os.PathLike[str],
        *,
        intensity: tuple[float, float] | None = None,
        size_at_least: Sequence[int] | None = None,
        manifest: Path | None = None,
        events: Events = SILENT,
    ) -> UnlabelledFolder:
        """Check a folder of pictures, in `images/` or in itself, with an optional `table.csv`; see `SegmentationFolder.open`."""
        root, rows = check_folder(
            folder, [ALONE], manifest=manifest, captions=False, also=lambda rows: image_problems(rows, size_at_least), events=events
        )
        notes = [*conversions(root, rows), *left_aside(root, [ALONE])]
        _say(notes, events)
        return UnlabelledFolder(root=root, content=rows, intensity=_rule(root, rows, intensity, events), notes=tuple(notes))


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationFolder(RawFolder):
    """Pictures and label masks: `image` [C, *sides] float32 in [0, 1], `mask` [*sides] int64 class numbers."""

    class_values: tuple[int, ...]
    """Each class's value in the masks' files; the first is the background."""
    merged: bool = False
    """Whether all classes but the background are one."""

    @staticmethod
    def open(
        folder: str | os.PathLike[str],
        *,
        classes: Sequence[int] | None = None,
        merge: bool = False,
        intensity: tuple[float, float] | None = None,
        empty_masks: bool = False,
        size_at_least: Sequence[int] | None = None,
        manifest: Path | None = None,
        events: Events = SILENT,
    ) -> SegmentationFolder:
        """Check a folder of pairs as a whole.

        Args:
            folder: with `images/` and `masks/`, whose files belong together by their stems, and an optional `table.csv` (see
                `calotype.data.tables`): `patient` (rows of one patient never go to two splits), `split`, and any other columns.
            classes: the masks' values in the order of the classes, the background first. By default all values that occur, ascending; a
                note lists them.
            merge: make one class of all but the background, whatever their values, such as those of numbered objects.
            intensity: the numbers of a file that are 0 and 1. By default 0 and 255 of 8 bits, else the range of all files without the
                outermost thousandths; a note says it.
            empty_masks: take masks without foreground, which are problems otherwise.
            size_at_least: sides that each picture must have.
            manifest: file of what is known of them, outside of the folder; it saves reading them again.
            events: hears how far the check is, and notes; may cancel it.

        Raises:
            DataError: problems of any kind; it has a line for each.
            InputError: no such folder, or classes that are none.

        Example:
            >>> import tempfile
            >>> home = Path(tempfile.mkdtemp()) / "data"
            >>> rows = [Pair(f"p{i}_a", torch.rand(1, 20, 24), (torch.rand(20, 24) > 0.5).long(), {"patient": f"p{i}"}) for i in range(3)]
            >>> data = SegmentationFolder.open(write_segmentation(home, rows))
            >>> data.class_values, data.channels, data.patients, data.rows([0, 2])["mask"].shape
            ((0, 255), 1, ('p0', 'p1', 'p2'), torch.Size([2, 20, 24]))
        """
        if classes is not None and (len(set(classes)) != len(classes) or len(classes) < 2 or min(classes) < 0):
            raise InputError(f"classes are {tuple(classes)}; give two or more different values, the background first, such as 0 255")

        def problems(rows: Sequence[Sample]) -> list[str]:
            return image_problems(rows, size_at_least) + mask_problems(rows, classes, merge=merge, empty=empty_masks)

        root, rows = check_folder(folder, [IMAGES, MASKS], manifest=manifest, captions=False, also=problems, events=events)
        found = tuple(classes) if classes is not None else tuple(sorted({value for row in rows for value in values_of(row)}))
        if len(found) < 2 or (len(found) > MOST_VALUES and not merge):
            told = f"data: the masks of {root} hold {len(found)} different values ({listed(found)})"
            raise DataError(f"{told}; 2 to {MOST_VALUES} classes are expected: name them with classes", [told])
        if classes is None:
            events.note(
                f"data: the masks' values are {listed(found, 8 if merge else MOST_VALUES)}; {found[0]} is the background"
                f"{', all others are one class' if merge else ''}"
            )
        notes = [*_patients(rows), *conversions(root, rows), *left_aside(root, [IMAGES, MASKS])]
        _say(notes, events)
        rule = _rule(root, rows, intensity, events)
        return SegmentationFolder(root=root, content=rows, intensity=rule, class_values=found, merged=merge, notes=tuple(notes))

    @property
    def num_classes(self) -> int:
        """With the background."""
        return 2 if self.merged else len(self.class_values)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**super().settings, "class_values": list(self.class_values), "merged": self.merged}

    def read(self, row: Sample) -> dict[str, Tensor]:
        labels = read_labels(self.path(row, "mask"), name="data")
        if self.merged:
            numbers = (labels != self.class_values[0]).astype(np.int64)
        else:
            order = np.argsort(self.class_values)
            numbers = order[np.searchsorted(np.array(self.class_values)[order], labels)]
        return {**super().read(row), "mask": torch.from_numpy(numbers)}


def _say(notes: Iterable[str], events: Events) -> None:
    for note in notes:
        events.note(f"data: {note}")


def _patients(rows: Sequence[Sample]) -> list[str]:
    """A line where no table, or not all of it, says which pictures are of one patient."""
    alone = sum(row.group == row.stem for row in rows)
    if alone == len(rows):
        return ["no table.csv says which pictures are of one patient; each counts as a patient, so one patient's may be on both sides"]
    return [f"{alone} of {len(rows)} pictures have no patient in the tables; each of them counts as a patient"] if alone else []


def _rule(root: Path, rows: Sequence[Sample], given: tuple[float, float] | None, events: Events) -> Intensity:
    """The rule of a checked folder's intensities."""
    depth: Any = rows[0].files["image"].metadata["depth"]
    if given is not None:
        return Intensity(depth, *given)
    if depth == 8:
        return Intensity(depth, 0, 255)
    some = rows[:: max(1, len(rows) // _SAMPLED)]
    low, high = percentile_window(read_raw(root / row.files["image"].path, name="data").values for row in some)
    if low >= high:
        told = f"data: nearly all numbers of the pictures in {root} are {low:g}, so that they have no range"
        raise DataError(f"{told}; give the two numbers that become 0 and 1 (intensity)", [told])
    events.note(
        f"data: intensities from {low:g} to {high:g} become 0 to 1 (all but the outermost thousandths); give others if you know them"
    )
    return Intensity(depth, low, high)


@dataclass(frozen=True, eq=False)
class Pair:
    """A row to write: a picture [C, *sides] in [0, 1], its mask [*sides] of class numbers, and what the table says of it."""

    stem: str
    image: Float[Tensor, channels * sides]
    mask: Int[Tensor, "*sides"]
    columns: Mapping[str, str | float] = field(default_factory=dict)


def write_segmentation(
    folder: str | os.PathLike[str], rows: Iterable[Pair], *, class_values: Sequence[int] = (0, 255), depth: int = 8
) -> Path:
    """Write a folder that `SegmentationFolder.open` reads: PNG pairs and `table.csv`, whole or not at all.

    Args:
        folder: to make.
        rows: one at a time; memory holds one.
        class_values: each class's value in the masks.
        depth: bits of a sample, 8, or 16 of grey pictures.

    Raises:
        InputError: the folder is there and holds files, a stem is there twice, or colour in 16 bits.
    """
    target = Path(folder).expanduser()
    values = np.array(class_values)
    with new_folder(target) as making:
        told: list[dict[str, str | float]] = []
        for row in rows:
            image, mask = (making / part / f"{row.stem}.png" for part in ("images", "masks"))
            if image.exists():
                raise InputError(f"{row.stem} is there twice; give every row a stem of its own")
            if depth == 16 and row.image.shape[0] != 1:
                raise InputError(f"{row.stem} has {row.image.shape[0]} channels; 16 bits are written of grey pictures")
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            save_samples(row.image, image, depth)
            labels = values[row.mask.cpu().numpy()]
            Pillow.fromarray(labels.astype(np.uint8 if values.max() < 256 else np.uint16)).save(mask)
            told.append({"file_name": f"images/{row.stem}.png", **row.columns})
        columns = list(dict.fromkeys(name for line in told for name in line))
        with (making / "table.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(told)
    return target


def save_samples(image: Float[Tensor, "channels height width"], path: Path, depth: int = 8) -> None:
    """A picture in [0, 1] as PNG of 8 bits, grey or colour, or of 16 bits, grey."""
    kind = np.uint16 if depth == 16 else np.uint8
    levels = np.rint(image.detach().cpu().clamp(0, 1).numpy() * np.iinfo(kind).max).astype(kind)
    Pillow.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))).save(path)


@dataclass(frozen=True, eq=False)
class SegmentationTensors:
    """The same rows from tensors: `images` [N, C, *sides] in [0, 1], `masks` [N, *sides] class numbers, and each row's patient."""

    images: Float[Tensor, "count channels *sides"]
    masks: Int[Tensor, count * sides]
    patients: tuple[str, ...]
    class_values: tuple[int, ...] = (0, 255)
    intensity: Intensity = field(default_factory=lambda: Intensity(8, 0, 255))

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.masks) == len(self.patients) > 0 or self.images.shape[2:] != self.masks.shape[1:]:
            raise InputError(
                f"images {list(self.images.shape)}, masks {list(self.masks.shape)} and {len(self.patients)} patients don't belong together"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Of a picture."""
        return int(self.images.shape[1])

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.images.ndim - 2

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.class_values)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Each picture's sides."""
        return (tuple(self.images.shape[2:]),) * len(self)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything."""
        total = hashlib.sha256(json.dumps([self.patients, self.class_values, list(self.images.shape)]).encode())
        for tensor in (self.images, self.masks):
            total.update(tensor.contiguous().numpy().tobytes())
        return total.hexdigest()

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """`image` and `mask` of these numbers."""
        return {"image": self.images[list(indices)], "mask": self.masks[list(indices)]}

    def split(self, share: float, seed: int = 0) -> tuple[Self, Self]:
        """Rows to train on and held-out ones, by patient.

        Raises:
            InputError: fewer than two patients.
        """
        groups = set(self.patients)
        if len(groups) < 2:
            raise InputError(f"data: there is {len(groups)} patient; two are needed, one of them to measure on")
        held = held_out_groups(groups, share, seed)
        train, out = ([place for place, group in enumerate(self.patients) if (group in held) is side] for side in (False, True))
        return self._part(train), self._part(out)

    def _part(self, places: list[int]) -> Self:
        return replace(self, images=self.images[places], masks=self.masks[places], patients=tuple(self.patients[place] for place in places))
