"""A volume at a glance: its axial, coronal and sagittal plane side by side, in true proportions. PIL is imported when it is needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from calotype.imaging.grids import orientation, spacing

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageDraw

PANEL = 256
"""The longest side of the volume in the picture, in pixels."""
_MARGIN = 14
_BAR = (10, 78)
"""Width of the scale of greys, and of the scale with its numbers, in pixels."""
_SAMPLES = 1_000_000
_INK, _GROUND = 255, 0


def three_planes(values: Float32[np.ndarray, "x y z"], affine: Float64[np.ndarray, "4 4"], unit: str = "") -> PIL.Image.Image:
    """The three planes through the middle of what isn't zero, as a grey picture.

    The patient's left is on the left, the front is up or to the right, the head is up, whatever order the array's axes have; an oblique
    volume is shown along its own axes. Voxels are drawn with their true proportions. Greys span the values' 1st to 99th percentile,
    symmetric about zero where values of both signs are common; the scale on the right says which values are black and white.
    """
    from PIL import Image as PILImage
    from PIL import ImageDraw

    turn = orientation(affine)
    array = turn.upright(values)
    sizes = tuple(spacing(affine)[axis] for axis in turn.axes)
    low, high = grey_window(array)
    x, y, z = _middle(array)
    scale = PANEL / max(side * size for side, size in zip(array.shape, sizes, strict=True))
    width, depth, height = (max(1, round(side * size * scale)) for side, size in zip(array.shape, sizes, strict=True))
    panels = (
        (array[:, :, z], (width, depth), ("L", "R")),
        (array[:, y, :], (width, height), ("L", "R")),
        (array[x, :, :], (depth, height), ("P", "A")),
    )
    rows = max(depth, height)
    total = sum(size[0] + 2 * _MARGIN for _, size, _ in panels) + _BAR[1]
    picture = PILImage.new("L", (total, rows + 2 * _MARGIN), _GROUND)
    draw = ImageDraw.Draw(picture)
    left = 0
    for plane, size, (first, last) in panels:
        top = _MARGIN + (rows - size[1]) // 2
        drawn = PILImage.fromarray(_greys(plane.T[::-1], low, high))
        picture.paste(drawn.resize(size, PILImage.Resampling.BILINEAR), (left + _MARGIN, top))
        middle = _MARGIN + rows // 2
        draw.text((left + _MARGIN // 2, middle), first, fill=_INK, anchor="mm")
        draw.text((left + _MARGIN + size[0] + _MARGIN // 2, middle), last, fill=_INK, anchor="mm")
        left += size[0] + 2 * _MARGIN
    _scale(picture, draw, left, rows, (low, high), unit)
    return picture


def grey_window(array: Float32[np.ndarray, "x y z"]) -> tuple[float, float]:
    """The values that are drawn black and white: robust against a few extreme ones.

    Example:
        >>> grey_window(np.array([[[0, 3, 3, 3, 3]]], dtype=np.float32))
        (0.0, 3.0)
    """
    every = max(1, math.ceil((array.size / _SAMPLES) ** (1 / 3)))
    flat = array[::every, ::every, ::every].ravel()
    flat = flat[np.isfinite(flat)]
    some = flat[flat != 0]
    if not some.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.round(np.percentile(some.astype(np.float64), (1, 99)), 9))
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    elif some.size < flat.size:
        low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _greys(plane: Float32[np.ndarray, "rows columns"], low: float, high: float) -> UInt8[np.ndarray, "rows columns"]:
    values = np.nan_to_num(plane.astype(np.float64), nan=0.0)
    grey: UInt8[np.ndarray, "rows columns"] = np.round(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return grey


def _middle(array: Float32[np.ndarray, "x y z"]) -> tuple[int, int, int]:
    """The centre of the box around what isn't zero."""
    filled = array != 0
    centre = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(filled.any(axis=others))
        centre.append((int(places[0]) + int(places[-1])) // 2 if places.size else array.shape[axis] // 2)
    return centre[0], centre[1], centre[2]


def _scale(picture: PIL.Image.Image, draw: PIL.ImageDraw.ImageDraw, left: int, rows: int, window: tuple[float, float], unit: str) -> None:
    from PIL import Image as PILImage

    tall = min(rows, PANEL // 2)
    top = _MARGIN + (rows - tall) // 2
    ramp = np.repeat(np.round(np.linspace(255, 0, tall)).astype(np.uint8)[:, None], _BAR[0], axis=1)
    picture.paste(PILImage.fromarray(ramp), (left, top))
    draw.rectangle((left - 1, top - 1, left + _BAR[0], top + tall), outline=128)
    place = left + _BAR[0] + 6
    draw.text((place, top), f"{window[1]:.4g}", fill=_INK, anchor="lt")
    if tall >= 40:
        draw.text((place, top + tall // 2), unit, fill=_INK, anchor="lm")
    draw.text((place, top + tall), f"{window[0]:.4g}", fill=_INK, anchor="lb")
