"""Measured motion is the motion that was made, and closed loops are told from open ones."""

from __future__ import annotations

import math

import pytest
import torch

from calotype.metrics.block_matching import follow_windows, moving_detail, window_places
from calotype.metrics.loops import contrast, seam_ratio
from calotype.world.landscapes.drawing import WATER, paint_landscapes, sample_landscape

ALL = torch.ones(48, 48, dtype=torch.bool)


def waves(shift: tuple[float, float], angles: tuple[float, ...] = (0.3, 1.2, 2.2)) -> torch.Tensor:
    """A smooth pattern, moved by (right, down)."""
    down, right = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    field = sum(
        torch.cos((0.8 + 0.1 * number) * ((right - shift[0]) * math.cos(angle) + (down - shift[1]) * math.sin(angle)) + number)
        for number, angle in enumerate(angles)
    )
    return (0.5 + 0.1 * torch.as_tensor(field)).expand(3, -1, -1)


@pytest.mark.parametrize("velocity", [(1.25, 0.0), (0.0, -0.75), (-0.5, 1.5)])
def test_a_moving_pattern_is_followed(velocity: tuple[float, float]) -> None:
    clip = torch.stack([waves((velocity[0] * time, velocity[1] * time)) for time in range(5)])
    places = window_places(clip[0], ALL)
    assert len(places) > 10
    found = follow_windows(clip, ALL, places)
    truth = torch.arange(5.0)[:, None, None] * torch.tensor(velocity)
    assert float((found - truth).norm(dim=-1).median(1).values.max()) < 0.15
    expected = truth[..., None].transpose(1, 2).expand(-1, -1, 48, 48)
    assert float(follow_windows(clip, ALL, places, expected).norm(dim=-1).median(1).values.max()) < 0.15


def test_standing_shading_is_no_motion() -> None:
    shade = torch.linspace(0, 0.4, 48)[:, None]
    clip = torch.stack([(waves((float(time), 0.0)) + shade).clamp(0, 1) for time in range(3)])
    found = follow_windows(clip, ALL, window_places(clip[0], ALL))
    assert float((found[2] - torch.tensor([2.0, 0.0])).norm(dim=-1).median()) < 0.15


def test_along_an_edge_motion_cannot_be_seen() -> None:
    # In a corner the blur that is taken off ends, which looks like structure.
    assert len(window_places(waves((0.0, 0.0), angles=(0.4,)), ALL)) <= 1
    assert not len(window_places(torch.full((3, 48, 48), 0.5), ALL))
    half = ALL.clone()
    half[:, 24:] = False
    places = window_places(waves((0.0, 0.0)), half)
    assert len(places)
    assert float(places[:, 0].max()) < 24
    assert not window_places(waves((0.0, 0.0)), torch.zeros_like(ALL)).numel()
    assert follow_windows(torch.stack([waves((0.0, 0.0))] * 3), half, torch.zeros(0, 2)).shape == (3, 0, 2)


def test_true_frames_of_landscapes_follow_their_field() -> None:
    landscapes = [sample_landscape(split="tune", seed=1, index=index) for index in range(8)]
    first = paint_landscapes(landscapes)
    clips = torch.stack([paint_landscapes(landscapes, time=float(time)).image for time in range(4)], 1)
    errors, still = [], []
    for clip, mask, motion in zip(clips, first.mask == WATER, first.motion, strict=True):
        places = window_places(clip[0], mask)
        if len(places):
            ahead = torch.stack([motion * time for time in range(4)])
            errors.append(float(follow_windows(clip, mask, places, ahead).norm(dim=-1).mean(1)[3]))
            still.append(float(follow_windows(clip[:1].expand_as(clip), mask, places, ahead).norm(dim=-1).mean(1)[3]))
    assert len(errors) >= 4
    assert sum(errors) / len(errors) < 0.3
    assert sum(still) / len(still) > 1.0


def test_a_loop_closes_or_jumps() -> None:
    turn = torch.stack([waves((8 * math.sin(2 * math.pi * time / 12), 0.0)) for time in range(12)])
    assert 0.5 < seam_ratio(turn) < 1.5
    assert seam_ratio(torch.stack([waves((0.4 * time, 0.0)) for time in range(8)])) > 3
    assert math.isnan(seam_ratio(turn[:1].expand(4, -1, -1, -1)))


def test_contrast_is_that_of_the_pattern_alone() -> None:
    pattern = waves((0.0, 0.0))
    shade = torch.linspace(0, 0.3, 48)[:, None]
    clip = torch.stack([pattern, pattern / 2, pattern + 0.2, pattern + shade])
    found = contrast(clip, ALL)
    assert found[0] == 1
    assert found[1] == pytest.approx(0.5, abs=1e-3)
    assert found[2] == pytest.approx(1.0, abs=1e-3)
    assert found[3] == pytest.approx(1.0, abs=0.08)
    assert bool(contrast(clip, torch.zeros_like(ALL)).isnan().all())
    assert bool(moving_detail(clip, torch.zeros_like(ALL)).eq(0).all())
