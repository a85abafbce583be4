"""Damaged pictures of every format, and small ones that claim to be large or unpack to much."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from calotype.data import as_mask, check_image, read_image, read_video
from calotype.errors import InputError
from calotype.imaging.media import read_metadata
from calotype.imaging.types import Image
from tests.fuzz.mutations import bounded, damaged, fuzzed, reads_or_refuses

RNG = np.random.default_rng(0)
COLOURS = Pillow.fromarray(RNG.integers(0, 255, (40, 48, 3), dtype=np.uint8))


def saved(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def float_tiff(strips: bytes, *, compression: int = 1, repeats: int = 1, channels: int = 3) -> bytes:
    """20x20 float samples, in strips that all begin at the same place."""
    base = 8 + len(strips)
    offsets, lengths = struct.pack(f"<{repeats}I", *([8] * repeats)), struct.pack(f"<{repeats}I", *([len(strips)] * repeats))
    at_offsets, at_lengths = (8, len(strips)) if repeats == 1 else (base, base + len(offsets))
    entries = [
        (256, 1, 20), (257, 1, 20), (258, 1, 32), (259, 1, compression), (262, 1, 2), (273, repeats, at_offsets), (277, 1, channels),
        (278, 1, 20), (279, repeats, at_lengths), (339, 1, 3),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in entries)
    return struct.pack("<2sHI", b"II", 42, base + len(offsets) + len(lengths)) + strips + offsets + lengths + directory + bytes(4)


@cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """Small valid files of a format."""
    deep = Pillow.fromarray(RNG.integers(0, 65535, (40, 48)).astype(np.uint16))
    turning = [COLOURS.rotate(90 * number) for number in (1, 2)]
    exif = Pillow.Exif()
    exif[0x0112], exif[0x010E] = 6, '{"calotype": "{}"}'
    text = PngInfo()
    text.add_itxt("calotype", '{"calotype_run": 1}', zip=True)
    if kind == "png":
        modes = [saved(COLOURS.convert(mode), "PNG") for mode in ("1", "L", "P", "RGBA", "LA")]
        return (
            *modes,
            saved(COLOURS, "PNG", pnginfo=text),
            saved(deep, "PNG"),
            saved(COLOURS, "PNG", save_all=True, append_images=turning),
        )
    if kind == "jpeg":
        return tuple(saved(COLOURS.convert(mode), "JPEG", exif=exif, comment=b"{}", quality=80) for mode in ("RGB", "L", "CMYK"))
    if kind == "webp":
        return saved(COLOURS, "WEBP", exif=exif), saved(COLOURS, "WEBP", save_all=True, append_images=turning, duration=90)
    if kind == "gif":
        return saved(COLOURS, "GIF", comment=b"{}"), saved(COLOURS, "GIF", save_all=True, append_images=turning, duration=90)
    if kind == "tiff":
        raw = RNG.random((20, 20, 3)).astype("<f4").tobytes()
        packed = [saved(COLOURS, "TIFF", compression=each) for each in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", None)]
        return (*packed, saved(deep, "TIFF"), float_tiff(raw), float_tiff(zlib.compress(raw), compression=8))
    return tuple(saved(COLOURS, each) for each in ("BMP", "TGA", "PPM", "PCX", "ICO", "DDS", "SGI", "JPEG2000", "QOI"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to write damaged files to, over and over."""
    return tmp_path_factory.mktemp("damaged")


def all_readers(path: Path, readers: Sequence[Any] = (read_image, check_image, as_mask, read_metadata)) -> None:
    for reader in readers:
        reads_or_refuses(lambda reader=reader: reader(path))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "others"])
def test_damaged_pictures(place: Path, kind: str) -> None:
    path = place / f"a.{'bin' if kind == 'others' else kind}"

    @fuzzed
    @given(damaged(seeds(kind)))
    def each(data: bytes) -> None:
        path.write_bytes(data)
        all_readers(path)
        if kind in ("webp", "gif", "png"):
            reads_or_refuses(lambda: read_video(path))

    each()


@fuzzed
@given(st.binary(min_size=1, max_size=400))
def test_any_bytes(place: Path, data: bytes) -> None:
    for name in ("a", "a.png", "a.tiff", "a.jpg"):
        (place / name).write_bytes(data)
        all_readers(place / name)


def zeros(gigabytes: float) -> bytes:
    packer, made = zlib.compressobj(9), []
    for _ in range(int(gigabytes * 1024)):
        made.append(packer.compress(bytes(1 << 20)))
    return b"".join([*made, packer.flush()])


def test_what_a_float_tiff_unpacks_to_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "bomb.tif").write_bytes(float_tiff(zeros(1.0), compression=8))
    (tmp_path / "shared.tif").write_bytes(float_tiff(zeros(0.02), compression=8, repeats=2000))
    for name in ("bomb.tif", "shared.tif"):
        with bounded():
            found = reads_or_refuses(lambda name=name: read_image(tmp_path / name))
        assert isinstance(found, Image)
        assert found.size == (20, 20)
        assert not bool(found.pixels.any())


def test_records_of_many_brackets_and_large_texts_are_left_aside(tmp_path: Path) -> None:
    for name, text in {"deep.png": "[" * 900_000, "large.png": "a" * 20_000_000}.items():
        info = PngInfo()
        info.add_itxt("calotype", text, zip=True)
        COLOURS.save(tmp_path / name, pnginfo=info)
        with bounded():
            reads_or_refuses(lambda name=name: read_metadata(tmp_path / name))
            reads_or_refuses(lambda name=name: read_image(tmp_path / name))


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    data = bytearray(saved(COLOURS, "PNG"))
    data[16:24] = struct.pack(">II", 9000, 9000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    with bounded(), pytest.raises(InputError, match="megapixels"):
        read_image(tmp_path / "a.png")
