"""Folders of clips: films and folders of frames, captions, excerpts, and every problem in a line of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from calotype.core.events import Events
from calotype.data.clip_folder import ClipFolder
from calotype.errors import DataError, InputError
from calotype.imaging.types import Image, Video


class Heard(Events):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def clip(frames: int, shade: float = 0.5) -> torch.Tensor:
    made = torch.full((frames, 3, 32, 48), shade)
    made[:, 0] = torch.linspace(0, 1, frames)[:, None, None]
    return made


def frame_folder(folder: Path, frames: torch.Tensor) -> None:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(frames):
        Image(pixels).save(folder / f"frame{number}.png")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "clips").mkdir(parents=True)
    Video(clip(9), 12.0).save(root / "clips" / "film.mp4")
    frame_folder(root / "clips" / "frames", clip(12, 0.2))
    (root / "captions.csv").write_text("file_name,caption\nclips/film.mp4,a film\nframes,a folder\n")
    return root


def test_films_and_folders_of_frames_are_clips(mixed: Path) -> None:
    heard = Heard()
    data = ClipFolder.open(mixed, size=(16, 16), num_frames=4, events=heard)
    assert [(row.stem, row.start) for row in data.content] == [  # type: ignore[attr-defined]
        ("film", 0), ("film", 4), ("frames", 0), ("frames", 4), ("frames", 8),
    ]  # fmt: skip
    assert data.captions([0, 4]) == ["a film", "a folder"]
    rows = data.rows([0, 3])
    assert rows["clip"].shape == (2, 4, 3, 16, 16)
    assert rows["fps"].tolist() == pytest.approx([12.0, 8.0])
    # Frame 10 comes after frame 9 and not after frame 1.
    torch.testing.assert_close(rows["clip"][1, :, 0].mean((1, 2)), torch.linspace(0, 1, 12)[4:8], atol=0.01, rtol=0)
    assert any("1 folders of pictures are read as clips of 8 frames a second" in note for note in heard.notes)


def test_excerpts_follow_stride_and_skip(mixed: Path) -> None:
    data = ClipFolder.open(mixed, size=(16, 16), num_frames=3, stride=2, skip=1)
    assert [(row.stem, row.start) for row in data.content] == [("film", 1), ("frames", 1), ("frames", 7)]  # type: ignore[attr-defined]
    torch.testing.assert_close(data.rows([1])["clip"][0, :, 0].mean((1, 2)), torch.linspace(0, 1, 12)[[1, 3, 5]], atol=0.01, rtol=0)
    assert data.rows([1])["fps"].item() == 4.0


def test_a_frame_that_changes_is_another_data_set_and_is_refused(mixed: Path) -> None:
    before = ClipFolder.open(mixed, size=(16, 16), num_frames=4)
    Image(torch.ones(3, 32, 48)).save(mixed / "clips" / "frames" / "frame5.png", overwrite=True)
    with pytest.raises(InputError, match="changed since the training began"):
        before.rows([3])
    after = ClipFolder.open(mixed, size=(16, 16), num_frames=4)
    assert after.fingerprint != before.fingerprint
    assert after.key([0, 1]) == before.key([0, 1])


def test_every_problem_has_a_line(mixed: Path) -> None:
    Video(clip(3), 8.0).save(mixed / "clips" / "short.mp4")
    (mixed / "clips" / "broken.mp4").write_bytes(os.urandom(2000))
    frame_folder(mixed / "clips" / "uneven", clip(5))
    Image(torch.zeros(3, 20, 20)).save(mixed / "clips" / "uneven" / "frame3.png", overwrite=True)
    with pytest.raises(DataError) as caught:
        ClipFolder.open(mixed, size=(16, 16), num_frames=4)
    told = "\n".join(caught.value.problems)
    assert "clips/short.mp4: 3 frames, 4 are needed" in told
    assert "clips/broken.mp4: " in told
    assert "frame3.png is 20x20 px, the first frame is 48x32" in told
    assert "broken: no caption" in told


def test_a_folder_without_clips_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    Image(torch.zeros(3, 32, 32)).save(tmp_path / "data" / "images" / "0.png")
    with pytest.raises(InputError, match=r"holds no clips .* its folders are images"):
        ClipFolder.open(tmp_path / "data", size=(16, 16), num_frames=2)
