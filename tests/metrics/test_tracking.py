"""Tracking on painted squares: where the object is, and whether it is one."""

import math

import numpy as np
import torch
from torch import Tensor

from calotype.metrics import centroid_error, ghost_share, jump_ratio, monotonicity, opacity, track

SIDE, FRAMES, RADIUS = 48, 8, 5
AREA = float((2 * RADIUS) ** 2)
COLOUR = torch.tensor([[0.9, 0.2, 0.1], [0.5, 0.1, 0.05]])


def background() -> Tensor:
    texture = 0.05 * torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    return torch.tensor([0.3, 0.6, 0.4])[None, :, None, None] + texture


def square(x: int, y: int = 24) -> Tensor:
    picture = background()[0].clone()
    picture[:, y - RADIUS : y + RADIUS, x - RADIUS : x] = COLOUR[0][:, None, None]
    picture[:, y - RADIUS : y + RADIUS, x : x + RADIUS] = COLOUR[1][:, None, None]
    return picture


def moving() -> tuple[Tensor, np.ndarray]:
    xs = [10 + 4 * i for i in range(FRAMES)]
    return torch.stack([square(x) for x in xs]), np.array([[x - 0.5, 23.5] for x in xs])


def test_an_even_motion_is_followed_exactly() -> None:
    clip, truth = moving()
    found = track(clip, background(), COLOUR, AREA)
    assert np.allclose(centroid_error(found, truth), 0.0, atol=1e-6)
    assert ghost_share(found, AREA) == 0.0
    assert math.isclose(jump_ratio(found), 1.0)
    assert monotonicity(found, truth[-1] - truth[0]) == 1.0


def test_opacity_measures_transparency() -> None:
    half = 0.5 * square(20) + 0.5 * background()[0]
    assert math.isclose(opacity(half[None], background(), COLOUR)[0, 24, 18].item(), 0.5, abs_tol=1e-3)


def test_a_cross_fade_is_a_ghost_and_a_cut_is_a_jump() -> None:
    clip, truth = moving()
    weight = torch.linspace(1, 0, FRAMES)[:, None, None, None]
    fade = track(weight * clip[:1] + (1 - weight) * clip[-1:], background(), COLOUR, AREA)
    assert ghost_share(fade, AREA) >= 0.5
    cut = track(torch.cat([clip[:1].expand(4, -1, -1, -1), clip[-1:].expand(4, -1, -1, -1)]), background(), COLOUR, AREA)
    assert ghost_share(cut, AREA) == 0.0
    assert math.isclose(jump_ratio(cut), FRAMES - 1)
    assert monotonicity(cut, truth[-1] - truth[0]) == 1 / (FRAMES - 1)


def test_a_missing_or_wrongly_coloured_object_costs_half_the_side() -> None:
    clip, truth = moving()
    clip[3] = background()[0]
    clip[4] = square(26).flip(0)
    found = track(clip, background(), COLOUR, AREA)
    error = centroid_error(found, truth)
    assert error[3] == error[4] == SIDE / 2
    assert math.isclose(ghost_share(found, AREA), 2 / 6)
    assert monotonicity(found, truth[-1] - truth[0]) == 4 / 7


def test_a_standing_object_has_no_jump_ratio() -> None:
    clip, truth = moving()
    found = track(clip[:1].expand(FRAMES, -1, -1, -1), background(), COLOUR, AREA)
    assert math.isnan(jump_ratio(found))
    assert monotonicity(found, truth[-1] - truth[0]) == 0.0
