"""How a measurement corrects an estimate: against autograd, dense algebra and closed forms."""

from __future__ import annotations

import pytest
import torch

from calotype.core.dipole import DipoleOperator
from calotype.methods.qsmdiff.guidance import TV_UNIT, Measurement, data_consistency, gradient_steps, proximal, variation_slope

SHAPE = (5, 4, 6)
DIRECTION = (0.3, -0.2, 0.9)


def drawn(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brain() -> torch.Tensor:
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[0], mask[:, :, -1], mask[2, 2, 2] = False, False, False
    return mask


def measured(*, dipole: bool = True, padding: float = 1.5, scale: float = 0.05, whole: bool = False) -> Measurement:
    mask = torch.ones(SHAPE, dtype=torch.bool) if whole else brain()
    operator = DipoleOperator(SHAPE, (1.0, 1.2, 2.0), DIRECTION, padding=padding) if dipole else None
    return Measurement(drawn(seed=1) * mask, mask, operator, scale)


def dense(at: Measurement) -> torch.Tensor:
    """A as a matrix, column by column."""
    size = at.values.numel()
    return at.forward(torch.eye(size, dtype=torch.float64).reshape(size, *SHAPE)).reshape(size, size).T


@pytest.mark.parametrize("dipole", [True, False])
def test_the_adjoint_is_the_transpose(dipole: bool) -> None:
    at = measured(dipole=dipole)
    x, y = drawn(seed=2), drawn(seed=3)
    assert float((at.forward(x) * y).sum()) == pytest.approx(float((x * at.adjoint(y)).sum()), abs=1e-12)
    assert not at.forward(x)[~at.mask].any()
    matrix = dense(at)
    assert torch.allclose(matrix.T @ y.flatten(), at.adjoint(y).flatten(), atol=1e-12)


@pytest.mark.parametrize("tv", [0.0, 1e-2])
@pytest.mark.parametrize("dipole", [True, False])
def test_init_is_gradient_descent_on_the_written_objective(dipole: bool, tv: float) -> None:
    """||A x - y||^2 + tv TV(x), TV as in maps of 0.15 ppm: 1 here is a third of what it is there."""
    at = measured(dipole=dipole)
    x0 = drawn(seed=4)
    x = x0.clone()
    for _ in range(3):
        x = x.detach().requires_grad_(True)
        residual = at.forward(x) - at.values
        variation = sum(x.diff(dim=dim).abs().sum() for dim in range(3))
        objective = residual.square().sum() + tv * TV_UNIT / at.scale * variation
        (slope,) = torch.autograd.grad(objective, x)
        x = x.detach() - 0.6 * slope
    found = gradient_steps(at, steps=3, size=0.6, tv=tv)(x0, 1.0)
    assert torch.allclose(found, x, atol=1e-12)
    assert (found - x0).abs().max() > 0.1


def test_a_slope_of_the_variation_is_that_of_each_axis() -> None:
    x = drawn((2, 3, 4, 3)).requires_grad_(True)
    (expected,) = torch.autograd.grad(sum(x.diff(dim=dim).abs().sum() for dim in (1, 2, 3)), x)
    assert torch.equal(variation_slope(x.detach()), expected)


def test_many_gradient_steps_reach_the_least_squares() -> None:
    at = measured()
    found = gradient_steps(at, steps=4000, size=2.0, tv=0.0)(torch.zeros(SHAPE, dtype=torch.float64), 1.0)
    assert float(at.adjoint(at.forward(found) - at.values).abs().max()) < 1e-4


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_dc_replaces_the_measured_frequencies_and_keeps_the_cone(weight: float) -> None:
    at = measured(padding=1, whole=True)
    assert at.dipole is not None
    x0 = drawn(seed=5)
    found = data_consistency(at, threshold=0.2, weight=weight, tv=0.0, size=0.875)(x0, 1.0)
    kernel = at.dipole.kernel(torch.float64)
    well = kernel.abs() >= 0.2
    assert 0.3 < float(well.double().mean()) < 0.9
    before, after, field = (torch.fft.rfftn(part) for part in (x0, found, at.values))
    assert torch.allclose(after[~well], before[~well], atol=1e-10)
    expected = (1 - weight) * before[well] + weight * field[well] / kernel[well]
    assert torch.allclose(after[well], expected, atol=1e-10)


def test_dc_on_a_map_puts_the_measured_voxels_in() -> None:
    at = measured(dipole=False)
    x0 = drawn(seed=6)
    found = data_consistency(at, threshold=0.2, weight=0.25, tv=0.0, size=0.5)(x0, 1.0)
    assert torch.allclose(found[at.mask], 0.75 * x0[at.mask] + 0.25 * at.values[at.mask])
    assert torch.equal(found[~at.mask], x0[~at.mask])


def test_dc_ends_with_one_step_down_in_variation() -> None:
    at = measured()
    x0 = drawn(seed=7)
    plain = data_consistency(at, threshold=0.2, weight=1.0, tv=0.0, size=0.5)(x0, 1.0)
    found = data_consistency(at, threshold=0.2, weight=1.0, tv=1e-2, size=0.5)(x0, 1.0)
    assert torch.allclose(found, plain - 0.5 * 1e-2 * 3.0 * variation_slope(plain), atol=1e-12)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
@pytest.mark.parametrize(("noise", "strength"), [(0.006, 1.0), (0.02, 0.5)])
def test_proximal_is_the_dense_solution(sigma: float, noise: float, strength: float) -> None:
    at = measured()
    x0 = drawn(seed=8)
    matrix, ridge = dense(at), strength * (noise / at.scale) ** 2 * (1 + sigma**2) / sigma**2
    left = matrix.T @ matrix + ridge * torch.eye(x0.numel(), dtype=torch.float64)
    expected = torch.linalg.solve(left, matrix.T @ at.values.flatten() + ridge * x0.flatten()).reshape(SHAPE)
    found = proximal(at, noise=noise, strength=strength, steps=150, tolerance=0.0)(x0, sigma)
    assert torch.allclose(found, expected, atol=1e-7)
    assert (found - x0).norm() > 1e-3
    stopped = proximal(at, noise=noise, strength=strength, steps=150)(x0, sigma)
    assert (stopped - expected).norm() < 0.05 * (x0 - expected).norm()


def test_proximal_of_a_map_is_a_mean_weighed_by_the_two_errors() -> None:
    at = measured(dipole=False)
    x0, sigma, noise = drawn(seed=9), 0.7, 0.03
    known, wrong = (noise / at.scale) ** -2, 1 / (sigma**2 / (1 + sigma**2))
    found = proximal(at, noise=noise, strength=1.0, steps=1)(x0, sigma)
    expected = (known * at.values + wrong * x0) / (known + wrong)
    assert torch.allclose(found[at.mask], expected[at.mask], atol=1e-12)
    assert torch.equal(found[~at.mask], x0[~at.mask])


def test_few_iterations_are_nearly_there_and_more_dont_spoil_it_in_single_precision() -> None:
    """On a volume that is mostly brain, as far as the mask's edge lets the division in k-space go."""
    shape = (12, 14, 10)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[1:-1, 1:-1, 1:-1] = True
    dipole = DipoleOperator(shape, (2.0, 2.0, 2.0), (0.0, 0.0, 1.0), padding=1.5)
    at = Measurement(drawn(shape).float() * 0.2 * mask, mask, dipole, 0.05)
    x0 = drawn(shape, seed=1).float()
    exact = proximal(Measurement(at.values.double(), mask, dipole, 0.05), noise=0.006, strength=0.5, steps=400)(x0.double(), 0.5)
    errors = [float((proximal(at, noise=0.006, strength=0.5, steps=steps)(x0, 0.5) - exact).norm() / exact.norm()) for steps in (2, 8, 300)]
    assert errors[0] > errors[1]
    assert errors[1] < 0.05
    assert errors[2] < 1e-4


def test_items_of_a_batch_are_corrected_as_if_alone() -> None:
    at = measured()
    batch = torch.stack([drawn(seed=10), 100 * drawn(seed=11)])[:, None]
    for guide in (
        gradient_steps(at, steps=2, size=0.8, tv=1e-4),
        data_consistency(at, threshold=0.2, weight=1.0, tv=1e-4, size=0.8),
        proximal(at, noise=0.006, strength=1.0, steps=4),
    ):
        together = guide(batch, 0.8)
        assert together.shape == batch.shape
        assert torch.allclose(together[0, 0], guide(batch[0, 0], 0.8), atol=1e-10)
        assert torch.allclose(together[1, 0], guide(batch[1, 0], 0.8), atol=1e-8)
