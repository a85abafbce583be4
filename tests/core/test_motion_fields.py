"""Motion fields: sizes, the way of a pixel against closed forms, smooth fields from few vectors, outliers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.core.motion_fields import DIRECTIONS, integrate, resize_field, spread, uniform_field, without_outliers
from calotype.errors import InputError, ShapeError
from tests.tolerance import close

SEEDS = st.integers(0, 10_000)


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(4, 40), st.integers(4, 40))
def test_a_uniform_motion_covers_the_same_share_of_each_side_at_every_size(h: int, w: int, tall: int, wide: int) -> None:
    field = torch.tensor([0.3, -0.2]).view(2, 1, 1).expand(2, h, w)
    found = resize_field(field, (tall, wide))
    close(found[0] / wide, torch.full((tall, wide), 0.3 / w), depth=10)
    close(found[1] / tall, torch.full((tall, wide), -0.2 / h), depth=10)


def test_a_field_is_not_changed_where_it_lies() -> None:
    field = torch.ones(2, 8, 8)
    resize_field(field, (4, 4))
    assert torch.equal(field, torch.ones(2, 8, 8))
    assert resize_field(field, (8, 8)) is field


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 12))
def test_a_uniform_motion_goes_straight_and_comes_back(x: float, y: float, steps: int) -> None:
    field = torch.tensor([x, y], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 9, 11)
    ways, back = integrate(field, steps), integrate(-field, steps)
    assert len(ways) == steps + 1
    for number, way in enumerate(ways):
        close(way, field * number, depth=20)
        close(back[number], -way, depth=20)


def test_a_rotation_is_followed_as_eulers_method_does() -> None:
    """In a linear field bilinear look-up is exact: y(i + 1) = (1 + A) y(i)."""
    rows, columns = torch.meshgrid(torch.arange(33.0).double() - 16, torch.arange(33.0).double() - 16, indexing="ij")
    field = 0.05 * torch.stack([-rows, columns])[None]
    step = torch.eye(2, dtype=torch.float64) + 0.05 * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    start = torch.tensor([5.0, 3.0], dtype=torch.float64)
    for number, way in enumerate(integrate(field, 10)):
        expected = torch.linalg.matrix_power(step, number) @ start
        close(start + way[0, :, 19, 21], expected, depth=100)


def test_what_leaves_the_picture_goes_on_and_slow_motion_adds_up() -> None:
    right = uniform_field("right", 3.0, (4, 8))[None]
    assert float(integrate(right, 5)[-1][0, 0].min()) == 15.0
    slow = uniform_field("right", 0.125, (4, 8))[None]
    assert float(integrate(slow, 16)[-1][0, 0, 2, 2]) == 2.0


def test_a_still_rim_stays_still() -> None:
    field = torch.zeros(1, 2, 16, 16)
    field[:, 0, :, :8] = 0.5
    ways = integrate(field, 20)
    assert bool((ways[-1][..., 9:] == 0).all())
    assert bool((ways[-1][0, 0, :, :8] > 0).all())
    assert float(ways[-1][0, 0, 0, 7] + 7) <= 8.0


@pytest.mark.parametrize(("word", "vector"), list(DIRECTIONS.items()))
def test_directions_are_as_the_picture_shows_them(word: str, vector: tuple[float, float]) -> None:
    angle = {"right": "0", "up": "90", "left": "180", "down": "270"}[word]
    for asked in (word, angle):
        found = uniform_field(asked, 0.5, (3, 4))
        assert found.shape == (2, 3, 4)
        assert torch.allclose(found[:, 1, 1], 0.5 * torch.tensor(vector), atol=1e-6)


@pytest.mark.parametrize(("direction", "speed"), [("north", 1.0), ("left", -0.1), ("left", math.nan), ("nan", 1.0), ("inf", 1.0)])
def test_what_is_no_wind_is_refused(direction: str, speed: float) -> None:
    with pytest.raises(InputError, match="direction"):
        uniform_field(direction, speed, (3, 4))


def test_one_vector_fills_its_part_of_the_region_and_no_other() -> None:
    region = torch.zeros(20, 30, dtype=torch.bool)
    region[2:8, 3:25] = True
    region[12:18, 3:25] = True
    known = torch.zeros_like(region)
    known[4, 10] = True
    vectors = torch.zeros(2, 20, 30)
    vectors[:, 4, 10] = torch.tensor([0.7, -0.3])
    found = spread(vectors, known, region)
    expected = torch.zeros(2, 20, 30)
    expected[:, 2:8, 3:25] = torch.tensor([0.7, -0.3]).view(2, 1, 1)
    close(found, expected, depth=100)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_spread_field_is_harmonic_and_between_what_is_known(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    region = torch.rand(14, 15, generator=rng) < 0.8
    known = region & (torch.rand(14, 15, generator=rng) < 0.08)
    vectors = torch.randn(2, 14, 15, generator=rng, dtype=torch.float64)
    found = spread(vectors, known, region)
    assert torch.equal(found[:, known], vectors[:, known])
    assert bool((found[:, ~region] == 0).all())
    if bool(known.any()):
        assert float(found.amax()) <= max(0.0, float(vectors[:, known].max())) + 1e-9
        assert float(found.amin()) >= min(0.0, float(vectors[:, known].min())) - 1e-9
    for row, column in (region & ~known).nonzero().tolist():
        near = [(row + down, column + right) for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        near = [place for place in near if 0 <= place[0] < 14 and 0 <= place[1] < 15 and bool(region[place])]
        if near:
            mean = sum(found[:, place[0], place[1]] for place in near) / len(near)
            assert float((found[:, row, column] - mean).abs().max()) < 1e-9


def test_outliers_take_what_their_neighbours_say() -> None:
    rng = torch.Generator().manual_seed(3)
    field = 0.5 + 0.02 * torch.randn(2, 24, 24, generator=rng)
    wrong = field.clone()
    wrong[:, 5, 6], wrong[:, 17, 3] = 30.0, -20.0
    region = torch.ones(24, 24, dtype=torch.bool)
    region[:, 20:] = False
    found = without_outliers(wrong, region)
    assert float((found - field)[:, region].abs().max()) < 0.15
    assert bool((found[:, ~region] == 0).all())
    assert torch.equal(without_outliers(field, torch.zeros_like(region)), torch.zeros_like(field))


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        integrate(torch.full((1, 2, 4, 4), math.nan), 2)
    with pytest.raises(InputError, match="steps is -1"):
        integrate(torch.zeros(1, 2, 4, 4), -1)
    with pytest.raises(ShapeError, match="differ in size"):
        spread(torch.zeros(2, 4, 4), torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool))
