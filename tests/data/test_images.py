"""Every picture that a camera, a scanner or a browser saves becomes an `Image`, with a note; every bad one is refused with one line."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms

from calotype.data import as_image, check_image, read_image
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image, Video
from tests.recorder import Recorder


def scene(width: int = 48, height: int = 32) -> Pillow.Image:
    """Red left half, blue right half, a green bar at the top."""
    picture = Pillow.new("RGB", (width, height), (200, 30, 30))
    picture.paste((30, 30, 200), (width // 2, 0, width, height))
    picture.paste((30, 180, 30), (0, 0, width, height // 4))
    return picture


def looks_like_the_scene(image: Image, tolerance: float = 0.06) -> None:
    height, width = image.size
    left, right = image.pixels[:, height * 3 // 4, width // 4], image.pixels[:, height * 3 // 4, width * 3 // 4]
    top = image.pixels[:, height // 10, width // 2]
    for found, colour in ((left, (200, 30, 30)), (right, (30, 30, 200)), (top, (30, 180, 30))):
        torch.testing.assert_close(found, torch.tensor(colour) / 255, atol=tolerance, rtol=0)


def read(path: Path, **options: object) -> tuple[Image, str]:
    notes = Recorder()
    image = read_image(path, name="start", events=notes, **options)  # type: ignore[arg-type]
    assert image.pixels.dtype == torch.float32
    assert 0 <= float(image.pixels.min()) <= float(image.pixels.max()) <= 1
    return image, "\n".join(notes.notes)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.jpg", {"quality": 95}), ("a.jpeg", {"progressive": True, "quality": 95}), ("a.webp", {"lossless": True}),
     ("a.bmp", {}), ("a.tif", {"compression": "tiff_lzw"}),
     ("a.avif", {"quality": 95}), ("a.jp2", {}), ("a.ppm", {}), ("A.PNG", {}), ("a.tga", {})],
)  # fmt: skip
def test_plain_pictures_need_no_note(tmp_path: Path, name: str, options: dict) -> None:
    scene().save(tmp_path / name, **options)
    image, notes = read(tmp_path / name)
    looks_like_the_scene(image)
    assert notes == ""


def save_cmyk(path: Path) -> None:
    scene().convert("CMYK").save(path, quality=95)


def save_alpha(path: Path) -> None:
    picture = scene().convert("RGBA")
    alpha = Pillow.new("L", picture.size, 255)
    alpha.paste(0, (0, 24, 4, 32))
    picture.putalpha(alpha)
    picture.save(path)


def save_palette(path: Path) -> None:
    scene().quantize(8).save(path)


def save_turned(path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    scene().transpose(Pillow.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


def save_animated(path: Path) -> None:
    scene().save(path, save_all=True, append_images=[Pillow.new("RGB", (48, 32))], duration=100)


def save_jpeg_named_png(path: Path) -> None:
    scene().save(path, format="JPEG", quality=95)


def save_deep_png(path: Path) -> None:
    """16 bits a channel, which Pillow itself can't write in colour."""
    values = np.asarray(scene(), dtype=np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 48, 32, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def save_float_tiff(path: Path, values: np.ndarray | None = None, compressed: bool = False) -> None:
    """Three float32 channels, as HDR tools write them."""
    samples = (np.asarray(scene(), dtype=np.float32) / 255 if values is None else values).astype("<f4")
    height, width, channels = samples.shape
    strip = zlib.compress(samples.tobytes()) if compressed else samples.tobytes()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 32), (259, 3, 1, 8 if compressed else 1), (262, 3, 1, 2),
               (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(strip)), (339, 3, 1, 3)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory)


@pytest.mark.parametrize(
    ("name", "save", "told"),
    [("a.jpg", save_cmyk, "CMYK"), ("a.png", save_alpha, "transparency was laid over white"), ("a.webp", save_alpha, "over white"),
     ("a.gif", save_palette, "palette"), ("a.png", save_palette, "palette"), ("a.jpg", save_turned, "EXIF"),
     ("a.gif", save_animated, "first frame"), ("a.webp", save_animated, "first frame"),
     ("a.png", save_animated, "first frame"), ("a.png", save_jpeg_named_png, "holds a JPEG"),
     ("picture", save_jpeg_named_png, "has no extension"), ("a.png", save_deep_png, "16 bits"), ("a.tif", save_float_tiff, "float"),
     ("b.tif", lambda path: save_float_tiff(path, compressed=True), "float"),
     ("c.tif", lambda path: save_float_tiff(path, np.asarray(scene(), dtype=np.float32)), "divided by 255")],
)  # fmt: skip
def test_unusual_pictures_are_converted_with_a_note(tmp_path: Path, name: str, save: Callable[[Path], None], told: str) -> None:
    save(tmp_path / name)
    image, notes = read(tmp_path / name)
    assert image.size == (32, 48)
    looks_like_the_scene(image, tolerance=0.12 if name.endswith(("gif", "jpg")) or "picture" in name else 0.08)
    assert told in notes
    assert all(line.startswith("start: ") for line in notes.splitlines())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F", "YCbCr", "HSV", "LAB"])
def test_other_modes_are_converted_with_a_note(tmp_path: Path, mode: str) -> None:
    grey = Pillow.linear_gradient("L").resize((40, 40))
    if mode == "I;16":
        picture = Pillow.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    elif mode == "I":
        picture = Pillow.fromarray(np.asarray(grey, dtype=np.int32) * 257)
    elif mode == "F":
        picture = Pillow.fromarray(np.asarray(grey, dtype=np.float32) / 255)
    else:
        picture = grey.convert("RGB").convert(mode) if mode in ("YCbCr", "HSV", "LAB") else grey.convert(mode)
        if mode == "LA":
            picture.putalpha(128)
    notes = Recorder()
    image = as_image(picture, name="start", events=notes)
    assert notes.notes
    if mode == "1":
        assert set(image.pixels.unique().tolist()) == {0.0, 1.0}
    elif mode == "LA":
        assert float(image.pixels.min()) > 0.45
    else:
        expected = torch.from_numpy(np.asarray(grey).astype(np.float32) / 255).expand(3, 40, 40)
        assert float((image.pixels - expected).abs().max()) < (0.05 if mode == "LAB" else 0.01)


def test_colours_with_another_profile_become_srgb(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    scene().save(tmp_path / "a.png", icc_profile=profile.tobytes())
    image, notes = read(tmp_path / "a.png")
    assert image.size == (32, 48)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    scene().save(tmp_path / "b.png", icc_profile=srgb)
    same, silence = read(tmp_path / "b.png")
    looks_like_the_scene(same)
    assert "ICC" not in silence
    assert "ICC" in notes or torch.equal(image.pixels, same.pixels)


def test_the_first_frame_of_a_clip_is_a_picture(tmp_path: Path) -> None:
    Video(Image.from_pil(scene()).pixels[None].repeat(3, 1, 1, 1), 8.0).save(tmp_path / "clip.mp4")
    image, notes = read(tmp_path / "clip.mp4")
    looks_like_the_scene(image)
    assert "first frame" in notes


def bad_files(folder: Path) -> dict[str, Path]:
    """A bad file of every kind."""
    scene(480, 320).save(folder / "whole.png")
    scene(480, 320).save(folder / "whole.jpg")
    files = {
        name: folder / name for name in ("absent.png", "folder", "empty.png", "cut.png", "cut.jpg", "text.png", "small.png", "page.html")
    }
    files["folder"].mkdir()
    files["empty.png"].touch()
    for suffix in ("png", "jpg"):
        whole = (folder / f"whole.{suffix}").read_bytes()
        files[f"cut.{suffix}"].write_bytes(whole[: len(whole) * 2 // 3])
    files["text.png"].write_text("not a picture")
    files["page.html"].write_text("<!DOCTYPE html><html>not found</html>")
    scene(48, 15).save(files["small.png"])
    files["pipe"] = folder / "pipe"
    os.mkfifo(files["pipe"])
    files["device"] = Path("/dev/zero")
    files["huge.png"] = folder / "huge.png"
    header = bytearray((folder / "whole.png").read_bytes())
    header[16:24] = struct.pack(">II", 9000, 9000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    files["huge.png"].write_bytes(bytes(header))
    files["bomb.png"] = folder / "bomb.png"
    header[16:24] = struct.pack(">II", 60000, 60000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    files["bomb.png"].write_bytes(bytes(header))
    nans = np.full((32, 32, 3), 0.5, dtype=np.float32)
    nans[3, 4, 1] = np.nan
    files["nan.tif"] = folder / "nan.tif"
    save_float_tiff(files["nan.tif"], nans)
    files["grey-nan.tif"] = folder / "grey-nan.tif"
    Pillow.fromarray(nans[..., 1]).save(files["grey-nan.tif"])
    files["flat.svg"] = folder / "flat.svg"
    files["flat.svg"].write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    files["paper.pdf"] = folder / "paper.pdf"
    files["paper.pdf"].write_bytes(b"%PDF-1.7\n\x00\x01")
    files["clip.mp4"] = folder / "clip.mp4"
    files["clip.mp4"].write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 100)
    files["half.tif"] = folder / "half.tif"
    save_float_tiff(folder / "whole.tif")
    raw = (folder / "whole.tif").read_bytes()
    directory = raw[-(2 + 10 * 12 + 4) :]
    files["half.tif"].write_bytes(b"II*\0" + struct.pack("<I", 8 + 200) + raw[8:208] + directory)
    return files


REASONS = {
    "absent.png": "does not exist", "folder": "is a folder", "empty.png": "is empty", "cut.png": "can't be decoded", "cut.jpg": "truncated",
    "text.png": "a text file", "small.png": "48x15 px", "page.html": "a web page",
    "pipe": "not a regular file", "device": "not a regular file", "huge.png": "81 megapixels", "bomb.png": "64 megapixels",
    "nan.tif": "NaN", "grey-nan.tif": "NaN", "flat.svg": "an SVG drawing",
    "paper.pdf": "a PDF document", "clip.mp4": "can't be decoded", "half.tif": "decoded",
}  # fmt: skip


def test_bad_files_are_refused_with_one_line(tmp_path: Path) -> None:
    files = bad_files(tmp_path)
    assert set(files) == set(REASONS)
    for name, path in files.items():
        with pytest.raises(InputError) as refusal:
            read_image(path, name="start")
        message = str(refusal.value)
        assert REASONS[name] in message, (name, message)
        assert message.startswith("start: ")
        assert "\n" not in message


def test_a_header_is_enough_to_refuse(tmp_path: Path) -> None:
    files = bad_files(tmp_path)
    for name in ("absent.png", "folder", "empty.png", "small.png", "huge.png", "bomb.png", "pipe", "text.png"):
        with pytest.raises(InputError):
            check_image(files[name])
    assert check_image(tmp_path / "whole.png") == (320, 480)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))
def test_damaged_bytes_give_a_picture_or_one_line(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    buffer = io.BytesIO()
    scene().save(buffer, format=kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    try:
        image = read_image(path)
    except InputError as error:
        outcome = str(error)
    else:
        outcome = str(bool(torch.isfinite(image.pixels).all()))
    assert outcome == "True" or ("image: " in outcome and "\n" not in outcome)


def test_arrays_and_tensors(tmp_path: Path) -> None:
    picture = scene()
    array = np.asarray(picture)
    expected = Image.from_pil(picture).pixels
    for value in (
        array,
        array.astype(np.float32) / 255,
        array.astype(np.uint16) * 257,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        expected,
    ):
        torch.testing.assert_close(as_image(value).pixels, expected, atol=1e-6, rtol=0)
    seen = np.dstack([array, np.zeros((32, 48), dtype=np.uint8)])
    assert float(as_image(seen).pixels.min()) == 1.0
    assert as_image(array[..., 0]).size == (32, 48)


@pytest.mark.parametrize(
    ("value", "error"),
    [(np.zeros((32, 32, 5)), ShapeError), (np.zeros((3, 32, 32), dtype=np.float32), ShapeError), (torch.zeros(32, 32, 3), ShapeError),
     (torch.full((3, 32, 32), 2.0), ShapeError), (torch.full((3, 32, 32), -0.5), ShapeError),
     (np.zeros((32, 32), dtype=np.int64), ShapeError), (torch.full((3, 32, 32), torch.nan), InputError),
     (Image(torch.full((3, 32, 32), torch.nan)), InputError), (torch.zeros(3, 8, 32), InputError), (3, InputError), (None, InputError)],
)  # fmt: skip
def test_other_values_are_refused(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        as_image(value)  # type: ignore[arg-type]
