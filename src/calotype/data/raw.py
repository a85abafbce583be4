"""Pictures, slices and volumes as numbers: in the file's own depth, with a rule that maps them to [0, 1]; and label masks as they are.

`calotype.data.images` reads pictures to be looked at, in 8-bit sRGB. What is segmented keeps its 16 bits, its Hounsfield units and its
number of channels, and a mask keeps each class's value.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as Pillow
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.core.untrusted import mapping
from calotype.data.dicom import read_slice
from calotype.data.files import plain_file
from calotype.data.images import decoded, png_bit_depth, upright
from calotype.data.tiff import read_float_tiff
from calotype.data.volumes import read_volume
from calotype.errors import InputError
from calotype.imaging.nifti import is_nifti
from calotype.imaging.types import Volume

Depth = Literal[8, 16, 0]
"""Bits of a sample, or 0 where the numbers have a unit of their own (NIfTI, DICOM, float TIFF)."""
_JPEG = frozenset((".jpg", ".jpeg", ".jpe", ".jfif"))
MOST_VALUES = 32
"""Most different values of a mask."""
_COUNTED = 1 << 18
"""Numbers of a file, about, that its range is read from."""


@dataclass(frozen=True, eq=False)
class Raw:
    """A picture or a volume as its file has it."""

    values: Float[np.ndarray, channels * sides]
    """float32, unscaled. Sides are [height, width], or [x, y] and [x, y, z] of NIfTI."""
    depth: Depth
    volume: Volume | None = None
    """The NIfTI or DICOM file's grid, with a single slice as its last axis."""

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.values.shape[0])

    @property
    def sides(self) -> tuple[int, ...]:
        """Two or three."""
        return tuple(int(side) for side in self.values.shape[1:])


@dataclass(frozen=True)
class Intensity:
    """How a file's numbers become [0, 1]: `low` is 0 and `high` is 1, what lies outside is cut.

    Example:
        >>> Intensity(8, 0, 255).apply(np.array([[[0.0, 51.0, 255.0]]], dtype=np.float32)).tolist()
        [[[0.0, 0.20000000298023224, 1.0]]]
        >>> Intensity.of_json(Intensity(0, -160, 240).to_json())
        Intensity(depth=0, low=-160.0, high=240.0)
    """

    depth: Depth
    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        if self.depth not in (8, 16, 0) or not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise InputError(f"the intensities run from {self.low:g} to {self.high:g}; the first number must be below the second")

    def apply(self, values: Float[np.ndarray, channels * sides]) -> Float[Tensor, channels * sides]:
        """The numbers in [0, 1], float32."""
        unit = (np.asarray(values, dtype=np.float32) - np.float32(self.low)) / np.float32(self.high - self.low)
        return torch.from_numpy(np.clip(unit, 0.0, 1.0).astype(np.float32))

    def restore(self, unit: Float[Tensor, channels * sides]) -> Float[np.ndarray, channels * sides]:
        """The file's numbers again, rounded to whole ones where it has bits."""
        values: np.ndarray = unit.detach().cpu().numpy().astype(np.float64) * (self.high - self.low) + self.low
        return np.rint(values) if self.depth else values

    def to_unit(self, raw: Raw, name: str = "image") -> Float[Tensor, channels * sides]:
        """A file in [0, 1].

        Raises:
            InputError: it has another depth than the rule is for.
        """
        if raw.depth != self.depth:
            raise InputError(
                f"{name}: it has {depth_words(raw.depth)}, and the intensities {self.low:g} to {self.high:g} are those of "
                f"{depth_words(self.depth)}; save it like the pictures that were trained on"
            )
        return self.apply(raw.values)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's file."""
        return {"depth": self.depth, "low": self.low, "high": self.high}

    @classmethod
    def of_json(cls, entry: Mapping[str, Any], name: str = "intensity") -> Intensity:
        """The rule of `to_json`.

        Raises:
            InputError: it is none.
        """
        found = mapping(entry, name)
        try:
            return cls(found["depth"], float(found["low"]), float(found["high"]))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{name}: {found} is no rule of intensities; depth, low and high are expected") from None


def depth_words(depth: int) -> str:
    """
    >>> depth_words(16), depth_words(0)
    ('16 bits a sample', 'numbers of a unit of their own')
    """
    return f"{depth} bits a sample" if depth else "numbers of a unit of their own"


def read_raw(path: str | os.PathLike[str], *, name: str = "image", events: Events = SILENT) -> Raw:
    """One picture, slice or volume in its own depth.

    Args:
        path: PNG, JPEG, WebP, TIFF, BMP and the like (grey or colour; 16 bits where they are grey), float TIFF, NIfTI of a slice or a
            volume, or a DICOM file of one slice.
        name: what messages call it.
        events: hears a note for what was converted.

    Raises:
        InputError: the file is refused.
        MissingError: the package that reads it is not installed.
    """
    source = plain_file(path, name)
    if is_nifti(source):
        volume = read_volume(source, name=name, flat=True, events=events)
        values = volume.to_numpy()
        return Raw(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values)[None], 0, volume)
    if _is_dicom(source):
        rows, placed = read_slice(source, name=name)
        return Raw(rows[None], 0, placed)
    with decoded(source, name) as picture:
        if picture is None:
            values = read_float_tiff(source, name)[..., :3].transpose(2, 0, 1)
            _refuse_nan(values, name)
            return Raw(np.ascontiguousarray(values), 0)
        turned = upright(picture)
        pages = int(getattr(picture, "n_frames", 1))
        if pages > 1 and picture.format == "TIFF":
            raise InputError(f"{name}: {source} holds {pages} pages; save each as a file of its own")
        if pages > 1 and picture.format != "MPO":
            events.note(f"{name}: it is animated, its first frame is used")
        if picture.format == "PNG" and turned.mode in ("RGB", "RGBA", "LA") and png_bit_depth(source) == 16:
            events.note(f"{name}: its colours have 16 bits a channel, of which 8 are read")
        if turned.mode.startswith("I") or turned.mode == "F":
            grey = np.asarray(turned).astype(np.float32)
            _refuse_nan(grey, name)
            return Raw(grey[None], 0 if turned.mode == "F" or grey.max(initial=0) > 65535 or grey.min(initial=0) < 0 else 16)
        if turned.mode in ("1", "L"):
            return Raw(np.asarray(turned.convert("L")).astype(np.float32)[None], 8)
        if turned.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in turned.info:
            whole = turned.convert("RGBA")
            if np.asarray(whole.getchannel("A")).min() < 255:
                events.note(f"{name}: its transparency was laid over white")
                whole = Pillow.alpha_composite(Pillow.new("RGBA", whole.size, (255, 255, 255, 255)), whole)
            turned = whole.convert("L" if turned.mode in ("LA", "La") else "RGB")
        else:
            turned = turned.convert("RGB")
        array = np.asarray(turned).astype(np.float32)
        return Raw(np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1)), 8)


def read_labels(path: str | os.PathLike[str], *, name: str = "mask") -> Int[np.ndarray, "*sides"]:
    """The values of a label mask: grey levels, a palette's numbers, or whole numbers of NIfTI and DICOM.

    Raises:
        InputError: a JPEG, colours, transparency that varies, fractions, or a file that can't be read.
    """
    return labels_on_grid(path, name=name)[0]


def labels_on_grid(path: str | os.PathLike[str], *, name: str = "mask") -> tuple[Int[np.ndarray, "*sides"], Volume | None]:
    """`read_labels`, and the file's grid where it has one."""
    source = plain_file(path, name)
    if source.suffix.lower() in _JPEG:
        raise InputError(f"{name}: {source} is a JPEG, which blurs a mask's values; save masks as PNG")
    grid = None
    if is_nifti(source) or _is_dicom(source):
        raw = read_raw(source, name=name)
        values, grid = raw.values[0], raw.volume
    else:
        with decoded(source, name) as picture:
            if picture is None:
                raise InputError(f"{name}: {source} has fractions in several channels; save one whole number a pixel")
            turned = upright(picture)
            if "A" in turned.getbands() and np.asarray(turned.getchannel("A")).min() < 255:
                raise InputError(f"{name}: {source} has transparency, which can be read two ways; save one grey value a class")
            if turned.mode in ("RGB", "RGBA"):
                colours = np.asarray(turned)[..., :3]
                if not (colours == colours[..., :1]).all():
                    raise InputError(f"{name}: {source} holds colours; save one grey value or palette number a class")
                values = colours[..., 0]
            elif turned.mode == "P" or turned.mode == "F" or turned.mode.startswith("I"):
                values = np.asarray(turned)
            else:
                values = np.asarray(turned.convert("L"))
    whole = np.rint(values)
    if not np.isfinite(values).all() or np.abs(values - whole).max(initial=0) > 1e-3:
        raise InputError(f"{name}: {source} holds fractions; a mask has one whole number a class (cut a probability at a threshold first)")
    if whole.min(initial=0) < 0:
        raise InputError(f"{name}: {source} holds {int(whole.min())}; a mask's values are 0 or more")
    return whole.astype(np.int64), grid


def percentile_window(values: Iterable[np.ndarray], share: float = 0.001) -> tuple[float, float]:
    """The range of numbers that leaves out `share` of them at each end; of large arrays, evenly spaced numbers count.

    Example:
        >>> percentile_window([np.arange(1001.0)])
        (1.0, 999.0)
    """
    some = np.concatenate([part.ravel()[:: 1 + part.size // _COUNTED] for part in values])
    low, high = np.quantile(some, [share, 1 - share])
    return float(f"{low:.4g}"), float(f"{high:.4g}")


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _refuse_nan(values: np.ndarray, name: str) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(f"{name}: {bad} of its values are NaN or infinite; replace them first")
