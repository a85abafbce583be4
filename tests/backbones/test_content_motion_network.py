"""CMD's networks: what a content frame holds, which axis each half of the motion is of, and what motion is made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calotype.backbones.content_motion_network import ContentMotionAutoencoder, Motion, MotionDiT
from calotype.errors import ShapeError
from tests.tolerance import close

FRAMES, HEIGHT, WIDTH = 5, 8, 12
SMALL: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "motion_channels": 3}


def awake(network: Any, seed: int = 0) -> Any:
    """With numbers where a new network has zeros."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False)


def clip(seed: int = 0, batch: int = 2) -> Tensor:
    return torch.randn(batch, FRAMES, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**16), frames=st.integers(1, 6))
@settings(max_examples=10, deadline=None)
def test_a_still_clips_content_frame_is_its_frame(seed: int, frames: int) -> None:
    frame = clip(seed)[:, :1]
    encoded = awake(ContentMotionAutoencoder(**SMALL), seed).encode(frame.expand(-1, frames, -1, -1, -1))
    assert torch.equal(encoded.content, frame[:, 0])


def test_a_content_frame_is_a_mean_with_weights_of_its_own_at_each_place_and_channel() -> None:
    clips = clip()
    encoded = awake(ContentMotionAutoencoder(**SMALL)).encode(clips)
    weights = encoded.weights
    assert weights.shape == clips.shape
    assert weights.dtype == torch.float32
    close(weights.sum(1), torch.ones_like(weights[:, 0]))
    close(encoded.content, (weights * clips).sum(1), depth=8)
    assert bool((encoded.content <= clips.amax(1) + 1e-5).all() and (encoded.content >= clips.amin(1) - 1e-5).all())
    for axis in (2, 3, 4):
        assert float(weights.std(axis).mean()) > 1e-3
    half = awake(ContentMotionAutoencoder(**SMALL)).to(torch.bfloat16).encode(clips.bfloat16())
    assert (half.weights.dtype, half.content.dtype) == (torch.float32, torch.float32)


def test_what_moves_along_a_row_changes_the_columns_alone() -> None:
    autoencoder = awake(ContentMotionAutoencoder(**{**SMALL, "depth": 0}))  # tokens are patches, each by itself
    frame = torch.zeros(1, 1, 4, HEIGHT, WIDTH)
    frame[..., 2:4, 0:2] = 1.0
    aside = torch.cat([frame.roll(2 * step, 4) for step in range(4)], 1)
    down = torch.cat([frame.roll(2 * step, 3) for step in range(4)], 1)
    for clips, still, moving in ((aside, "rows", "columns"), (down, "columns", "rows")):
        motion = autoencoder.encode(clips).motion
        constant, changing = getattr(motion, still), getattr(motion, moving)
        close(constant, constant[:, :, :1].expand_as(constant), depth=8)
        assert float((changing - changing[:, :, :1]).abs().max()) > 0.01
    assert autoencoder.encode(aside).motion.rows.shape == (1, 3, 4, HEIGHT // 2)
    assert autoencoder.encode(aside).motion.columns.shape == (1, 3, 4, WIDTH // 2)


def test_both_halves_have_one_projection() -> None:
    autoencoder = awake(ContentMotionAutoencoder(**{**SMALL, "depth": 0, "patch": 1}))
    motion, turned = autoencoder.encode(clip()).motion, autoencoder.encode(clip().mT).motion
    close(turned.rows, motion.columns, depth=8)
    close(turned.columns, motion.rows, depth=8)


def test_the_decoder_spreads_each_part_over_its_axes() -> None:
    autoencoder = awake(ContentMotionAutoencoder(**{**SMALL, "depth": 0}))
    content = clip()[:1, 0]
    motion = Motion(torch.randn(1, 3, FRAMES, HEIGHT // 2), torch.randn(1, 3, FRAMES, WIDTH // 2))
    base = autoencoder.decode(content, motion)
    assert base.shape == (1, FRAMES, 4, HEIGHT, WIDTH)

    def touched(made: Tensor) -> Tensor:
        return (made - base).abs().amax((0, 2)) > 1e-6

    rows, columns, picture = motion.rows.clone(), motion.columns.clone(), content.clone()
    rows[:, :, 2, 1] += 1.0
    columns[:, :, 3, 4] += 1.0
    picture[:, :, 0, 0] += 1.0
    expected = torch.zeros(3, FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    expected[0, 2, 2:4] = expected[1, 3, :, 8:10] = expected[2, :, 0:2, 0:2] = True
    assert torch.equal(touched(autoencoder.decode(content, Motion(rows, motion.columns))), expected[0])
    assert torch.equal(touched(autoencoder.decode(content, Motion(motion.rows, columns))), expected[1])
    assert torch.equal(touched(autoencoder.decode(picture, motion)), expected[2])


def test_a_new_autoencoder_repeats_the_content_frame_and_learns_more_than_that() -> None:
    torch.manual_seed(0)
    autoencoder = ContentMotionAutoencoder(**{**SMALL, "width": 32})
    frame = torch.zeros(1, 4, HEIGHT, WIDTH)
    frame[..., 2:6, 0:4] = 2.0
    clips = torch.stack([frame.roll(2 * step, 3) for step in range(4)], 1)
    encoded = autoencoder.encode(clips)
    repeated = encoded.content[:, None].expand_as(clips)
    assert torch.equal(autoencoder.decode(encoded.content, encoded.motion), repeated)
    optimizer = torch.optim.Adam(autoencoder.parameters(), 5e-3)
    for _ in range(60):
        loss = (autoencoder(clips) - clips).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best_still = float((clips.mean(1, keepdim=True) - clips).square().mean())
    assert loss.item() < best_still / 4  # 6 dB over the best frame that stands still


def test_shapes_that_cannot_be_cut_are_refused() -> None:
    autoencoder = ContentMotionAutoencoder(**SMALL)
    for shape in ((1, 2, 3, 8, 8), (1, 2, 4, 8, 7), (2, 4, 8, 8)):
        with pytest.raises(ShapeError, match="are expected"):
            autoencoder.encode(torch.zeros(shape))
    with pytest.raises(ShapeError, match="can't be cut"):
        MotionDiT(motion_channels=3, num_frames=5, rows=4, columns=6, content_size=(8, 12), width=16, depth=1, heads=2)


@pytest.fixture(scope="module")
def transformer() -> MotionDiT:
    network: MotionDiT = awake(
        MotionDiT(motion_channels=3, num_frames=4, rows=4, columns=6, content_size=(8, 12), width=16, depth=2, heads=2, text_width=7)
    )
    return network


def inputs(batch: int = 2) -> tuple[Motion, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((batch, 3, 4, 4), (batch, 3, 4, 6), (batch, 4, 8, 12), (batch, 7))
    rows, columns, content, text = (torch.randn(shape, generator=generator) for shape in shapes)
    return Motion(rows, columns), torch.tensor([300.0, 700.0][:batch]), content, text


def test_motion_is_made_for_a_content_frame_a_text_a_time_and_a_level_of_noise(transformer: MotionDiT) -> None:
    motion, times, content, text = inputs()
    base = transformer(motion, times, content, text)
    assert [half.shape for half in base] == [half.shape for half in motion]
    assert torch.equal(transformer(motion, times, content, text, torch.zeros(2)).rows, base.rows)
    place = content.clone()
    place[:, :, 0, 0] += 1.0
    for changed in (
        transformer(motion, times + 50, content, text),
        transformer(motion, times, place, text),
        transformer(motion, times, content, text + 1.0),
        transformer(motion, times, content, text, torch.full((2,), 200.0)),
        transformer(Motion(motion.rows, motion.columns + 1.0), times, content, text),
        transformer(Motion(motion.rows.flip(2), motion.columns), times, content, text),
    ):
        assert float((changed.rows - base.rows).abs().amax((1, 2, 3)).min()) > 1e-3
        assert float((changed.columns - base.columns).abs().amax((1, 2, 3)).min()) > 1e-3


def test_without_content_tokens_motion_is_the_same_for_every_content_frame() -> None:
    size = {"motion_channels": 3, "num_frames": 4, "rows": 4, "columns": 6, "content_size": (8, 12), "text_width": 7}
    blind = awake(MotionDiT(**size, width=16, depth=1, heads=2, sees_content=False))
    motion = Motion(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 6))
    made = [blind(motion, torch.tensor([500.0, 20.0]), content, torch.ones(2, 7)) for content in torch.randn(2, 2, 4, 8, 12)]
    assert torch.equal(made[0].rows, made[1].rows)
    assert made[0].columns.abs().min() > 0


def test_rows_of_a_batch_do_not_meet(transformer: MotionDiT) -> None:
    motion, times, content, text = inputs()
    both = transformer(motion, times, content, text)
    alone = transformer(Motion(motion.rows[1:], motion.columns[1:]), times[1:], content[1:], text[1:])
    for half, own in zip(both, alone, strict=True):
        close(own, half[1:], depth=60)


def test_a_new_transformer_says_nothing_and_its_file_is_itself(transformer: MotionDiT, tmp_path: Path) -> None:
    new = MotionDiT(motion_channels=3, num_frames=4, rows=4, columns=6, content_size=(8, 12), width=16, depth=1, heads=2, text_width=7)
    motion, times, content, text = inputs()
    assert not any(bool(half.any()) for half in new(motion, times, content, text))
    transformer.save_pretrained(tmp_path)
    again = MotionDiT.from_pretrained(tmp_path).eval()
    assert torch.equal(again(motion, times, content, text).columns, transformer(motion, times, content, text).columns)
