"""Masks of the user: pictures of two values, soft grey pictures, palettes, and shapes that lie in a picture's transparency.

Of two values the brighter one is inside where one is at least half bright and the other isn't; else the higher one (of a palette's, the
higher index). Soft grey masks are cut at half. Transparency that varies can mean the object or the hole: `opaque:FILE` or
`transparent:FILE` says which.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image as Pillow
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.files import check_size, is_clip, plain_file
from calotype.data.images import MaskLike, as_image, decoded, upright
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image, Mask

OPAQUE, TRANSPARENT = "opaque", "transparent"
"""What may stand before a mask's file: which part of a picture with transparency belongs to the mask."""
_SOFT = 0.02
"""Share of pixels between black and white from which on a note tells that they were cut at half."""
_SHOWN, _FEW = 8, 8


def mask_reading(source: str | os.PathLike[str]) -> tuple[str, Path]:
    """What stands before a mask's file, and the file.

    Example:
        >>> mask_reading("opaque:cut-out.png"), mask_reading("mask.png")
        (('opaque', PosixPath('cut-out.png')), ('', PosixPath('mask.png')))
    """
    text = os.fspath(source)
    for reading in (OPAQUE, TRANSPARENT):
        if text.startswith(f"{reading}:"):
            return reading, Path(text[len(reading) + 1 :])
    return "", Path(text)


def as_mask(value: MaskLike, *, name: str = "mask", events: Events = SILENT) -> Mask:
    """Whatever a caller has for a mask, as a `Mask`; the module's first lines say what is inside.

    Args:
        value: a `Mask`, an array or tensor [H, W] (bool, whole numbers, or floats in [0, 1]), a path (`opaque:` or `transparent:` before it
            reads its transparency), or anything else that `as_image` takes.
        name: what messages call it.
        events: hears a note for every conversion, and where pixels are neither in nor out.

    Raises:
        InputError: a file that is refused, transparency that can be read two ways, NaN, or more than two values that are no soft mask.
        ShapeError: an array or tensor of another shape or range.

    Example:
        >>> int(as_mask(np.eye(16, dtype=np.uint8)).values.sum()), int(as_mask(np.eye(16, dtype=np.uint8) * 255).values.sum())
        (16, 16)
    """
    if isinstance(value, Mask):
        return value
    if isinstance(value, str | os.PathLike):
        reading, path = mask_reading(value)
        return _of_file(plain_file(path, name), reading, name, events)
    if isinstance(value, Pillow.Image):
        check_size(value.width, value.height, name)
        return _of_picture(value, "", name, name, events)
    if isinstance(value, Tensor):
        if value.ndim != 2 and not (value.ndim == 3 and value.shape[0] in (1, 3, 4)):
            raise ShapeError(f"{name}: a tensor of shape {list(value.shape)} was given; a mask is [height, width]")
        value = value.detach().cpu()
        value = (value if value.ndim == 2 else value[0] if value.shape[0] == 1 else value.permute(1, 2, 0)).numpy()
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "biu":
        check_size(value.shape[1], value.shape[0], name)
        top = 1.0 if value.dtype.kind == "b" else float(np.iinfo(value.dtype if value.dtype.itemsize <= 2 else np.uint8).max)
        return Mask(torch.from_numpy(_inside(np.clip(value / top, 0, 1), value, name, events)))
    picture = as_image(value, name=name, events=events)
    return Mask(torch.from_numpy(_inside(*_brightness(picture), name, events)))


def _of_file(path: Path, reading: str, name: str, events: Events) -> Mask:
    if not is_clip(path):
        with decoded(path, name) as picture:
            if picture is not None:
                return _of_picture(picture, reading, f"{name}: {path}", name, events)
    if reading:
        raise InputError(f"{name}: {path} has no transparency to read; leave {reading}: out")
    return Mask(torch.from_numpy(_inside(*_brightness(as_image(path, name=name, events=events)), name, events)))


def _of_picture(picture: Pillow.Image, reading: str, subject: str, name: str, events: Events) -> Mask:
    turned = upright(picture)
    alpha = None
    if turned.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in turned.info:
        alpha = np.asarray(turned.convert("RGBA").getchannel("A"))
    varies = alpha is not None and int(alpha.min()) < 128 <= int(alpha.max())
    if reading:
        if alpha is None or not varies:
            raise InputError(f"{subject} has no transparency that varies; leave {reading}: out")
        return Mask(torch.from_numpy((alpha >= 128) == (reading == OPAQUE)))
    if varies:
        raise InputError(
            f"{subject} has transparency, which can be read two ways: as the object (what is opaque) or as the hole (what is transparent); "
            f"write {OPAQUE}:FILE or {TRANSPARENT}:FILE"
        )
    if alpha is not None and int(alpha.min()) < 255:
        events.note(f"{name}: its transparency, {100 * (1 - alpha.min() / 255):.0f} % at the most, says nothing and is left aside")
    if turned.mode == "P" and not _grey_palette(turned):
        numbers = np.asarray(turned)
        return Mask(torch.from_numpy(_inside(_luminance(turned.convert("RGB")), numbers, name, events, labels=True)))
    if turned.mode in ("1", "L") or turned.mode.startswith("I") or turned.mode == "F":
        numbers = np.asarray(turned)
        return Mask(torch.from_numpy(_inside(_unit(numbers, name), numbers, name, events)))
    levels = _luminance(turned.convert("RGB"))
    return Mask(torch.from_numpy(_inside(levels, levels, name, events)))


def _brightness(picture: Image) -> tuple[np.ndarray, np.ndarray]:
    levels = picture.pixels.mean(dim=0).cpu().numpy()
    return levels, levels


def _luminance(picture: Pillow.Image) -> Float[np.ndarray, "height width"]:
    levels: np.ndarray = np.asarray(picture).mean(axis=2, dtype=np.float32) / np.float32(255)
    return levels


def _grey_palette(picture: Pillow.Image) -> bool:
    """Whether a palette picture is a grey picture that was saved with few colours: every colour that it uses is grey, of several levels."""
    palette = np.asarray(picture.getpalette("RGB") or [], dtype=np.int64).reshape(-1, 3)
    used = palette[[index for index in np.unique(np.asarray(picture)) if index < len(palette)]]
    return bool(len(used)) and bool((used == used[:, :1]).all()) and len(np.unique(used[:, 0])) == len(used)


def _unit(numbers: np.ndarray, name: str) -> Float[np.ndarray, "height width"]:
    """Grey samples of any depth in [0, 1]."""
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise InputError(f"{name}: some of its values are NaN or infinite; replace them first")
    top = float(numbers.max(initial=0))
    full = 1.0 if numbers.dtype.kind == "b" or (numbers.dtype.kind == "f" and top <= 1) else 255.0 if top <= 255 else 65535.0
    unit: np.ndarray = np.clip(numbers.astype(np.float32) / np.float32(full), 0, 1)
    return unit


def _inside(
    levels: Float[np.ndarray, "height width"], numbers: np.ndarray, name: str, events: Events, *, labels: bool = False
) -> Bool[np.ndarray, "height width"]:
    """What belongs to the mask, from the brightness and the values behind it.

    Args:
        levels: brightness in [0, 1].
        numbers: the file's own values, or the brightness again.
        labels: whether the values are names, as a palette's indices are, and not amounts.
    """
    bright: np.ndarray = levels >= 0.5
    first = numbers.flat[0]
    others = numbers[numbers != first]
    if not others.size:
        return bright
    if (others == others[0]).all():
        low, high = sorted((first, others[0]))
        if bright.any() and not bright.all():
            return bright
        events.note(f"{name}: it holds the two values {_told(low)} and {_told(high)}; {_told(high)} is inside")
        higher: np.ndarray = numbers == high
        return higher
    if labels or not bright.any() or bright.all():
        values = np.unique(numbers)
        listed = ", ".join(map(_told, values[:_SHOWN])) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")
        raise InputError(
            f"{name}: it holds the values {listed}, and nothing says which of them are inside; save a mask of two values (black and white)"
        )
    few = np.unique(numbers[:: max(1, numbers.shape[0] // 512), :: max(1, numbers.shape[1] // 512)])
    if len(few) <= _FEW:
        events.note(f"{name}: it holds the values {', '.join(map(_told, few))}; those at least half bright are inside")
        return bright
    soft = float(((levels > 0.1) & (levels < 0.9)).mean())
    if soft > _SOFT:
        events.note(f"{name}: {100 * soft:.0f} % of it is neither black nor white; what is at least half bright is inside")
    return bright


def _told(value: object) -> str:
    return f"{float(value):.3g}" if np.asarray(value).dtype.kind == "f" else str(int(value))  # type: ignore[arg-type, call-overload]
