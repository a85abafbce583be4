"""Clips, animated pictures, folders of frames, and contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from calotype.data import as_video, contact_sheet, read_video
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image, Video
from tests.recorder import Recorder


def brightening(frames: int = 6, height: int = 32, width: int = 48) -> Video:
    levels = torch.linspace(0.2, 0.8, frames).reshape(-1, 1, 1, 1)
    return Video(levels.expand(frames, 3, height, width).contiguous(), 5.0)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_clips_come_back(tmp_path: Path, name: str) -> None:
    video = brightening()
    video.save(tmp_path / name)
    found = read_video(tmp_path / name)
    assert found.fps == pytest.approx(5.0, rel=0.05)
    assert found.frames.shape == video.frames.shape
    assert float((found.frames - video.frames).abs().mean()) < 0.03


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for index, picture in enumerate(brightening(12).to_pil()):
        picture.save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    notes = Recorder()
    found = read_video(tmp_path, fps=12, events=notes)
    assert (found.frames.shape[0], found.fps) == (12, 12)
    means = found.frames.mean(dim=(1, 2, 3))
    assert bool((means.diff() > 0).all())
    assert "12 frames" in notes.notes[0]


def test_frames_are_fitted_and_counted(tmp_path: Path) -> None:
    brightening().save(tmp_path / "a.mp4")
    found = read_video(tmp_path / "a.mp4", size=(24, 24), num_frames=4)
    assert found.frames.shape == (4, 3, 24, 24)
    with pytest.raises(InputError, match="6 frames, 9 are needed"):
        read_video(tmp_path / "a.mp4", num_frames=9)


def test_bad_clips_are_refused_with_one_line(tmp_path: Path) -> None:
    brightening(20, 128, 128).save(tmp_path / "whole.mp4")
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 5])
    (tmp_path / "text.mp4").write_text("not a clip")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "nothing").mkdir()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    Pillow.new("RGB", (32, 32)).save(mixed / "1.png")
    Pillow.new("RGB", (32, 40)).save(mixed / "2.png")
    for name in ("cut.mp4", "text.mp4", "empty.mp4", "absent.mp4", "nothing", "mixed"):
        with pytest.raises(InputError) as refusal:
            read_video(tmp_path / name, name="clip")
        assert "\n" not in str(refusal.value)
        assert str(refusal.value).startswith("clip: ")


def test_other_values_become_clips() -> None:
    video = brightening()
    assert as_video(video) is video
    assert as_video(video.frames, fps=3).fps == 3
    assert as_video(video, size=(16, 16)).frames.shape == (6, 3, 16, 16)
    with pytest.raises(ShapeError):
        as_video(torch.zeros(3, 32, 32))
    with pytest.raises(InputError):
        as_video(torch.full((2, 3, 32, 32), torch.nan))
    with pytest.raises(InputError):
        as_video(7)


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 40), height=st.integers(16, 80), width=st.integers(16, 80))
def test_a_contact_sheet_shows_first_and_last_frame(frames: int, height: int, width: int) -> None:
    video = brightening(frames, height, width) if frames > 1 else Video(torch.full((1, 3, height, width), 0.2), 5.0)
    sample_grid = contact_sheet(video)
    assert isinstance(sample_grid, Image)
    values = np.unique(sample_grid.pixels.double().numpy().round(3))
    assert {0.2, 1.0} <= set(values.tolist())
    assert len(values) == min(frames, 16) + 1
    if frames > 1:
        assert 0.8 in values
