"""Distances between susceptibility maps against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from calotype.core.dipole import DipoleOperator
from calotype.errors import InputError, ShapeError
from calotype.metrics.volumes import cone_energy, hfen, nrmse_percent, roi_slope, ssim

SHAPE = (20, 18, 22)
GRID = {"spacing": (1, 1, 2), "direction": (0.1, 0, 1)}


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return 0.05 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[2:17, 1:16, 3:20] = True
    inside[5, 5, 5] = False
    return inside


def test_every_distance_of_scaled_and_shifted_maps(truth: torch.Tensor, mask: torch.Tensor) -> None:
    """a truth + b has the relative error |1 - a|; what lies outside the mask and the constant don't count."""
    for scale, shift in ((1.0, 0.0), (1.0, 0.3), (0.0, 0.0), (0.4, -1.0), (2.0, 0.1)):
        chi = torch.where(mask, scale * truth + shift, 7.0)
        assert math.isclose(nrmse_percent(chi, truth, mask), 100 * abs(1 - scale), rel_tol=1e-4, abs_tol=1e-3)
        assert math.isclose(hfen(chi, truth, mask), 100 * abs(1 - scale), rel_tol=1e-4, abs_tol=1e-3)
        assert math.isclose(cone_energy(chi, truth, mask, **GRID), (1 - scale) ** 2, rel_tol=1e-4, abs_tol=1e-7)
        assert math.isclose(roi_slope(scale * truth + shift, truth, mask.int() * torch.arange(20).reshape(20, 1, 1)), scale, abs_tol=1e-4)
        assert (ssim(chi, truth, mask) > 0.9999) == (scale == 1)


def test_nrmse_of_noise(truth: torch.Tensor, mask: torch.Tensor) -> None:
    noise = 0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    assert math.isclose(nrmse_percent(truth + noise, truth, mask), 40, rel_tol=0.05)


def test_hfen_is_the_filter_by_definition(truth: torch.Tensor) -> None:
    """Against the Laplacian of a Gaussian written out: (r^2 - 3 s^2) / s^4 times the Gaussian, for one voxel."""
    chi, everywhere, other = torch.zeros(SHAPE), torch.ones(SHAPE, dtype=torch.bool), torch.zeros(SHAPE)
    chi[10, 9, 11], other[10, 9, 14] = 1.0, 1.0
    axes = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")

    def written(place: tuple[int, int, int], sigma: float = 1.5) -> np.ndarray:
        square = sum((axis - c) ** 2 for axis, c in zip(axes, place, strict=True))
        return (square - 3 * sigma**2) / sigma**4 * np.exp(-square / 2 / sigma**2)

    first, second = written((10, 9, 11)), written((10, 9, 14))
    expected = 100 * np.linalg.norm(first - second) / np.linalg.norm(second)
    assert math.isclose(hfen(chi, other, everywhere), expected, rel_tol=0.01)


def test_hfen_sees_detail_and_nrmse_sees_trends(truth: torch.Tensor, mask: torch.Tensor) -> None:
    ramp = torch.linspace(-0.1, 0.1, SHAPE[0]).reshape(-1, 1, 1)
    wave = 0.08 * torch.cos(2 * torch.pi * torch.arange(SHAPE[2]) / 7)
    smooth, fine = truth + ramp, truth + wave
    # A ramp has no Laplacian: what is left of it comes from the mask's border.
    weights = [hfen(chi, truth, mask) / nrmse_percent(chi, truth, mask) for chi in (fine, smooth)]
    assert weights[0] > 1.5 * weights[1]


def test_ssim_is_wang_2004_in_the_mask(truth: torch.Tensor, mask: torch.Tensor) -> None:
    from scipy.ndimage import gaussian_filter

    chi = truth + 0.03 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    inside = mask.numpy()
    x, y = (np.where(inside, v.numpy() - v.numpy()[inside].mean(), 0).astype(np.float64) for v in (chi, truth))

    def local(a: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(a, 1.5, mode="constant", radius=5))

    span = y[inside].max() - y[inside].min()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mx, my = local(x), local(y)
    vx, vy, vxy = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    expected = ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))[inside].mean()
    assert math.isclose(ssim(chi, truth, mask), expected, rel_tol=1e-4)
    assert ssim(chi, truth, mask, data_range=10 * span) > ssim(chi, truth, mask)


def test_roi_slope_is_a_regression(truth: torch.Tensor) -> None:
    labels = torch.zeros(SHAPE, dtype=torch.int64)
    labels[:4], labels[6:9], labels[12:18] = 3, 1, 8
    flat = torch.where(labels == 3, 0.1, torch.where(labels == 1, 0.2, 0.4))
    chi = torch.where(labels == 3, 0.0, torch.where(labels == 1, 0.3, 0.3))
    x, y = np.array([0.1, 0.2, 0.4]), np.array([0.0, 0.3, 0.3])
    assert math.isclose(roi_slope(chi, flat, labels), np.polyfit(x, y, 1)[0], rel_tol=1e-5)
    assert math.isnan(roi_slope(chi, flat, (labels == 1).int()))
    assert math.isnan(roi_slope(chi, torch.zeros(SHAPE), labels))
    assert math.isnan(roi_slope(chi, truth, labels * 0))


def test_cone_energy_counts_the_cone_alone(truth: torch.Tensor) -> None:
    """Errors inside and outside of the cone, made on the padded grid, without a mask."""
    everywhere = torch.ones(SHAPE, dtype=torch.bool)
    dipole = DipoleOperator(SHAPE, GRID["spacing"], GRID["direction"], padding=1)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cone = dipole.kernel(torch.float64).abs() < 0.1
    streaks = dipole.volume(torch.where(cone, dipole.spectrum(noise), 0))
    rest = dipole.volume(torch.where(dipole.kernel(torch.float64).abs() > 0.25, dipole.spectrum(noise), 0))
    energies = [cone_energy(truth + 0.05 * error / error.std(), truth, everywhere, **GRID) for error in (streaks, rest)]
    assert energies[0] > 8 * energies[1]
    turned = [cone_energy(truth + 0.05 * streaks / streaks.std(), truth, everywhere, (1, 1, 2), b) for b in ((0, 1, 0), (0.1, 0, 1))]
    assert turned[1] > 2 * turned[0]


def test_cone_energy_by_a_full_spectrum(truth: torch.Tensor, mask: torch.Tensor) -> None:
    chi = truth + 0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    from calotype.core.dipole import dipole_kernel

    grid = DipoleOperator(SHAPE, GRID["spacing"], GRID["direction"]).padded
    cone = (dipole_kernel(grid, GRID["spacing"], GRID["direction"]).abs() < 0.1).numpy()
    inside = mask.numpy()
    x, y = (np.where(inside, v.numpy() - v.numpy()[inside].mean(), 0) for v in (chi, truth))
    power = [(np.abs(np.fft.fftn(v, s=grid, axes=(0, 1, 2))) ** 2)[cone].sum() for v in (x - y, y)]
    assert math.isclose(cone_energy(chi, truth, mask, **GRID), power[0] / power[1], rel_tol=1e-4)


@pytest.mark.bad_input
def test_refusals(truth: torch.Tensor, mask: torch.Tensor) -> None:
    for measure in (nrmse_percent, hfen, ssim):
        with pytest.raises(ShapeError, match="shapes are"):
            measure(truth[1:], truth, mask)
        with pytest.raises(ShapeError, match="bool"):
            measure(truth, truth, mask.float())
        with pytest.raises(InputError, match="empty"):
            measure(truth, truth, mask & ~mask)
        with pytest.raises(InputError, match="constant"):
            measure(truth, truth * 0, mask)
    with pytest.raises(ShapeError, match="labels"):
        roi_slope(truth, truth, mask[1:].int())
