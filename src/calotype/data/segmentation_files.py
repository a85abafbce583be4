"""Files of pictures and label masks: what is looked at in each, and which problems that shows before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from calotype.core.events import Events
from calotype.data.folders import FilePart, Sample
from calotype.data.manifest import Inspection
from calotype.data.picture_folder import PICTURE_SUFFIXES
from calotype.data.raw import MOST_VALUES, depth_words, labels_on_grid, read_raw
from calotype.imaging.files import file_suffix
from calotype.imaging.types import Volume

NIFTI_SUFFIXES = frozenset((".nii", ".nii.gz"))
SUFFIXES = PICTURE_SUFFIXES | NIFTI_SUFFIXES | {".dcm", ".ima"}
_SIDES = ("side_0", "side_1", "side_2")
_VALUES = tuple(f"value_{number:02d}" for number in range(MOST_VALUES))
_CORNERS = tuple(f"corner_{number:02d}" for number in range(12))
_HALF = 500_000_000
"""What a place in micrometres is counted from in a manifest, whose numbers are 0 or more."""
_APART = 0.1
"""By how much of a voxel two grids may differ."""
_BLURRED = 8
"""Values so near to 0 or 255 are these, blurred by a lossy file."""
_SMOOTHED = 4
"""So many values that lie along edges only come from smoothing."""


def told_size(sides: Sequence[int]) -> str:
    """
    >>> told_size((20, 30)), told_size((4, 5, 6))
    ('30x20', '4x5x6')
    """
    return "x".join(str(side) for side in (sides[::-1] if len(sides) == 2 else sides))


def listed(values: Iterable[int | str], most: int = 6) -> str:
    """
    >>> listed([3, 5]), listed(range(9), 3)
    ('3, 5', '0, 1, 2 and 6 more')
    """
    found = list(values)
    return ", ".join(map(str, found[:most])) + (f" and {len(found) - most} more" if len(found) > most else "")


def size_of(row: Sample, part: str) -> tuple[int, ...]:
    """Sides of a row's image or mask."""
    return tuple(side for side in (row.files[part].metadata[name] for name in _SIDES) if side)


def values_of(row: Sample) -> list[int]:
    """Different values of a row's mask, ascending; the first `MOST_VALUES` of them."""
    return [row.files["mask"].metadata[name] - 1 for name in _VALUES if row.files["mask"].metadata[name]]


def _sides(values: Sequence[int]) -> dict[str, int]:
    """A size as the manifest keeps it; 0 for the third side of a picture."""
    return dict(zip(_SIDES, (*values, 0)[:3], strict=True))


def _corners(grid: Volume | None) -> dict[str, int]:
    """Where four corners of a grid lie; zeros where there is none."""
    if grid is None:
        return dict.fromkeys(_CORNERS, 0)
    last = np.array(grid.values.shape) - 1
    voxels = np.vstack([np.zeros(3), np.diag(last)])
    affine = grid.affine.double().numpy()
    places = voxels @ affine[:3, :3].T + affine[:3, 3]
    return dict(zip(_CORNERS, (int(place) for place in np.rint(places.ravel() * 1000) + _HALF), strict=True))


def _smoothed(labels: Int[np.ndarray, "*sides"]) -> int:
    """How many values lie along edges only: none of their cells has equal neighbours on all sides. 0 where that can be no smoothing."""
    inner = tuple(slice(1, -1) for _ in labels.shape)
    same = np.ones(tuple(max(side - 2, 0) for side in labels.shape), dtype=bool)
    for axis in range(labels.ndim):
        for shift in (slice(None, -2), slice(2, None)):
            same &= labels[(*inner[:axis], shift, *inner[axis + 1 :])] == labels[inner]
    solid, values = np.unique(labels[inner][same]), np.unique(labels)
    if len(values) <= MOST_VALUES and not {values[0], values[-1]} <= set(solid):
        return 0
    return len(values) - len(solid)


class _Heard(Events):
    """Keeps what a reader notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        """Keep it."""
        self.notes.append(message)


def _look_at_image(path: Path) -> Mapping[str, int]:
    heard = _Heard()
    raw = read_raw(path, name="file", events=heard)
    return {
        "channels": raw.channels, "depth": raw.depth, "converted": len(heard.notes), "grid": int(file_suffix(path) in NIFTI_SUFFIXES),
        **_sides(raw.sides), **_corners(raw.volume),
    }  # fmt: skip


def _look_at_mask(path: Path) -> Mapping[str, int]:
    labels, grid = labels_on_grid(path, name="file")
    values = np.unique(labels)
    kept = [int(value) + 1 for value in values[:MOST_VALUES]] + [0] * MOST_VALUES
    return {
        "distinct": len(values), "smoothed": _smoothed(labels) if len(values) > 3 else 0, "grid": int(file_suffix(path) in NIFTI_SUFFIXES),
        **_sides(labels.shape), **_corners(grid), **dict(zip(_VALUES, kept, strict=False)),
    }  # fmt: skip


IMAGES = FilePart(
    "image", ("images",), SUFFIXES, Inspection(_look_at_image, frozenset(("channels", "depth", "converted", "grid", *_SIDES, *_CORNERS)))
)
MASKS = FilePart(
    "mask", ("masks",), SUFFIXES, Inspection(_look_at_mask, frozenset(("distinct", "smoothed", "grid", *_SIDES, *_CORNERS, *_VALUES)))
)
ALONE = replace(IMAGES, folders=("images", "pictures", ""))


def conversions(root: Path, rows: Sequence[Sample]) -> list[str]:
    """A line for pictures whose reader noted something, with what it noted of the first of them."""
    some = [row.files["image"].path for row in rows if row.files["image"].metadata["converted"]]
    if not some:
        return []
    heard = _Heard()
    read_raw(root / some[0], name="it", events=heard)
    told = "; ".join(note.removeprefix("it: ") for note in heard.notes)
    return [f"{some[0]}{f' and {len(some) - 1} more' if len(some) > 1 else ''}: {told}"]


def image_problems(rows: Sequence[Sample], least: Sequence[int] | None) -> list[str]:
    """Pictures that differ from the others in channels, depth or number of axes, or that are too small."""
    problems = []
    small = [row for row in rows if least is not None and _smaller(size_of(row, "image"), least)]
    if least is not None and 1 < len(small) == len(rows):
        told = f"all {len(rows)} pictures are smaller than the window of {told_size(least)}"
        smallest = told_size(min((size_of(row, "image") for row in rows), key=min))
        problems.append(f"{told}, such as {smallest}; take a smaller window")
        small = []
    kinds = [(row.files["image"].metadata["channels"], row.files["image"].metadata["depth"], len(size_of(row, "image"))) for row in rows]
    usual = Counter(kinds).most_common(1)[0][0] if kinds else (1, 8, 2)
    for row, kind in zip(rows, kinds, strict=True):
        path = row.files["image"].path
        if kind[0] != usual[0]:
            problems.append(f"{path}: {kind[0]} channels, the others have {usual[0]}; save all in grey or all in colour")
        if kind[1] != usual[1]:
            problems.append(f"{path}: {depth_words(kind[1])}, the others have {depth_words(usual[1])}; save all alike")
        if kind[2] != usual[2]:
            problems.append(f"{path}: {kind[2]} axes, the others have {usual[2]}; give slices or volumes, not both")
        if least is not None and row in small:
            told = f"{path}: {told_size(size_of(row, 'image'))}, smaller than the window of {told_size(least)}"
            problems.append(f"{told}; take a smaller window, or leave it out")
    return problems


def _smaller(sides: Sequence[int], least: Sequence[int]) -> bool:
    return len(least) == len(sides) and any(side < want for side, want in zip(sides, least, strict=True))


def mask_problems(rows: Sequence[Sample], classes: Sequence[int] | None, *, merge: bool, empty: bool) -> list[str]:
    """Pairs that don't fit, and masks that are no label maps."""
    problems = []
    if classes is not None and not merge and rows:
        unknown = {frozenset(values_of(row)) - {*classes} for row in rows}
        if len(rows) > 1 and len(unknown) == 1 and (found := sorted(*unknown)):
            problems.append(f"all {len(rows)} masks have values that are no class ({listed(found)}); the classes are {listed(classes)}")
            classes = None
    background = min((min(values_of(row)) for row in rows), default=0) if classes is None else classes[0]
    for row in rows:
        mask, values = row.files["mask"], values_of(row)
        told = _unfit(row) or _no_labels(row, None if merge else classes, counted=not merge)
        if told:
            problems.append(f"{mask.path}: {told}")
        if values == [background] and not empty:
            problems.append(f"{mask.path}: no foreground, all of it is {background}; leave it out, or take such masks too (empty_masks)")
    if classes is None and not merge and not problems:
        problems += _two_ways(rows)
    return problems


def _unfit(row: Sample) -> str:
    """Why a mask doesn't lie on its image."""
    image, mask = row.files["image"], row.files["mask"]
    if image.metadata["grid"] != mask.metadata["grid"]:
        return "a NIfTI file and a picture order their axes in two ways; save image and mask in one format"
    if size_of(row, "image") != size_of(row, "mask"):
        return f"{told_size(size_of(row, 'mask'))}, its image has {told_size(size_of(row, 'image'))}; they must be equal"
    here, there = (np.array([part.metadata[name] for name in _CORNERS]).reshape(4, 3) / 1000 for part in (image, mask))
    if not (here.any() and there.any()):
        return ""
    voxels = [
        np.linalg.norm(end - here[0]) / (side - 1) for end, side in zip(here[1:], (*size_of(row, "image"), 1), strict=False) if side > 1
    ]
    apart = float(np.linalg.norm(here - there, axis=1).max())
    if apart > _APART * min(voxels, default=1.0):
        return f"it lies up to {apart:.3g} mm beside its image (their affines differ); resample it onto the image's grid"
    return ""


def _no_labels(row: Sample, classes: Sequence[int] | None, *, counted: bool) -> str:
    """Why a mask's values are no classes."""
    values, distinct, smoothed = values_of(row), row.files["mask"].metadata["distinct"], row.files["mask"].metadata["smoothed"]
    if classes is None and smoothed >= _SMOOTHED and 2 * smoothed > distinct:
        told = f"{distinct} different values, {smoothed} of them only along edges or in single pixels (is it smoothed, or no mask?)"
        return f"{told}; save one whole number a class"
    if distinct > MOST_VALUES:
        told = f"{distinct} different values; a mask has one whole number a class (merge makes one class of numbered objects)"
        return told if counted else ""
    if classes is not None:
        unknown = [value for value in values if value not in classes]
        return f"the values {listed(unknown)} are no class; the classes are {listed(classes)}" if unknown else ""
    near = [value for value in values if value not in (0, 255) and (value <= _BLURRED or 255 - _BLURRED <= value < 255)]
    if 0 in values and 255 in values and len(near) == len(values) - 2 > 0:
        return f"the values {listed(near)} beside 0 and 255 look like a lossy file's; save it as PNG of two values, or name the classes"
    return ""


def _two_ways(rows: Sequence[Sample]) -> list[str]:
    """Masks of two values that mark the foreground by 1 in some files and by 255 in others."""
    one, full = ([row.files["mask"].path for row in rows if values_of(row)[-1] == value] for value in (1, 255))
    if not (one and full) or any(set(values_of(row)) - {0, value} for row in rows for value in values_of(row)[-1:]):
        return []
    few, value, others = min((one, 1, 255), (full, 255, 1), key=lambda found: len(found[0]))
    return [f"{path}: its foreground is {value}, the others' {others}; save all alike, merge them, or name the classes" for path in few]
