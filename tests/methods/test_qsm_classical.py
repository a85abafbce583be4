"""The classical solvers against dense algebra, brute force and autograd."""

from __future__ import annotations

import itertools

import pytest
import torch

from calotype.core.dipole import DipoleOperator
from calotype.errors import InputError
from calotype.methods.qsmdiff.classical import l2, minimise_tv, ndi, tkd, tv

SMALL = (5, 4, 6)


def drawn(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator(
    shape=SMALL, *, padding: float = 1, masked: bool = False, spacing=(1.0, 1.0, 1.0), direction=(0.3, 0.2, 0.9)
) -> DipoleOperator:
    mask = None
    if masked:
        mask = torch.ones(shape, dtype=torch.bool)
        mask[0], mask[:, :, -1] = False, False
        mask[2, 2, 2] = False
    return DipoleOperator(shape, spacing, direction, padding=padding, mask=mask)


def dense(dipole: DipoleOperator) -> torch.Tensor:
    """The convolution as a matrix on the padded grid, column by column."""
    whole = DipoleOperator(dipole.padded, dipole.spacing, dipole.direction, padding=1)
    size = whole.shape[0] * whole.shape[1] * whole.shape[2]
    return whole.forward(torch.eye(size, dtype=torch.float64).reshape(size, *whole.shape)).reshape(size, size).T


def cut(volume: torch.Tensor, dipole: DipoleOperator) -> torch.Tensor:
    x, y, z = dipole.shape
    found = volume.reshape(dipole.padded)[:x, :y, :z]
    return found if dipole.mask is None else found * dipole.mask


def widened(volume: torch.Tensor, dipole: DipoleOperator) -> torch.Tensor:
    whole = torch.zeros(dipole.padded, dtype=torch.float64)
    x, y, z = dipole.shape
    whole[:x, :y, :z] = volume if dipole.mask is None else volume * dipole.mask
    return whole


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("padding", [1, 1.5])
def test_l2_solves_the_normal_equations(padding: float, masked: bool) -> None:
    dipole, field, weight = operator(padding=padding, masked=masked), drawn(SMALL), 0.02
    matrix = dense(dipole)
    normal = matrix.T @ matrix + weight * torch.eye(len(matrix), dtype=torch.float64)
    expected = torch.linalg.solve(normal, matrix.T @ widened(field, dipole).flatten())
    assert torch.allclose(l2(field, dipole, weight), cut(expected, dipole), atol=1e-10)


@pytest.mark.parametrize("padding", [1, 1.5])
def test_tkd_divides_the_eigenvalues_of_the_convolution(padding: float) -> None:
    dipole, field, threshold = operator(padding=padding), drawn(SMALL), 0.15
    values, vectors = torch.linalg.eigh(dense(dipole))
    share = vectors.T @ widened(field, dipole).flatten()
    # Eigenvalues that should be 0 have a sign by rounding.
    sign = torch.where(values.abs() < 1e-9, 0, values.sign())
    for fill, inner in (("clamp", sign / threshold), ("zero", 0 * sign)):
        inverse = torch.where(values.abs() > threshold, 1 / values, inner)
        assert torch.allclose(tkd(field, dipole, threshold, fill=fill), cut(vectors @ (inverse * share), dipole), atol=1e-8)


def test_tkd_is_exact_outside_the_cone() -> None:
    dipole = operator((9, 10, 8))
    kernel = dipole.kernel(torch.float64)
    chi = dipole.volume(torch.where(kernel.abs() > 0.2, dipole.spectrum(drawn(dipole.shape)), 0))
    assert torch.allclose(tkd(dipole.forward(chi), dipole, 0.2), chi, atol=1e-10)


def objective(chi: torch.Tensor, field: torch.Tensor, dipole: DipoleOperator, weight: float, scales=(1, 1, 1)) -> torch.Tensor:
    rest = dipole.forward(chi) - (field if dipole.mask is None else field * dipole.mask)
    jumps = sum((scale * (chi.roll(-1, axis) - chi)).abs().sum() for axis, scale in enumerate(scales))
    return rest.square().sum() / 2 + weight * jumps


@pytest.mark.parametrize(("masked", "spacing"), [(False, (1, 1, 1)), (True, (1, 1, 1)), (False, (1, 1, 2)), (True, (1, 2, 3))])
def test_tv_falls_to_the_minimum(masked: bool, spacing: tuple[float, float, float]) -> None:
    dipole, weight = operator((6, 5, 4), masked=masked, spacing=spacing), 3e-3
    mean = (spacing[0] * spacing[1] * spacing[2]) ** (1 / 3)
    scales = tuple(mean / size for size in spacing)
    truth = torch.zeros(dipole.shape, dtype=torch.float64)
    truth[1:4, 1:3, 1:3] = 0.3
    field = dipole.without_mask().forward(truth) + 0.01 * drawn(dipole.shape)
    values = [
        float(objective(minimise_tv(field, dipole, weight, penalty=0.05, iterations=n), field, dipole, weight, scales))
        for n in (3, 30, 300, 2000)
    ]
    assert values[0] > values[1] > values[2] > values[3] - 1e-12
    assert values[2] - values[3] < 1e-4 * values[3]
    # A subgradient descent from the same start never gets below it, and comes near.
    chi, best = torch.zeros(dipole.shape, dtype=torch.float64), float("inf")
    for n in range(4000):
        chi = chi.detach().requires_grad_()
        value = objective(chi, field, dipole, weight, scales)
        best = min(best, float(value.detach()))
        (slope,) = torch.autograd.grad(value, chi)
        chi = chi - 0.05 / (1 + n) ** 0.5 * slope / slope.norm()
    assert values[3] <= best + 1e-12
    assert best < 1.02 * values[3]
    # Other penalties lead to the same place.
    chi = minimise_tv(field, dipole, weight, penalty=0.2, data_penalty=0.3, iterations=2000)
    other = objective(chi, field, dipole, weight, scales)
    assert abs(float(other) - values[3]) < 1e-5 * values[3]


def test_tv_keeps_edges_that_l2_loses() -> None:
    truth = torch.zeros(16, 16, 16)
    truth[5:11, 5:11, 5:11] = 0.2
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[2:14, 2:14, 2:14] = True
    dipole = DipoleOperator(truth.shape, (2, 2, 2), (0, 0, 1), mask=mask)
    field = dipole.forward(truth) + 0.002 * drawn((16, 16, 16)).float()

    def error(chi: torch.Tensor) -> float:
        rest = (chi - truth)[mask]
        return float((rest - rest.mean()).norm() / (truth[mask] - truth[mask].mean()).norm())

    rivals = [error(tkd(field, dipole, t)) for t in (0.05, 0.1, 0.2)] + [error(l2(field, dipole, w)) for w in (1e-3, 1e-2, 3e-2)]
    rivals += [error(ndi(field, dipole, n)) for n in (10, 40, 160)]
    # The weight whose minimum keeps the jump of 0.2 ppm.
    assert error(tv(field, dipole, 4e-4)) < 0.5 * min(rivals)
    assert error(tv(field, dipole, 4e-4)) < error(tv(field, dipole.without_mask(), 4e-4))


@pytest.mark.parametrize("masked", [False, True])
def test_ndi_follows_the_gradient(masked: bool) -> None:
    dipole, field, scale, weight = operator(padding=1.5, masked=masked), 0.3 * drawn(SMALL), 9.0, 0.01
    known = 1 if dipole.mask is None else dipole.mask
    chi = torch.zeros(SMALL, dtype=torch.float64)
    for iterations in range(1, 4):
        chi = chi.detach().requires_grad_()
        rest = torch.exp(1j * dipole.without_mask().forward(chi)) - torch.exp(1j * scale * field)
        value = (known * rest.abs() ** 2).sum() / 2 + weight / 2 * chi.square().sum()
        (slope,) = torch.autograd.grad(value, chi)
        chi = (chi - 1.5 * slope).detach()
        found = ndi(field, dipole, iterations, radians_per_ppm=scale, step=1.5, weight=weight)
        assert torch.allclose(found, known * chi / scale, atol=1e-10)


def test_ndi_does_not_see_whole_turns() -> None:
    dipole, field = operator(), 0.1 * drawn(SMALL)
    turned = field.clone()
    turned[1, 2, 3] += 2 * torch.pi / 16.05
    assert torch.allclose(ndi(field, dipole, 20), ndi(turned, dipole, 20), atol=1e-10)


@pytest.mark.parametrize("solve", [tkd, l2, tv, ndi])
def test_batches_dtypes_masks_and_linearity(solve) -> None:
    fields = 0.01 * drawn((2, *SMALL))
    for masked in (False, True):
        dipole = operator(padding=2, masked=masked)
        both = solve(fields, dipole)
        assert both.shape == fields.shape
        assert both.dtype == torch.float64
        for one, alone in zip(both, fields, strict=True):
            assert torch.allclose(one, solve(alone, dipole), atol=1e-12)
        single = solve(fields.float(), dipole)
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), both, atol=1e-5)
        assert torch.isfinite(both).all()
        if dipole.mask is not None:
            assert (both[:, ~dipole.mask] == 0).all()
            # What the field is outside the mask doesn't matter.
            spoilt = fields + torch.where(dipole.mask, 0, 5)
            assert torch.allclose(solve(spoilt, dipole), both, atol=1e-12)


def test_axes_are_equals() -> None:
    field, direction, spacing = 0.01 * drawn(SMALL), (0.3, 0.2, 0.9), (1.0, 1.5, 2.0)
    for order, solve in itertools.product(itertools.permutations(range(3)), (tkd, l2, tv, ndi)):
        turned = DipoleOperator([SMALL[i] for i in order], [spacing[i] for i in order], [direction[i] for i in order], padding=1)
        expected = solve(field, DipoleOperator(SMALL, spacing, direction, padding=1)).permute(order)
        assert torch.allclose(solve(field.permute(order), turned), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f, d: tkd(f, d, 0.0), "threshold is 0.0"),
        (lambda f, d: tkd(f, d, 0.7), "threshold is 0.7"),
        (lambda f, d: tkd(f, d, fill="none"), "fill is 'none'"),
        (lambda f, d: l2(f, d, 0.0), "weight is 0.0"),
        (lambda f, d: tv(f, d, -1.0), "weight is -1.0"),
        (lambda f, d: tv(f, d, iterations=0), "iterations is 0"),
        (lambda f, d: ndi(f, d, 0), "iterations is 0"),
        (lambda f, d: ndi(f, d, step=5.0), "diverges"),
    ],
)
def test_refusals(call, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(drawn(SMALL), operator())
