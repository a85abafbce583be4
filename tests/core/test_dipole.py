"""The dipole convolution against closed forms, full spectra and another implementation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.core.dipole import DipoleOperator, b0_direction, dipole_kernel
from calotype.errors import InputError, ShapeError

SIZES = st.tuples(*[st.integers(1, 9)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 4)] * 3)
DIRECTIONS = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda b: math.hypot(*b) > 1e-2)
ANGLES = st.floats(-math.pi, math.pi)


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(a: float, b: float, c: float) -> np.ndarray:
    turns = []
    for angle, (i, j) in zip((a, b, c), ((1, 2), (0, 2), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        turns.append(turn)
    return turns[0] @ turns[1] @ turns[2]


@settings(max_examples=60, deadline=None)
@given(SIZES, SPACINGS, DIRECTIONS, st.sampled_from([1.0, 1.5, 2.0]), st.booleans(), st.integers(0, 1000))
def test_adjoint_is_the_transpose(shape, spacing, direction, padding, masked, seed) -> None:
    mask = drawn(shape, seed + 1) > 0 if masked else None
    dipole = DipoleOperator(shape, spacing, direction, padding=padding, mask=mask)
    x, y = drawn((2, *shape), seed + 2), drawn((2, *shape), seed + 3)
    left, right = (dipole.forward(x) * y).sum(), (x * dipole.adjoint(y)).sum()
    # The operator's gain is at most 2/3, and of a single voxel it is 0 but for rounding.
    assert abs(left - right) <= 1e-12 * x.norm() * y.norm()
    single = dipole.forward(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), dipole.forward(x), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(SIZES, SPACINGS, DIRECTIONS, st.integers(0, 1000))
def test_half_spectrum_equals_the_full_one(shape, spacing, direction, seed) -> None:
    b = np.asarray(direction) / math.hypot(*direction)
    signs, full = list(itertools.product((1, -1), repeat=3)), np.zeros(shape)
    for sign in signs:
        axes = [np.fft.fftfreq(n, s) for n, s in zip(shape, spacing, strict=True)]
        for k, n, either in zip(axes, shape, sign, strict=True):
            if n % 2 == 0:
                k[n // 2] *= either
        grid = np.meshgrid(*axes, indexing="ij")
        with np.errstate(invalid="ignore"):
            ratio = sum(c * k for c, k in zip(b, grid, strict=True)) ** 2 / sum(k**2 for k in grid)
        full += (1 / 3 - ratio) / len(signs)
    full[0, 0, 0] = 0
    chi = drawn(shape, seed)
    expected = np.fft.ifftn(full * np.fft.fftn(chi.numpy())).real
    found = DipoleOperator(shape, spacing, direction, padding=1).forward(chi)
    assert np.allclose(found.numpy(), expected, atol=1e-12)
    kernel = dipole_kernel(shape, spacing, direction)
    assert torch.equal(kernel[..., : shape[2] // 2 + 1], dipole_kernel(shape, spacing, direction, half=True))
    assert np.allclose(kernel.numpy(), full, atol=1e-12)


@pytest.mark.parametrize(("direction", "spacing"), [((0, 0, 1), (1, 1, 1)), ((0.6, 0, 0.8), (1, 1, 1)), ((0, 1, 0), (1.0, 1.5, 2.0))])
def test_field_of_a_sphere(direction, spacing) -> None:
    """Nothing inside, chi (a / r)^3 (3 cos^2 - 1) / 3 outside (the Lorentz-corrected closed form), for a ball drawn with soft voxels."""
    radius, half = 9.0, 32.0
    axes = [(torch.arange(round(2 * half / s), dtype=torch.float64) - round(2 * half / s) / 2 + 0.5) * s for s in spacing]
    fine = torch.tensor([-0.4, -0.2, 0.0, 0.2, 0.4], dtype=torch.float64)
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    chi = torch.zeros_like(x)
    for dx, dy, dz in itertools.product(fine, fine, fine):
        chi += ((x + dx * spacing[0]) ** 2 + (y + dy * spacing[1]) ** 2 + (z + dz * spacing[2]) ** 2 < radius**2).double() / 125
    r = (x**2 + y**2 + z**2).sqrt()
    cosine = (direction[0] * x + direction[1] * y + direction[2] * z) / r
    expected = torch.where(r < radius, 0.0, (radius / r) ** 3 * (3 * cosine**2 - 1) / 3)
    found = DipoleOperator(chi.shape, spacing, direction).forward(chi)
    away = (r - radius).abs() > 2.5 * max(spacing)
    error = (found - expected)[away]
    assert error.abs().max() < 0.05
    assert error.pow(2).mean().sqrt() < 0.006
    periodic = DipoleOperator(chi.shape, spacing, direction, padding=1).forward(chi)
    assert (periodic - expected)[away].pow(2).mean() > (error**2).mean()


def test_padding_makes_the_field_independent_of_the_border() -> None:
    chi = drawn((12, 11, 10), 5)
    wide = torch.zeros(30, 31, 32, dtype=torch.float64)
    wide[9:21, 10:21, 11:21] = chi
    expected = DipoleOperator(wide.shape, (1, 1, 2), (0.2, 0.3, 1)).forward(wide)[9:21, 10:21, 11:21]

    def error(padding: float) -> float:
        found = DipoleOperator(chi.shape, (1, 1, 2), (0.2, 0.3, 1), padding=padding).forward(chi)
        return float((found - expected).norm() / expected.norm())

    assert error(2) < 0.03
    assert error(1) > 0.05


@pytest.mark.parametrize(("direction", "spacing"), [((0, 0, 1), (1, 1, 1)), ((0, 0.6, 0.8), (0.8, 0.8, 2.0))])
def test_agrees_with_qsm_forward(direction, spacing) -> None:
    """It swaps the first two voxel sizes, so they are equal here, and has D(0) = 1/3. [1 2 1] removes the highest frequencies."""
    from qsm_forward.qsm_forward import generate_field

    chi = torch.nn.functional.pad(drawn((12, 8, 4), 11), [2] * 6)
    for axis in range(3):
        chi = (chi.roll(1, axis) + 2 * chi + chi.roll(-1, axis)) / 4
    dipole = DipoleOperator(chi.shape, spacing, direction)
    assert dipole.padded == (32, 24, 16)
    theirs = generate_field(chi.numpy(), voxel_size=spacing, B0_dir=direction) - float(chi.sum()) / math.prod(dipole.padded) / 3
    assert np.abs(dipole.forward(chi).numpy() - theirs).max() < 1e-12


def test_constant_leaves_no_field_and_the_norm_is_bounded() -> None:
    assert dipole_kernel((6, 7, 8), (1, 2, 3), (1, 1, 1)).flatten()[0] == 0
    ones = torch.ones(7, 6, 5)
    assert DipoleOperator(ones.shape, (1, 1, 1), (0, 0, 1), padding=1).forward(ones).abs().max() < 1e-6
    kernel = dipole_kernel((31, 32, 33), (1, 0.7, 2), (0.1, 0.9, 0.2))
    assert kernel.min() >= -2 / 3 - 1e-12
    assert kernel.max() <= 1 / 3 + 1e-12


def test_mask_and_its_removal() -> None:
    mask = torch.zeros(6, 6, 6, dtype=torch.bool)
    mask[1:5, 1:5, 2:4] = True
    dipole = DipoleOperator(mask.shape, (1, 1, 1), (0, 0, 1), mask=mask)
    chi = drawn(tuple(mask.shape), 3)
    bare = dipole.without_mask()
    assert torch.equal(dipole.forward(chi), bare.forward(chi) * mask)
    assert bare.mask is None
    assert dipole.mask is not None
    assert torch.equal(bare.adjoint(chi), bare.forward(chi))


def test_direction_of_plain_and_permuted_affines() -> None:
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = (np.eye(3) * signs)[:, order] * (0.8, 1.0, 2.5)
            expected = [float(signs[2]) if axis == 2 else 0.0 for axis in order]
            assert b0_direction(affine) == tuple(expected)


@settings(max_examples=60, deadline=None)
@given(ANGLES, ANGLES, ANGLES, SPACINGS)
def test_direction_of_oblique_affines(a, b, c, spacing) -> None:
    turn = rotation(a, b, c)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = (10, -20, 30)
    found = np.asarray(b0_direction(affine))
    assert np.allclose(turn @ found, (0, 0, 1), atol=1e-9)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    assert np.allclose(b0_direction(lps), found, atol=1e-12)


def test_turning_volume_and_field_together_changes_nothing() -> None:
    chi = drawn((8, 9, 10), 7)
    field = DipoleOperator(chi.shape, (1, 2, 3), (0.3, -0.5, 0.8)).forward(chi)
    turned = DipoleOperator((10, 8, 9), (3, 1, 2), (0.8, -0.3, -0.5)).forward(chi.permute(2, 0, 1).flip(1))
    assert torch.allclose(turned, field.permute(2, 0, 1).flip(1), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((4, 4), (1, 1, 1), (0, 0, 1)), "three sizes"),
        (((4, 4, 4), (1, 0, 1), (0, 0, 1)), "positive numbers of millimetres"),
        (((4, 4, 4), (1, 1, 1), (0, 0, 0)), "not all 0"),
        (((4, 4, 4), (1, 1, 1), (0, math.nan, 0)), "not all 0"),
    ],
)
def test_refusals(arguments, said) -> None:
    with pytest.raises(InputError, match=said) as caught:
        DipoleOperator(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_more_refusals() -> None:
    with pytest.raises(InputError, match="padding"):
        DipoleOperator((4, 4, 4), (1, 1, 1), (0, 0, 1), padding=0.5)
    with pytest.raises(ShapeError, match="mask"):
        DipoleOperator((4, 4, 4), (1, 1, 1), (0, 0, 1), mask=torch.ones(4, 4, 5, dtype=torch.bool))
    with pytest.raises(ShapeError, match="must be bool"):
        DipoleOperator((4, 4, 4), (1, 1, 1), (0, 0, 1), mask=torch.ones(4, 4, 4))
    with pytest.raises(ShapeError, match="float32 or float64"):
        DipoleOperator((4, 4, 4), (1, 1, 1), (0, 0, 1)).forward(torch.ones(4, 4, 5))
    with pytest.raises(InputError, match="don't span"):
        b0_direction(np.diag([1, 1, 0, 1]))
    with pytest.raises(InputError, match="sheared"):
        b0_direction([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
