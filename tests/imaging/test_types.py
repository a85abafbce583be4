"""Pictures, masks and clips: conversions, files, metadata, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from calotype.errors import InputError, ShapeError
from calotype.imaging.media import read_metadata
from calotype.imaging.types import Image, Mask, Video

METADATA = {"run": "r-17", "parameters": '{"prompt": "Köln – 20 %", "seed": 3}'}


def picture(height: int = 20, width: int = 30) -> Image:
    """Smooth, so that lossy formats keep it."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return Image(torch.stack([x, y, 1 - x * y]))


def clip(frames: int = 8, height: int = 64, width: int = 64) -> Video:
    """A bright square that moves over a gradient, on even pixels so that chroma subsampling keeps its edge."""
    background = picture(height, width).pixels
    frame = background.expand(frames, -1, -1, -1).clone()
    for i in range(frames):
        frame[i, :, 16:32, 4 * i : 4 * i + 16] = torch.tensor([0.9, 0.5, 0.1]).view(3, 1, 1)
    return Video(frame, 7.0)


def decode(path: Path) -> tuple[np.ndarray, Any]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), stream.average_rate


def mean_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def test_bytes_round_trip_exactly() -> None:
    array = np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)
    assert np.array_equal(Image.from_numpy(array).to_numpy(), array)
    assert np.array_equal(np.asarray(Image.from_numpy(array).to_pil()), array)
    assert np.array_equal(Image.from_pil(Image.from_numpy(array).to_pil()).to_numpy(), array)


def test_sizes_are_height_then_width() -> None:
    assert picture(20, 30).size == (20, 30)
    assert picture(20, 30).to_pil().size == (30, 20)
    assert clip(2, 20, 30).size == (20, 30)
    assert Mask(torch.zeros(20, 30, dtype=torch.bool)).size == (20, 30)
    assert clip(2, 20, 30).to_numpy().shape == (2, 20, 30, 3)


def test_values_outside_the_range_are_clipped_when_written() -> None:
    pixels = torch.tensor([-0.5, 0.5, 1.5]).view(3, 1, 1)
    assert Image(pixels).to_numpy().flatten().tolist() == [0, 128, 255]


def test_transparency_is_laid_over_white() -> None:
    half = PILImage.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert Image.from_pil(half).pixels.min() == 1
    palette = PILImage.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0])
    assert Image.from_pil(palette).to_numpy()[0, 0].tolist() == [255, 0, 0]


def test_clip_gives_frames() -> None:
    video = clip()
    assert len(video) == 8
    assert torch.equal(video[3].pixels, video.frames[3])
    assert len(video.to_pil()) == 8


@pytest.mark.parametrize(("suffix", "error"), [(".png", 0), (".jpg", 2), (".jpeg", 2), (".webp", 3), (".PNG", 0)])
def test_pictures_and_their_metadata_come_back(tmp_path: Path, suffix: str, error: float) -> None:
    path = tmp_path / f"a{suffix}"
    picture().save(path, metadata=METADATA)
    assert read_metadata(path) == METADATA
    with PILImage.open(path) as opened:
        assert mean_error(np.asarray(opened.convert("RGB")), picture().to_numpy()) <= error


def test_png_text_chunks_are_readable_by_others(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png", metadata=METADATA)
    with PILImage.open(tmp_path / "a.png") as opened:
        assert opened.text == METADATA  # type: ignore[attr-defined]


def test_mp4_plays_everywhere_and_is_near_lossless(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    clip().save(path, metadata=METADATA)
    frames, rate = decode(path)
    assert frames.shape == (8, 64, 64, 3)
    assert float(rate) == pytest.approx(7.0)
    assert mean_error(frames, clip().to_numpy()) < 2.5
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.video[0].codec_context.colorspace == 1
        assert "r-17" in container.metadata["comment"]
    assert read_metadata(path) == METADATA


@pytest.mark.parametrize(("height", "width"), [(33, 47), (64, 47), (16, 16)])
def test_mp4_of_odd_sides_is_padded_by_one(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.mp4"
    # Colour is kept at half the resolution, so the picture is a gentle one.
    video = Video((0.3 + 0.2 * picture(height, width).pixels).expand(3, -1, -1, -1).clone(), 24.0)
    video.save(path)
    frames, _ = decode(path)
    assert frames.shape == (3, height + height % 2, width + width % 2, 3)
    assert mean_error(frames[:, :height, :width], video.to_numpy()) < 2.5
    assert read_metadata(path) == {}


@pytest.mark.parametrize("fps", [7.0, 23.976, 0.5, 60.0])
def test_frame_rates_survive(tmp_path: Path, fps: float) -> None:
    Video(clip(4, 16, 32).frames, fps).save(tmp_path / "a.mp4")
    _, rate = decode(tmp_path / "a.mp4")
    assert float(rate) == pytest.approx(fps, rel=1e-3)


def test_colours_survive_mp4(tmp_path: Path) -> None:
    """Flat fields, where chroma subsampling has no part: every colour within two grey levels."""
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.2, 0.5, 0.8], [1, 1, 1], [0, 0, 0]])
    Video(colours.view(-1, 3, 1, 1).expand(-1, -1, 32, 32).clone(), 4.0).save(tmp_path / "a.mp4")
    frames, _ = decode(tmp_path / "a.mp4")
    assert np.abs(frames[:, 8, 8].astype(float) - colours.numpy() * 255).max() <= 3


def test_the_same_clip_is_the_same_bytes(tmp_path: Path) -> None:
    for suffix in (".mp4", ".gif"):
        for i in range(12):
            clip().save(tmp_path / f"{i}{suffix}", metadata=METADATA)
        assert len({(tmp_path / f"{i}{suffix}").read_bytes() for i in range(12)}) == 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_keep_frames_time_and_metadata(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    clip().save(path, metadata=METADATA)
    assert read_metadata(path) == METADATA
    with PILImage.open(path) as opened:
        assert opened.n_frames == 8  # type: ignore[attr-defined]
        assert opened.info.get("loop") == 0
        for i, expected in enumerate(clip().to_numpy()):
            opened.seek(i)
            opened.load()
            assert mean_error(np.asarray(opened.convert("RGB")), expected) < 8
            assert opened.info["duration"] == pytest.approx(1000 / 7, abs=6)


def test_masks_are_lossless(tmp_path: Path) -> None:
    mask = Mask(torch.rand(17, 23, generator=torch.Generator().manual_seed(0)) > 0.5)
    mask.save(tmp_path / "m.png")
    mask.save(tmp_path / "m.webp")
    for name in ("m.png", "m.webp"):
        with PILImage.open(tmp_path / name) as opened:
            assert torch.equal(Mask.from_pil(opened).values, mask.values)
    with pytest.raises(InputError, match=r"suffix .jpg"):
        mask.save(tmp_path / "m.jpg")


@pytest.mark.parametrize(("value", "name"), [(picture(), "a.png"), (clip(2, 16, 16), "a.mp4"), (Mask(torch.ones(16, 16) > 0), "a.png")])
def test_nothing_is_overwritten_unless_asked(tmp_path: Path, value: Any, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already"):
        value.save(path)
    assert path.read_bytes() == b"precious"
    value.save(path, overwrite=True)
    assert path.stat().st_size > 20
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("value", "name", "match"), [(picture(), "a.bmp", "suffix .bmp"), (clip(2, 16, 16), "a.mkv", "mkv"), (picture(), "a", "no suffix")]
)
def test_other_formats_are_refused_in_one_line(tmp_path: Path, value: Any, name: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        value.save(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image(torch.zeros(4, 4, 3)),
        lambda: Image(torch.zeros(3, 4, 4, dtype=torch.float64)),
        lambda: Image(torch.zeros(3, 4, 4, dtype=torch.uint8)),
        lambda: Image(torch.zeros(1, 3, 4, 4)),
        lambda: Image.from_numpy(np.zeros((4, 4), dtype=np.uint8)),
        lambda: Mask(torch.zeros(4, 4)),
        lambda: Mask(torch.zeros(1, 4, 4, dtype=torch.bool)),
        lambda: Video(torch.zeros(3, 4, 4), 7.0),
        lambda: Video(torch.zeros(0, 3, 4, 4), 7.0),
        lambda: Video(torch.zeros(2, 4, 4, 3), 7.0),
    ],
)
def test_wrong_tensors_are_refused(make: Any) -> None:
    with pytest.raises(ShapeError, match="it must be"):
        make()


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_frame_rates_are_refused(fps: float) -> None:
    with pytest.raises(InputError, match="fps"):
        Video(torch.zeros(2, 3, 4, 4), fps)


def test_metadata_of_what_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        read_metadata(tmp_path / "missing.png")
    for name in ("a.png", "a.mp4", "a.jpg"):
        (tmp_path / name).write_bytes(b"not a picture")
        with pytest.raises(InputError, match="can't be read"):
            read_metadata(tmp_path / name)
    PILImage.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert read_metadata(tmp_path / "plain.png") == {}
