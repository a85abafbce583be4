"""TIFF files of float samples in several channels, as HDR tools write them; Pillow reads only the one-channel ones."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from struct import error as struct_error

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from calotype.core.errors import InputError
from calotype.data.files import check_size

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _STRIP_OFFSETS, _SAMPLES, _STRIP_BYTES = 256, 257, 258, 259, 273, 277, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _SAMPLE_FORMAT = 284, 317, 322, 339
_FLOAT = 3


def read_float_tiff(path: Path, name: str) -> np.ndarray | None:
    """Samples [height, width, channels] of a float TIFF with three or four channels, or None if the file is anything else.

    Read are strips without compression or with deflate, which is what imaging libraries write by default.

    Raises:
        InputError: too small, too large, truncated, or stored with a compression that isn't read.
    """
    with path.open("rb") as file:
        header = file.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*"):
            return None
        try:
            tags = ImageFileDirectory_v2(header)
            file.seek(tags.next)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tags.load(file)
            formats = np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
            channels = int(tags.get(_SAMPLES, 1))
            if formats[0] != _FLOAT or channels not in (3, 4):
                return None
            width, height = int(tags[_WIDTH]), int(tags[_LENGTH])
            bits = int(np.atleast_1d(tags[_BITS])[0])
            compression = int(tags.get(_COMPRESSION, 1))
            offsets, lengths = tags[_STRIP_OFFSETS], tags[_STRIP_BYTES]
        except (KeyError, OSError, SyntaxError, ValueError, TypeError, struct_error):
            return None
        check_size(width, height, name, path)
        if compression not in (1, 8, 32946) or tags.get(_PREDICTOR, 1) != 1 or _TILE_WIDTH in tags or bits not in (16, 32, 64):
            raise InputError(
                f"{name}: {path} is a float TIFF stored in a way that isn't read; save it without compression or as 16-bit PNG"
            )
        try:
            strips = []
            for offset, length in zip(np.atleast_1d(offsets), np.atleast_1d(lengths), strict=True):
                file.seek(int(offset))
                strip = file.read(int(length))
                strips.append(zlib.decompress(strip) if compression != 1 else strip)
            order = "<" if header[:2] == b"II" else ">"
            samples = np.frombuffer(b"".join(strips), dtype=f"{order}f{bits // 8}", count=width * height * channels)
        except (ValueError, OSError, OverflowError, zlib.error):
            raise InputError(f"{name}: {path} is truncated and can't be decoded; save or copy it again") from None
    if int(tags.get(_PLANAR, 1)) == 2:
        return samples.reshape(channels, height, width).transpose(1, 2, 0).astype(np.float32)
    return samples.reshape(height, width, channels).astype(np.float32)
