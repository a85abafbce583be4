"""Splatting: exact at both ends of a loop, mass conserved, linear, without holes where two ways meet, the same every time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calotype.core.motion_fields import integrate
from calotype.core.splatting import EMPTY, fill_holes, forward_splat, splat, symmetric_splat
from calotype.errors import InputError, ShapeError
from tests.tolerance import close

SEEDS = st.integers(0, 10_000)


def maps(seed: int, channels: int = 5, size: tuple[int, int] = (12, 17), batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


def motion(seed: int, speed: float = 1.5, size: tuple[int, int] = (12, 17), batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(seed + 99)) * speed


def by_hand(values: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, for one picture: the kernel between every two pixels."""
    height, width = values.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    x, y = (columns + displacement[0]).flatten(), (rows + displacement[1]).flatten()
    along = (1 - (columns.flatten()[:, None] - x).abs()).clamp_min(0)
    down = (1 - (rows.flatten()[:, None] - y).abs()).clamp_min(0)
    kernel = along * down
    return (values.flatten(1) @ kernel.T).view_as(values), kernel.sum(1).view(1, height, width)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_splatting_is_its_definition(seed: int) -> None:
    values, ways = maps(seed).double(), motion(seed).double()
    sums, weights = splat(values, ways)
    for row in range(len(values)):
        expected = by_hand(values[row], ways[row])
        close(sums[row], expected[0], depth=30, scale=10)
        close(weights[row], expected[1], depth=30)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_mass_is_conserved_as_long_as_nothing_leaves_the_picture(seed: int) -> None:
    values, ways = maps(seed).double(), motion(seed).double().clamp(-3, 3)
    padded = torch.nn.functional.pad(values, (4, 4, 4, 4))
    sums, weights = splat(padded, torch.nn.functional.pad(ways, (4, 4, 4, 4)))
    close(sums.sum((2, 3)), values.sum((2, 3)), depth=300, scale=50)
    close(weights.sum((2, 3)), torch.full((2, 1), float(padded.shape[2] * padded.shape[3])).double(), depth=300)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_loop_begins_and_ends_with_the_picture_itself(kind: torch.dtype) -> None:
    values, field = maps(1).to(kind), motion(1, 0.7).to(kind)
    steps = 6
    future, past = integrate(field, steps), integrate(-field, steps)
    begin = symmetric_splat(values, future[0], past[steps], 0.0)
    end = symmetric_splat(values, future[steps], past[0], 1.0)
    for found in (begin, end):
        assert torch.equal(found.values, values)
        assert not found.holes.any()
    halfway = symmetric_splat(values, future[3], past[3], 0.5).values
    assert float((halfway - values).abs().max()) > 0.1
    # The control: with the past field's sign flipped the loop doesn't close.
    assert float((symmetric_splat(values, future[steps], integrate(field, steps)[steps], 1.0).values - values).abs().max()) > 0.1


def test_a_whole_shift_moves_pixels_and_nothing_else() -> None:
    values = maps(2)
    ways = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(2, 2, 12, 17)
    found = forward_splat(values, ways, fill=False)
    assert torch.equal(found.values[:, :, :-2, 3:], values[:, :, 2:, :-3])
    assert found.holes[:, 0, :, :3].all()
    assert found.holes[:, 0, -2:].all()
    assert not found.holes[:, 0, :-2, 3:].any()
    mirrored = symmetric_splat(values, ways, -ways, 0.5, fill=False)
    assert not mirrored.holes.any()


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0, 1), st.floats(0.1, 6.0))
def test_it_commutes_with_a_1x1_convolution_also_where_holes_are_filled(seed: int, share: float, speed: float) -> None:
    values, matrix = maps(seed, 16), torch.randn(3, 16, generator=torch.Generator().manual_seed(seed)) / 4
    future, past = motion(seed, speed), motion(seed + 1, speed)
    last = symmetric_splat(values, future, past, share)
    first = symmetric_splat(torch.einsum("oc,bchw->bohw", matrix, values), future, past, share)
    assert torch.equal(last.holes, first.holes)
    assert float((torch.einsum("oc,bchw->bohw", matrix, last.values) - first.values).abs().max()) < 1e-5


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0, 1), st.floats(0, 8.0))
def test_a_flat_picture_stays_flat(seed: int, share: float, speed: float) -> None:
    flat = torch.full((2, 3, 12, 17), 0.7)
    found = symmetric_splat(flat, motion(seed, speed), motion(seed + 1, speed), share)
    assert float((found.values - flat).abs().max()) < 1e-5
    assert not torch.equal(found.values, torch.zeros_like(flat))


def test_two_ways_leave_fewer_holes_than_one() -> None:
    away = torch.stack([torch.linspace(-20, 20, 24).expand(24, 24), torch.zeros(24, 24)])[None]
    values = maps(4, size=(24, 24), batch=1)
    alone = forward_splat(values, away).holes.float().mean()
    together = symmetric_splat(values, away, -away, 0.5).holes.float().mean()
    assert alone > 0.1
    assert together == 0


def test_a_row_is_what_it_is_alone_and_the_same_every_time() -> None:
    values, future, past = maps(5), motion(5), motion(6)
    both = symmetric_splat(values, future, past, 0.3).values
    assert torch.equal(both, symmetric_splat(values, future, past, 0.3).values)
    alone = symmetric_splat(values[1:], future[1:], past[1:], 0.3).values
    # The other row's motion reaches farther, so that more is mirrored; that changes no pixel inside.
    close(alone[..., 3:-3, 3:-3], both[1:, ..., 3:-3, 3:-3], depth=30)


def test_half_precision_is_summed_in_float32() -> None:
    values = torch.full((1, 1, 16, 16), 0.1, dtype=torch.float16)
    pile = torch.stack([7.0 - torch.arange(16.0).expand(16, 16), 7.0 - torch.arange(16.0)[:, None].expand(16, 16)])[None]
    sums, weights = splat(values, pile)
    assert sums.dtype == torch.float32
    assert float(weights[0, 0, 7, 7]) == 256
    found = forward_splat(values, pile)
    assert found.values.dtype == torch.float16
    assert torch.equal(found.values, values)


def test_holes_are_filled_from_their_rim_and_an_empty_map_is_left() -> None:
    picture = torch.zeros(2, 1, 30, 30)
    picture[:, :, :, :15] = 2.0
    holes = torch.zeros(2, 1, 30, 30, dtype=torch.bool)
    holes[0, :, 5:25, 2:12] = True
    holes[1] = True
    found = fill_holes(torch.where(holes, -9.0, picture), holes)
    assert torch.equal(found[0, 0, :, :12], picture[0, 0, :, :12])
    assert bool((found[1] == -9).all())


def test_rounding_leaves_no_giants() -> None:
    """A weight of about 1e-8, which only rounding leaves, is a hole and no picture."""
    values = torch.full((1, 1, 1, 3), 1.0)
    ways = torch.zeros(1, 2, 1, 3)
    ways[0, 0, 0, 1] = 1e-8
    found = forward_splat(values, ways + torch.tensor([0.0, -5.0]).view(1, 2, 1, 1) * torch.tensor([0.0, 0, 1]), fill=False)
    assert bool(found.holes[0, 0, 0, 2]) == (EMPTY > 1e-8)
    assert float(found.values.abs().max()) <= 1.0


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="can't be splatted"):
        splat(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 9))
    with pytest.raises(InputError, match=r"share is 1\.2"):
        symmetric_splat(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), 1.2)
