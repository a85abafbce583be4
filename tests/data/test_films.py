"""Films come out as players show them: every way to turn and mirror, any pixel shape, any colour tag, any container."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from calotype.data import read_image, read_video
from calotype.data.files import is_clip
from calotype.errors import Cancelled, InputError
from calotype.imaging.types import Video
from tests.recorder import Recorder

COLOURS = [(200, 60, 30), (40, 160, 90), (60, 80, 220), (220, 200, 40)]


def bars(height: int, width: int) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    for index, colour in enumerate(COLOURS):
        picture[:, index * width // 4 : (index + 1) * width // 4] = colour
    return picture


def corner() -> np.ndarray:
    """Grey, with a white corner at the top left, a red one at the top right and a blue one at the bottom left."""
    picture = np.full((64, 96, 3), 90, np.uint8)
    picture[:24, :24], picture[:24, -24:], picture[-24:, :24] = 250, (230, 30, 30), (30, 30, 230)
    return picture


def film(
    path: Path, frames: list[np.ndarray], codec: str = "libx264", pix_fmt: str = "yuv420p", *, kind: str | None = None, rate: int = 24,
    source: str = "rgb24", aspect: Fraction | None = None, tags: dict[str, int] | None = None, times: list[int] | None = None,
    matrix: list[int] | None = None, **convert: Any,
) -> Path:  # fmt: skip
    with av.open(str(path), "w", format=kind) as box:
        stream: Any = box.add_stream(codec, rate=rate, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for index, frame in enumerate(frames):
            made = av.VideoFrame.from_ndarray(frame, format=source).reformat(format=pix_fmt, **convert)
            if times is not None:
                made.pts, made.time_base = times[index], Fraction(1, 1000)
            box.mux(stream.encode(made))
        box.mux(stream.encode())
    return path


ONE = 1 << 16
# Matrices [a b u, c d v, x y w]: pixel (x, y) is shown at (a x + c y, b x + d y).
WAYS: dict[str, tuple[tuple[int, int, int, int], Any]] = {
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
    "a quarter clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "a quarter back": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "transposed and half a turn": ((0, -1, -1, 0), lambda p: np.rot90(p.swapaxes(0, 1), 2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_display_matrix_is_shown_right(tmp_path: Path, way: str) -> None:
    (a, b, c, d), shown = WAYS[way]
    film(tmp_path / "plain.mp4", [corner()] * 2)
    data = bytearray((tmp_path / "plain.mp4").read_bytes())
    place = data.find(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    found, wanted = read_video(tmp_path / "turned.mp4").to_numpy()[0], shown(corner())
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 4


@pytest.mark.parametrize(
    ("height", "tags", "matrix", "full"),
    [
        (720, {}, "ITU709", False),
        (480, {}, "ITU601", False),
        (480, {"colorspace": 1, "color_range": 1}, "ITU709", False),
        (720, {"colorspace": 5, "color_range": 1}, "ITU601", False),
        (480, {"colorspace": 5, "color_range": 2}, "ITU601", True),
        (720, {"colorspace": 1, "color_range": 2}, "ITU709", True),
    ],
)
def test_colours_follow_the_tags_or_the_number_of_lines(tmp_path: Path, height: int, tags: dict[str, int], matrix: str, full: bool) -> None:
    picture, width = bars(height, 320), 320
    path = film(
        tmp_path / "a.mp4",
        [picture] * 2,
        tags=tags,
        dst_colorspace=matrix,
        src_color_range="JPEG",
        dst_color_range="JPEG" if full else "MPEG",
    )
    found = read_video(path).to_numpy()[0].astype(int)
    middles = [(2 * index + 1) * width // 8 for index in range(4)]
    assert np.abs(found[height // 2, middles] - np.array(COLOURS)).max() <= 4


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(2, 1), (96, 256)), (Fraction(1, 2), (96, 64)), (Fraction(16, 11), (96, 186))])
def test_pixels_come_out_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    notes = Recorder()
    found = read_video(film(tmp_path / "a.mp4", [bars(96, 128)] * 3, aspect=aspect), events=notes)
    assert found.size == size
    assert any("its pixels are" in line for line in notes.notes)
    middle = [(2 * index + 1) * size[1] // 8 for index in range(4)]
    assert np.abs(found.to_numpy()[1, 48, middle].astype(int) - np.array(COLOURS)).max() <= 24


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"), [("a.mov", "qtrle", "argb"), ("b.mov", "prores_ks", "yuva444p10le"), ("c.mkv", "ffv1", "bgra")]
)
def test_transparency_is_laid_over_white(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:32] = (200, 40, 40, 255)
    notes = Recorder()
    found = read_video(film(tmp_path / name, [picture] * 2, codec, pix_fmt, source="rgba"), events=notes).to_numpy()[0]
    assert found[50, 32].min() > 250
    assert np.abs(found[10, 32].astype(int) - (200, 40, 40)).max() < 12
    assert sum("over white" in line for line in notes.notes) == 1


def test_a_size_that_changes_is_shown_at_the_first_one(tmp_path: Path) -> None:
    def packets(picture: np.ndarray) -> list[bytes]:
        with av.open(io.BytesIO(), "w", format="webm") as box:
            stream: Any = box.add_stream("libvpx-vp9", rate=10)
            stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            made = [packet for _ in range(3) for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))]
            return [bytes(packet) for packet in [*made, *stream.encode()]]

    with av.open(str(tmp_path / "a.webm"), "w") as box:
        stream: Any = box.add_stream("libvpx-vp9", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for index, data in enumerate(packets(np.full((64, 64, 3), 90, np.uint8)) + packets(np.full((96, 128, 3), 160, np.uint8))):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.pts, packet.dts, packet.is_keyframe = (
                stream,
                Fraction(1, 10),
                index,
                index,
                index in (0, 3),
            )
            box.mux(packet)
    notes = Recorder()
    found = read_video(tmp_path / "a.webm", events=notes)
    assert found.frames.shape == (6, 3, 64, 64)
    assert [round(float(value) * 255 / 10) for value in found.frames.mean((1, 2, 3))] == [9, 9, 9, 16, 16, 16]
    assert sum("its size changes to 128x96" in line for line in notes.notes) == 1


def test_a_rate_that_varies_is_noted_and_its_mean_taken(tmp_path: Path) -> None:
    notes = Recorder()
    path = film(tmp_path / "a.mkv", [bars(64, 64)] * 5, rate=1000, times=[0, 100, 200, 600, 1000])
    assert read_video(path, events=notes).fps == pytest.approx(4.0, rel=0.01)
    assert any("frame rate varies" in line for line in notes.notes)
    steady = Recorder()
    assert read_video(film(tmp_path / "b.mkv", [bars(64, 64)] * 5, rate=25), events=steady).fps == pytest.approx(25.0)
    assert not steady.notes


CONTAINERS = {
    "a.ts": ("mpegts", "libx264"), "a.m2ts": ("mpegts", "libx264"), "a.mpg": ("mpeg", "mpeg1video"), "a.flv": ("flv", "flv1"),
    "a.wmv": ("asf", "msmpeg4"), "a.mxf": ("mxf", "mpeg2video"), "a.ivf": ("ivf", "libvpx"), "a.avi": ("avi", "mjpeg"),
    "a.mkv": ("matroska", "libx264"), "a.mov": ("mov", "libx264"), "a.3gp": ("3gp", "libx264"), "a": ("mp4", "libx264"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_any_container_that_holds_its_pictures_is_a_clip(tmp_path: Path, name: str) -> None:
    kind, codec = CONTAINERS[name]
    path = film(tmp_path / name, [bars(96, 128)] * 4, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", kind=kind, rate=25)
    assert is_clip(path)
    found = read_video(path)
    assert found.size == (96, 128)
    assert len(found) in (3, 4)
    notes = Recorder()
    assert read_image(path, events=notes).size == (96, 128)
    assert any("is a clip, its first frame is used" in line for line in notes.notes)


def test_quicktime_may_begin_with_other_atoms(tmp_path: Path) -> None:
    data = film(tmp_path / "a.mp4", [bars(96, 128)] * 2).read_bytes()
    head = struct.unpack(">I", data[:4])[0]
    for atom in (b"wide", b"free", b"skip"):
        path = tmp_path / f"{atom.decode()}.mov"
        path.write_bytes(struct.pack(">I", 8) + atom + struct.pack(">I", head - 8) + b"free" + bytes(head - 16) + data[head:])
        assert read_video(path).size == (96, 128)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:1,\nsecret.mp4\n", "ffconcat version 1.0\nfile secret.mp4\n", "v=0\no=- 0 0 IN IP4 127.0.0.1\n"]
)
def test_lists_of_other_files_open_nothing(tmp_path: Path, text: str) -> None:
    film(tmp_path / "secret.mp4", [bars(96, 128)] * 2)
    for name in ("list.m3u8", "list.mp4", "list.txt", "list"):
        (tmp_path / name).write_text(text)
        assert not is_clip(tmp_path / name)
        with pytest.raises(InputError) as error:
            read_video(tmp_path / name)
        assert "\n" not in str(error.value)


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((64, 80, 3), 20 * index, np.uint8) for index in range(count)]


def test_excerpts_are_the_frames_that_were_asked_for(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", numbered(12), rate=12)
    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(numbered(12)):
        Pillow.fromarray(frame).save(tmp_path / "frames" / f"{index}.png")
        (tmp_path / "frames" / f"._{index}.png").write_bytes(b"\0\5\x16\7" + bytes(60))
    (tmp_path / "frames" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "frames" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    first, *others = [Pillow.fromarray(frame) for frame in numbered(12)]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=83, lossless=True)
    for name in ("a.mp4", "frames", "a.webp"):
        for start, stride, most in ((0, 1, None), (3, 1, 4), (1, 5, None), (2, 3, 2), (11, 1, None)):
            found = read_video(tmp_path / name, start=start, stride=stride, max_frames=most)
            wanted = list(range(12))[start::stride][:most]
            assert [round(float(value) * 255 / 20) for value in found.frames.mean((1, 2, 3))] == wanted
            if name == "a.mp4":
                assert found.fps == pytest.approx(12 / stride)
        with pytest.raises(InputError, match=r"no frames after the first 12"):
            read_video(tmp_path / name, start=12)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_frames_that_are_left_out_can_be_cancelled_too(tmp_path: Path, name: str) -> None:
    Video(torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 8.0).save(tmp_path / name)
    for left_out in ({"start": 18}, {"stride": 19}):
        with pytest.raises(Cancelled):
            read_video(tmp_path / name, events=Recorder(stop_after=6), **left_out)


@pytest.mark.parametrize(
    ("sides", "aspect", "told"), [((2600, 2600), Fraction(19, 2), "megapixels"), ((64, 24), Fraction(1, 4), "at least 16")]
)
def test_the_shape_of_pixels_counts_towards_the_size(tmp_path: Path, sides: tuple[int, int], aspect: Fraction, told: str) -> None:
    path = film(tmp_path / "a.mkv", [np.zeros((*sides, 3), np.uint8)], codec="mpeg4", aspect=aspect)
    for read in (read_video, read_image):
        with pytest.raises(InputError, match=told):
            read(path)


def test_large_frames_are_shrunk_as_they_come_and_none_too_many_are_decoded(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [bars(720, 1280)] * 30, codec="mpeg4")
    found = read_video(path, cover=(128, 128), max_frames=3, events=Recorder(stop_after=4))
    assert found.frames.shape == (3, 3, 128, 228)
    with pytest.raises(Cancelled):
        read_video(path, events=Recorder(stop_after=4))


def test_a_clip_that_is_too_long_is_refused_by_its_header(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [np.zeros((1080, 1920, 3), np.uint8)] * 100, codec="mpeg4")
    with pytest.raises(InputError, match=r"too long \(100 frames of 1920x1080 px, or more\); read less of it"):
        read_video(path)
    assert len(read_video(path, stride=50)) == 2
