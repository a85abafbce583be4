"""TIFF files of float samples in several channels, as HDR tools write them; Pillow reads only the one-channel ones."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from calotype.data.files import check_size
from calotype.errors import InputError
from calotype.imaging.boundary import refusing

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _STRIP_OFFSETS, _SAMPLES, _STRIP_BYTES = 256, 257, 258, 259, 273, 277, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _SAMPLE_FORMAT = 284, 317, 322, 339
_FLOAT = 3
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value, by the type of an entry."""
MOST_TAGS = 256_000_000
"""Most bytes of a directory's entries that are read: offsets of strips, a profile, notes of an editor."""


def check_tags(path: Path, name: str) -> None:
    """Refuse a TIFF whose entries, which may share their bytes, hold more than any picture's: every one of them is read as a whole.

    Raises:
        InputError: more than `MOST_TAGS` bytes in the first directory.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return
        order, long = "<" if head[:2] == b"II" else ">", head[2:3] == b"+" or head[3:4] == b"+"
        try:
            (place,) = struct.unpack(f"{order}Q", head[8:16]) if long else struct.unpack(f"{order}I", head[4:8])
            file.seek(place)
            (count,) = struct.unpack(f"{order}Q", file.read(8)) if long else struct.unpack(f"{order}H", file.read(2))
            entry = f"{order}HHQQ" if long else f"{order}HHII"
            entries = struct.iter_unpack(entry, file.read(struct.calcsize(entry) * min(count, 1 << 16)))
            held = sum(_BYTES.get(kind, 8) * number for _, kind, number, _ in entries)
        except (struct.error, OSError, OverflowError, ValueError):
            return
    if held > min(MOST_TAGS, 4 * path.stat().st_size + 65_536):
        raise InputError(f"{name}: {path} is damaged: its header holds {held / 1e6:.0f} MB of entries; save or copy it again")


def is_float_tiff(path: Path) -> bool:
    """Whether a file is a TIFF of float samples in three or four channels."""
    with path.open("rb") as file:
        return _tags(file) is not None


def read_float_tiff(path: Path, name: str) -> np.ndarray:
    """Samples [height, width, channels] of a float TIFF with three or four channels.

    Read are strips without compression or with deflate, which is what imaging libraries write by default. What the header tells of is held
    once, and as float32; whatever a strip would unpack to beyond that is left where it is.

    Raises:
        InputError: too small, too large, truncated, or stored with a compression that isn't read.
    """
    with path.open("rb") as file, refusing(f"{name}: {path}", "save or copy it again"):
        found = _tags(file)
        if found is None:
            raise InputError(f"{name}: {path} is no float TIFF of three or four channels; save it as 16-bit PNG")
        tags, order, channels = found
        width, height = int(tags[_WIDTH]), int(tags[_LENGTH])
        check_size(width, height, name, path)
        bits, compression = int(np.atleast_1d(tags[_BITS])[0]), int(tags.get(_COMPRESSION, 1))
        if compression not in (1, 8, 32946) or tags.get(_PREDICTOR, 1) != 1 or _TILE_WIDTH in tags or bits not in (16, 32, 64):
            raise InputError(
                f"{name}: {path} is a float TIFF stored in a way that isn't read; save it without compression or as 16-bit PNG"
            )
        needed = width * height * channels * (bits // 8)
        held = bytearray()
        for offset, length in zip(np.atleast_1d(tags[_STRIP_OFFSETS]), np.atleast_1d(tags[_STRIP_BYTES]), strict=True):
            file.seek(int(offset))
            held += _unpacked(file, int(length), needed - len(held), compression != 1)
            if len(held) >= needed:
                break
        if len(held) < needed:
            raise InputError(f"{name}: {path} is truncated and can't be decoded; save or copy it again")
        samples = np.frombuffer(held, dtype=f"{order}f{bits // 8}", count=width * height * channels)
    if int(tags.get(_PLANAR, 1)) == 2:
        return samples.reshape(channels, height, width).transpose(1, 2, 0).astype(np.float32)
    return samples.reshape(height, width, channels).astype(np.float32)


def _tags(file: BinaryIO) -> tuple[ImageFileDirectory_v2, str, int] | None:
    """The first directory of a TIFF of float samples, its byte order and number of channels; None of anything else."""
    header = file.read(8)
    if header[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags.load(file)
        channels = int(tags.get(_SAMPLES, 1))
        floats = int(np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))[0]) == _FLOAT
        return (tags, "<" if header[:2] == b"II" else ">", channels) if floats and channels in (3, 4) else None
    except Exception:  # What can't be parsed here is left to Pillow, which says what is wrong with it.
        return None


def _unpacked(file: BinaryIO, length: int, most: int, packed: bool) -> bytes:
    """At most so many bytes of a strip."""
    if not packed:
        return file.read(min(length, most))
    unpacker, made = zlib.decompressobj(), b""
    while length > 0 and len(made) < most and not unpacker.eof:
        part = file.read(min(length, 1 << 20))
        if not part:
            break
        length -= len(part)
        made += unpacker.decompress(part, most - len(made))
    return made
