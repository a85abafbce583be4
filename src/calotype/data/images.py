"""Pictures of the user: anything that a camera, a scanner or a browser saves becomes an `Image`, with a note of what was converted.

Refused with one line: not a regular file, empty, undecodable or truncated, a side below 16 px, more than 64 megapixels, NaN.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.files import check_size, is_clip, plain_file, seems_to_be
from calotype.data.films import first_frame
from calotype.data.fitting import fit, fit_note
from calotype.data.tiff import check_tags, is_float_tiff, read_float_tiff
from calotype.errors import InputError, ShapeError
from calotype.imaging.boundary import refusing
from calotype.imaging.types import Image, Mask

ImageLike: TypeAlias = Image | str | os.PathLike[str] | Pillow.Image | np.ndarray | Tensor
"""What every call takes for a picture."""
MaskLike: TypeAlias = Mask | ImageLike
"""What every call takes for a mask."""

# Only formats that decode in this process, without an interpreter behind them (no EPS, no plug-in that runs another program).
_FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX", "QOI", "DDS", "SGI",
)  # fmt: skip
_SUFFIXES = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "DIB": {".dib", ".bmp"},
    "TIFF": {".tif", ".tiff"},
    "AVIF": {".avif", ".avifs"},
    "JPEG2000": {".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
}
_MOST_EXIF = 1 << 19
_DAMAGED = "it is damaged; save or copy it again"


def read_image(path: str | os.PathLike[str], *, size: tuple[int, int] | None = None, name: str = "image", events: Events = SILENT) -> Image:
    """Read one picture file.

    Args:
        path: PNG, JPEG, WebP, GIF, TIFF, AVIF, BMP, JPEG 2000, PPM, ..., told apart by content; of a clip, the first frame is taken.
        size: (height, width) to `fit` it to; its own size if None.
        name: what messages call it, such as "start".
        events: hears a note for every conversion.

    Returns:
        The picture in sRGB, values in [0, 1].

    Raises:
        InputError: the file is refused (the module's first lines say when).
    """
    source = plain_file(path, name)
    if is_clip(source):
        picture = first_frame(source, name, events)
        events.note(f"{name}: {source.name} is a clip, its first frame is used")
    else:
        picture = _read_still(source, name, events)
    return _fitted(picture, size, name, events)


def check_image(path: str | os.PathLike[str], name: str = "image") -> tuple[int, int]:
    """Refuse a file by its header alone, before anything is decoded.

    Returns:
        (height, width) as the header says, before an EXIF turn.

    Raises:
        InputError: as `read_image`, except for damage behind the header.
    """
    source = plain_file(path, name)
    if is_clip(source) or is_float_tiff(source):
        return read_image(source, name=name).size
    with _opened(source, name) as picture:
        return picture.height, picture.width


def as_image(value: ImageLike, *, size: tuple[int, int] | None = None, name: str = "image", events: Events = SILENT) -> Image:
    """Whatever a caller has for a picture, as an `Image`.

    Args:
        value: an `Image`, a path, a PIL picture, an array [H, W], [H, W, 1 | 3 | 4] or a tensor [1 | 3 | 4, H, W] (arrays and tensors:
            uint8, uint16, bool, or floats in [0, 1]; the fourth channel is alpha).
        size: (height, width) to `fit` it to.
        name: what messages call it.
        events: hears a note for every conversion.

    Raises:
        InputError: a file that is refused, or NaN among the values.
        ShapeError: an array or tensor of another shape or range.

    Example:
        >>> import numpy as np
        >>> as_image(np.zeros((40, 60, 3), dtype=np.uint8), size=(32, 32)).size
        (32, 32)
    """
    if isinstance(value, Image):
        picture = value
        check_size(picture.size[1], picture.size[0], name)
        _refuse_nan(picture.pixels.numpy(), name)
    elif isinstance(value, str | os.PathLike):
        return read_image(value, size=size, name=name, events=events)
    elif isinstance(value, Pillow.Image):
        check_size(value.width, value.height, name)
        picture = _from_pillow(value, name, events)
    elif isinstance(value, Tensor):
        if value.ndim != 3 or value.shape[0] not in (1, 3, 4):
            raise ShapeError(
                f"{name}: a tensor of shape {list(value.shape)} was given; a picture is [3, height, width] (or 1 or 4 channels)"
            )
        picture = _from_array(value.detach().cpu().permute(1, 2, 0).numpy(), name, events)
    elif isinstance(value, np.ndarray):
        if value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (1, 3, 4)):
            raise ShapeError(
                f"{name}: an array of shape {list(value.shape)} was given; a picture is [height, width, 3] (or 1 or 4 channels)"
            )
        picture = _from_array(value, name, events)
    else:
        raise InputError(f"{name}: a {type(value).__name__} was given; a picture is a path, an Image, a PIL picture, an array or a tensor")
    return _fitted(picture, size, name, events)


def _fitted(picture: Image, size: tuple[int, int] | None, name: str, events: Events) -> Image:
    if size is None or picture.size == tuple(size):
        return picture
    events.note(fit_note(name, picture.size, size))
    return fit(picture, size)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Pillow.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Pillow.init()
        present = [name for name in _FORMATS if name in Pillow.OPEN]
        check_tags(path, name)
        try:
            picture = Pillow.open(path, formats=present)
        except Pillow.DecompressionBombError:
            raise InputError(f"{name}: {path} has more than 64 megapixels by its header; make it smaller first") from None
        except Exception as error:  # Of damaged files, the decoders raise whatever their parsing stumbles over.
            kind = seems_to_be(path)
            told = f"is {kind}, not a picture that can be read" if kind else "can't be decoded as a picture (damaged, or an unknown format)"
            raise InputError(f"{name}: {path} {told}; save it as PNG or JPEG") from error
        with picture:
            check_size(picture.width, picture.height, name, path)
            yield picture


@contextmanager
def decoded(path: Path, name: str) -> Iterator[Pillow.Image | None]:
    """The decoded picture in a file, None for one that only `read_float_tiff` reads.

    Raises:
        InputError: the file is refused, or can't be decoded.
    """
    if is_float_tiff(path):
        yield None
        return
    with _opened(path, name) as picture:
        try:
            with refusing(f"{name}: {path}", _DAMAGED), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture.load()
        except InputError as error:
            cause = error.__cause__
            told = "is truncated" if "truncat" in str(cause) or isinstance(cause, EOFError) else "is damaged"
            raise InputError(f"{name}: {path} {told} and can't be decoded; save or copy it again") from cause
        yield picture


def _read_still(path: Path, name: str, events: Events) -> Image:
    with decoded(path, name) as picture:
        if picture is None:
            return _from_array(read_float_tiff(path, name), name, events, label=f"{path.name}: float TIFF")
        kind = picture.format or ""
        deep = kind == "PNG" and png_bit_depth(path) == 16 and picture.mode not in ("I;16", "I")
        with refusing(f"{name}: {path}", _DAMAGED), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames = bool(getattr(picture, "is_animated", False)) and kind not in ("MPO", "TIFF", "ICO")
            converted = _from_pillow(picture, name, events)
    if frames:
        events.note(f"{name}: {path.name} is animated, its first frame is used")
    if deep:
        events.note(f"{name}: 16 bits a channel converted to 8")
    known = _SUFFIXES.get(kind)
    if known is not None and path.suffix.lower() not in known:
        said = f"is named {path.suffix}" if path.suffix else "has no extension"
        events.note(f"{name}: {path.name} {said} but holds a {kind} picture; read as {kind}")
    return converted


def png_bit_depth(path: Path) -> int:
    """Bits of a sample, by the header."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if len(head) == 25 else 0


def _from_pillow(picture: Pillow.Image, name: str, events: Events) -> Image:
    turned = upright(picture)
    if turned is not picture:
        events.note(f"{name}: turned as its EXIF orientation says")
    mode = turned.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        return _from_numbers(np.asarray(turned), name, events)
    profile = picture.info.get("icc_profile")
    if mode == "CMYK":
        rgb = _to_srgb(turned, profile, name) or turned.convert("RGB")
        events.note(f"{name}: CMYK converted to RGB")
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in turned.info:
        rgb = _over_white(turned.convert("RGBA"), name, events)
    else:
        rgb = turned.convert("RGB")
        if mode in ("L", "1"):
            events.note(f"{name}: grey converted to RGB")
        elif mode == "P":
            events.note(f"{name}: palette converted to RGB")
        elif mode != "RGB":
            events.note(f"{name}: {mode} converted to RGB")
    if mode in ("RGB", "RGBA", "P") and profile:
        managed = _to_srgb(rgb, profile, name)
        if managed is not None and managed is not rgb:
            rgb = managed
            events.note(f"{name}: colours converted from its ICC profile to sRGB")
    return Image.from_pil(rgb)


def upright(picture: Pillow.Image) -> Pillow.Image:
    """The picture turned as its EXIF orientation says; itself where that is no turn."""
    return picture if _orientation(picture) not in range(2, 9) else ImageOps.exif_transpose(picture)


def _orientation(picture: Pillow.Image) -> int:
    # Its entries may share their bytes, so a long one can unpack to gigabytes; cameras write a tenth of that.
    if len(picture.info.get("exif", b"")) > _MOST_EXIF:
        return 1
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # A damaged entry says nothing about how the picture lies.
        return 1


def _over_white(picture: Pillow.Image, name: str, events: Events) -> Pillow.Image:
    if picture.getchannel("A").getextrema()[0] == 255:
        return picture.convert("RGB")
    events.note(f"{name}: its transparency was laid over white")
    return Pillow.alpha_composite(Pillow.new("RGBA", picture.size, (255, 255, 255, 255)), picture).convert("RGB")


def _to_srgb(picture: Pillow.Image, profile: bytes | None, name: str) -> Pillow.Image | None:
    """The picture in sRGB, itself if it is that already, None if its profile can't be used."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower().replace(" ", ""):
            return picture
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # A profile that can't be used is left aside, as viewers do.
        return None


def _from_numbers(values: np.ndarray, name: str, events: Events) -> Image:
    """A picture of 16-bit, 32-bit or float samples, [H, W]."""
    if values.dtype.kind == "f":
        return _from_array(values, name, events, label="float picture")
    top = int(values.max(initial=0))
    full = 65535 if top <= 65535 else 2**31 - 1
    events.note(f"{name}: {'16' if full == 65535 else '32'} bits a channel, grey converted to RGB")
    return _stack(np.clip(values.astype(np.float32) / full, 0, 1))


def _from_array(values: np.ndarray, name: str, events: Events, label: str = "") -> Image:
    """An array [H, W] or [H, W, C]; `label` marks one that came from a file, whose range is then converted instead of refused."""
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    check_size(values.shape[1], values.shape[0], name)
    unit: np.ndarray
    if values.dtype == np.bool_:
        unit = values.astype(np.float32)
    elif values.dtype in (np.uint8, np.uint16):
        unit = values.astype(np.float32) / np.iinfo(values.dtype).max
    elif values.dtype.kind == "f":
        _refuse_nan(values, name)
        unit = _unit_range(values.astype(np.float32), name, events, label)
    else:
        raise ShapeError(f"{name}: values of type {values.dtype} were given; use uint8, or floats in [0, 1]")
    if unit.ndim == 3 and unit.shape[2] == 4:
        alpha = unit[..., 3:]
        if alpha.min() < 1:
            events.note(f"{name}: its transparency was laid over white")
        unit = unit[..., :3] * alpha + (1 - alpha)
    return _stack(unit)


def _unit_range(values: np.ndarray, name: str, events: Events, label: str) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    inside = low >= 0 and high <= 1
    if not label:
        if not inside:
            raise ShapeError(f"{name}: values from {low:g} to {high:g} were given; a picture's are in [0, 1]: divide or shift them first")
        return values
    if inside:
        events.note(f"{name}: {label} converted to 8-bit range as it is")
        return values
    if low >= 0 and high <= 255:
        events.note(f"{name}: {label} with values up to {high:g} divided by 255")
        return values / 255
    if low >= 0 and high <= 65535:
        events.note(f"{name}: {label} with values up to {high:g} divided by 65535")
        return values / 65535
    events.note(f"{name}: {label} with values {low:g} to {high:g} stretched to black and white")
    stretched = (values.astype(np.float64) - low) / max(high - low, 1e-12)
    return stretched.astype(np.float32)


def _refuse_nan(values: np.ndarray, name: str) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise InputError(f"{name}: {bad} of its values are NaN or infinite; replace them first")


def _stack(unit: np.ndarray) -> Image:
    """[H, W] or [H, W, 3] in [0, 1] to an `Image`."""
    planes = np.repeat(unit[None], 3, axis=0) if unit.ndim == 2 else unit.transpose(2, 0, 1)
    return Image(torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32)))
