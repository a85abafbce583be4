"""The way from the file's grid to the one that is sampled on, and between coarse and fine ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.core.dipole import b0_direction
from calotype.errors import InputError
from calotype.imaging.grids import divided
from calotype.methods.qsmdiff.grid import WorkingGrid
from calotype.methods.qsmdiff.resolution import Resolution

TURNS = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))
UPRIGHT = torch.tensor([[2.0, 0, 0, -9], [0, 2.1, 0, 5], [0, 0, 1.9, 3], [0, 0, 0, 1]], dtype=torch.float64)


def turned(volume: torch.Tensor, axes: tuple[int, ...], flips: tuple[bool, ...]) -> torch.Tensor:
    return volume.permute(axes).flip([dim for dim, flip in enumerate(flips) if flip]).contiguous()


def turned_affine(affine: torch.Tensor, size: tuple[int, ...], axes: tuple[int, ...], flips: tuple[bool, ...]) -> torch.Tensor:
    """The affine of the turned array: every voxel keeps its place in the world."""
    index = torch.zeros(4, 4, dtype=torch.float64)
    index[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        index[old, new] = -1 if flip else 1
        index[old, 3] = size[old] - 1 if flip else 0
    return affine @ index


def ellipsoid(size: tuple[int, ...], room: float = 2.0) -> torch.Tensor:
    axes = torch.meshgrid(*[(torch.arange(side) - (side - 1) / 2) / (side / 2 - room + 0.01) for side in size], indexing="ij")
    return sum(axis**2 for axis in axes) <= 1


def rotation(*degrees: float) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@pytest.mark.parametrize(("axes", "flips"), TURNS)
def test_every_order_of_the_axes_is_turned_upright_and_back(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    size = (9, 11, 8)
    mask = ellipsoid(size, 1.0)
    mask[4, 5, 1:7] = True
    values = torch.randn(size, generator=torch.Generator().manual_seed(0)) * mask
    plain = WorkingGrid(mask, UPRIGHT, spacing=(2, 2, 2), least=(4, 4, 4))
    expected, known = plain.enter(values, mask)
    grid = WorkingGrid(turned(mask, axes, flips), turned_affine(UPRIGHT, size, axes, flips), spacing=(2, 2, 2), least=(4, 4, 4))
    found, inside = grid.enter(turned(values, axes, flips), turned(mask, axes, flips))
    assert torch.equal(found, expected)
    assert torch.equal(inside, known)
    assert not grid.resampled
    assert grid.spacing == pytest.approx((2.0, 2.1, 1.9))
    assert torch.equal(grid.leave(found), turned(values, axes, flips))
    b0 = b0_direction(turned_affine(UPRIGHT, size, axes, flips).numpy())
    assert grid.direction(b0) == pytest.approx((0, 0, 1), abs=1e-9)


def test_the_direction_is_turned_as_the_volume_is() -> None:
    """A volume whose axes run left, up, front: the file's (1, 2, 3) is (-1, 3, 2) upright."""
    affine = torch.diag(torch.tensor([-2.0, 2, 2, 1], dtype=torch.float64))[:, [0, 2, 1, 3]]
    grid = WorkingGrid(torch.ones(8, 8, 8, dtype=torch.bool), affine, spacing=(2, 2, 2), least=(4, 4, 4))
    assert grid.direction((1.0, 2.0, 3.0)) == (-1.0, 3.0, 2.0)


def test_it_is_cut_to_the_brain_and_padded_to_a_window() -> None:
    mask = torch.zeros(20, 22, 24, dtype=torch.bool)
    mask[3:8, 4:19, 5:9] = True
    values = torch.randn(20, 22, 24, generator=torch.Generator().manual_seed(1))
    grid = WorkingGrid(mask, UPRIGHT, spacing=(2, 2, 2), least=(8, 8, 8))
    assert grid.shape == (8, 15, 8)
    found, known = grid.enter(values, mask)
    assert int(known.sum()) == int(mask.sum())
    assert torch.equal(found[:5, :15, :4], values[3:8, 4:19, 5:9])
    assert not found[~known].any()
    assert torch.equal(grid.leave(found), values * mask)


def test_an_oblique_volume_of_other_voxels_comes_back_to_its_place() -> None:
    """0.8 x 0.8 x 2 mm, odd sides, turned 20 degrees: a blob stays where it is, and a plane stays a plane."""
    size = (61, 53, 23)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(rotation(20, -12, 8) @ np.diag([0.8, -0.8, 2.0]))
    affine[:3, 3] = torch.tensor([12.5, -33.1, 4.0])
    mask = ellipsoid(size)
    grid = WorkingGrid(mask, affine, spacing=(2, 2, 2), least=(8, 8, 8))
    assert grid.resampled
    assert grid.spacing == pytest.approx((2.0, 2.0, 2.0), rel=0.03)
    assert np.linalg.norm(grid.direction(b0_direction(affine.numpy()))) == pytest.approx(1)
    place = torch.tensor([40.0, 17.0, 11.0])
    index = torch.stack(torch.meshgrid(*[torch.arange(float(side)) for side in size], indexing="ij"), -1)
    apart = ((index - place) * torch.tensor([0.8, 0.8, 2.0])).norm(dim=-1)
    blob = torch.exp(-0.5 * (apart / 3.0) ** 2)
    back = grid.leave(grid.enter(blob, mask)[0])
    centre = (index * back[..., None]).sum((0, 1, 2)) / back.sum()
    assert torch.allclose(centre, (index * blob[..., None]).sum((0, 1, 2)) / blob.sum(), atol=0.15)
    assert (back - blob)[mask].abs().mean() < 0.01
    deep = ellipsoid(size, 6.0)
    for axis in range(3):
        ramp = index[..., axis].contiguous()
        assert (grid.leave(grid.enter(ramp, mask)[0]) - ramp)[deep].abs().max() < 0.3, axis


def test_values_are_means_over_the_brain_alone() -> None:
    mask = ellipsoid((40, 40, 20))
    grid = WorkingGrid(mask, torch.diag(torch.tensor([1.0, 1, 2, 1], dtype=torch.float64)), spacing=(2, 2, 2), least=(8, 8, 8))
    values = torch.where(mask, 0.7, 1e4)
    found, known = grid.enter(values, mask)
    assert torch.allclose(found[known], torch.tensor(0.7), atol=1e-4)
    assert not found[~known].any()


def test_nearly_the_priors_voxels_stay_as_they_are() -> None:
    mask = ellipsoid((12, 12, 12))
    for side, resampled in ((1.7, False), (2.3, False), (2.6, True), (1.5, True)):
        affine = torch.diag(torch.tensor([side, 2, 2, 1], dtype=torch.float64))
        assert WorkingGrid(mask, affine, spacing=(2, 2, 2), least=(4, 4, 4)).resampled == resampled, side


def test_a_factor_resamples_nothing() -> None:
    """Axes front, right, up; three fine voxels for each of the file's first axis."""
    affine = torch.diag(torch.tensor([4.0, 6, 1, 1], dtype=torch.float64))[[1, 0, 2, 3]]
    mask = torch.zeros(6, 9, 8, dtype=torch.bool)
    mask[1:4, 2:8, 3:8] = True
    values = torch.randn(6, 9, 8, generator=torch.Generator().manual_seed(2)) * mask
    grid = WorkingGrid(mask, affine, spacing=(2, 2, 2), least=(8, 8, 8), factor=(3, 1, 2))
    assert grid.factor == (1, 3, 2)
    assert not grid.resampled
    assert grid.shape == (8, 3, 5)
    coarse, _ = grid.enter(values, mask)
    assert torch.equal(grid.leave(coarse), values)
    fine = coarse
    for axis, times in enumerate(grid.factor):
        fine = fine.repeat_interleave(times, axis)
    expected = values.repeat_interleave(3, 0).repeat_interleave(2, 2)
    assert torch.equal(grid.leave(fine, fine=True), expected)


def test_what_is_left_of_a_mask_must_be_something() -> None:
    thin = torch.zeros(40, 40, 40, dtype=torch.bool)
    with pytest.raises(InputError, match="mask: it is empty"):
        WorkingGrid(thin, UPRIGHT, spacing=(2, 2, 2), least=(8, 8, 8))
    thin[20, 20, 20] = True
    with pytest.raises(InputError, match="mask: nothing is left of it at voxels of 2 x 2 x 2 mm"):
        WorkingGrid(thin, torch.diag(torch.tensor([0.5, 0.5, 0.5, 1], dtype=torch.float64)), spacing=(2, 2, 2), least=(8, 8, 8))


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 4)] * 3), st.integers(0, 1000))
def test_refining_is_the_right_inverse_of_lowering(coarse: tuple[int, ...], factor: tuple[int, ...], seed: int) -> None:
    resolution = Resolution(coarse, factor)
    y = torch.randn((2, *coarse), generator=torch.Generator().manual_seed(seed))
    fine = resolution.refine(y)
    assert fine.shape == (2, *resolution.fine)
    assert torch.allclose(resolution.lower(fine), y, atol=2e-5)


@pytest.mark.parametrize(("size", "times"), [(6, 2), (7, 2), (5, 3), (8, 3), (1, 4)])
def test_waves_below_the_coarse_grids_highest_stay_and_others_vanish(size: int, times: int) -> None:
    """R is a crop of k-space: what the scanner's shorter readout would have kept, in the amplitude of the fine volume."""
    resolution = Resolution((size, 1, 1), (times, 1, 1))
    n = size * times
    place = torch.arange(n, dtype=torch.float64)
    for k in range(n // 2 + 1):
        wave = torch.cos(2 * torch.pi * k * place / n + 0.4).float()[:, None, None]
        low = resolution.lower(wave)[:, 0, 0]
        if 2 * k < size:
            middle = torch.arange(size, dtype=torch.float64) * times + (times - 1) / 2
            assert torch.allclose(low, torch.cos(2 * torch.pi * k * middle / n + 0.4).float(), atol=1e-4), k
            assert torch.allclose(resolution.refine(low[:, None, None]), wave, atol=1e-4), k
        elif 2 * k > size:
            assert float(low.abs().max()) < 1e-4, k


@pytest.mark.parametrize("factor", [(1, 1, 2), (2, 1, 3), (4, 2, 1)])
def test_blobs_and_masks_keep_their_centre_in_the_world(factor: tuple[int, int, int]) -> None:
    """Refined, lowered or cut into blocks, a thing lies where it lay, read through the affine of its grid."""
    size, middle = (18, 16, 15), np.array([8.3, 7.1, 6.6])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array([[2.0, 0.3, 0], [-0.3, 1.5, 0], [0, 0, -3.0]]), (5, -7, 11)
    places = torch.stack(torch.meshgrid(*[torch.arange(side, dtype=torch.float64) for side in size], indexing="ij"), -1)
    blob = torch.exp(-((places - torch.from_numpy(middle)) ** 2).sum(-1) / (2 * 1.6**2))
    resolution, fine = Resolution(size, factor), divided(affine, factor)
    refined = resolution.refine(blob)
    for values, grid in ((refined, fine), (resolution.lower(refined), affine), (resolution.divide(blob), fine)):
        assert np.allclose(centre(values, grid), affine[:3, :3] @ middle + affine[:3, 3], atol=2e-3)
    mask = blob > 0.5
    assert np.allclose(centre(resolution.divide(mask).double(), fine), centre(mask.double(), affine), atol=1e-9)


def centre(values: torch.Tensor, affine: np.ndarray) -> np.ndarray:
    """Centre of mass in mm."""
    places = torch.stack(torch.meshgrid(*[torch.arange(side, dtype=torch.float64) for side in values.shape], indexing="ij"), -1)
    index = (places * values[..., None].double()).sum((0, 1, 2)) / values.double().sum()
    return affine[:3, :3] @ index.numpy() + affine[:3, 3]


def test_factors_are_whole_and_positive() -> None:
    for factor in ((0, 1, 1), (1, 1)):
        with pytest.raises(InputError, match="three whole numbers of at least 1"):
            Resolution((4, 4, 4), factor)
