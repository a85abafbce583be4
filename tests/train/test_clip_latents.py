"""Clips as latents: what is kept for a row, what makes a chunk anew, and how much is held while rows come from many."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from calotype.backbones.autoencoder import LatentSpace
from calotype.data.clip_folder import ClipFolder
from calotype.imaging.types import Image
from calotype.train.clip_latents import FOLDER, ROWS, clip_latents

CLIPS, FRAMES = 20, 3
"""So many that they fill one chunk and begin another."""


class Counted(LatentSpace):
    """Counts the frames that it encoded."""

    frames = 0

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.frames += len(images)
        return super().encode(images)


def space(seed: int = 0, scaling_factor: float = 0.5) -> Counted:
    torch.manual_seed(seed)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=2, scaling_factor=scaling_factor)
    return Counted(vae.eval().requires_grad_(False), torch.device("cpu"))


def write(folder: Path, shade: float) -> None:
    for number in range(FRAMES):
        Image(torch.full((3, 32, 32), shade / 2 + number / 10)).save(folder / f"{number}.png", overwrite=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    for clip in range(CLIPS):
        write(tmp_path / "data" / f"clip{clip:02d}", clip / CLIPS)
    return tmp_path / "data"


def open_clips(folder: Path, size: tuple[int, int] = (16, 16)) -> ClipFolder:
    return ClipFolder.open(folder, size=size, num_frames=FRAMES)


def encoded_frames(folder: Path, by: Counted, size: tuple[int, int] = (16, 16), *, pixels: bool = False) -> int:
    """How many frames a training that goes through all rows has to encode."""
    by.frames = 0
    chunks = clip_latents(open_clips(folder, size), by, pixels=pixels)
    chunks.make_all(lambda: None)
    return by.frames


def test_a_row_is_what_the_autoencoder_makes_of_its_frames(folder: Path) -> None:
    data, by = open_clips(folder), space()
    rows = clip_latents(data, by, pixels=True).rows([17, 2])
    clips = data.rows([17, 2])["clip"]
    assert (rows["latents"].shape, rows["latents"].dtype) == ((2, FRAMES, 2, 8, 8), torch.float16)
    for row in range(2):
        torch.testing.assert_close(rows["latents"][row].float(), by.encode(clips[row]), atol=2e-3, rtol=2e-3)
    assert torch.equal(rows["pixels"], (clips * 255).round().to(torch.uint8))


def test_only_the_chunk_of_a_changed_clip_is_made_anew(folder: Path) -> None:
    first, all_frames = space(), CLIPS * FRAMES
    assert encoded_frames(folder, first) == all_frames
    assert encoded_frames(folder, first) == 0
    write(folder / "clip18", 0.01)
    assert encoded_frames(folder, first) == (CLIPS - ROWS) * FRAMES
    write(folder / "clip03", 0.02)
    assert encoded_frames(folder, first) == ROWS * FRAMES
    assert encoded_frames(folder, first) == 0


def test_another_size_another_autoencoder_and_another_scaling_have_latents_of_their_own(folder: Path) -> None:
    first, all_frames = space(), CLIPS * FRAMES
    encoded_frames(folder, first)
    assert encoded_frames(folder, first, (8, 16)) == all_frames
    assert encoded_frames(folder, space(seed=1)) == all_frames
    assert encoded_frames(folder, space(scaling_factor=0.25)) == all_frames
    assert encoded_frames(folder, first, pixels=True) == all_frames
    # None of them took the place of another.
    assert encoded_frames(folder, space()) == encoded_frames(folder, first, (8, 16)) == 0


def test_latents_don_t_depend_on_which_were_asked_for_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, by = open_clips(folder), space()
    one = clip_latents(data, by).rows([19, 0, 7])["latents"]
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "other"))
    chunks = clip_latents(data, by)
    other = torch.stack([chunks.rows([number])["latents"][0] for number in (7, 0, 19)]).flip(0)
    assert torch.equal(one, other)


def test_no_more_than_the_bound_is_held_while_rows_come_from_all_chunks(folder: Path, tmp_path: Path) -> None:
    data, by = open_clips(folder), space()
    chunks = clip_latents(data, by)
    chunks.memory_megabytes = 1e-6
    for number in (0, 19, 1, 18, 2, 17):
        chunks.rows([number])
        assert len(chunks._held) == 1
    assert by.frames == CLIPS * FRAMES
    assert len(list((tmp_path / "cache" / FOLDER).glob("*.safetensors"))) == 2
