"""Distances of feature samples against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calotype.errors import ShapeError
from calotype.metrics import frechet_distance, frechet_interval, kernel_distance, kernel_interval


def draw(seed: int, samples: int, dimensions: int) -> Tensor:
    return torch.randn(samples, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standardised(seed: int, samples: int, dimensions: int) -> Tensor:
    """Samples whose own mean is 0 and whose own covariance is the identity, exactly."""
    x = draw(seed, samples, dimensions)
    x = x - x.mean(0)
    return torch.linalg.qr(x).Q * math.sqrt(samples - 1)


def test_equal_samples_have_no_distance() -> None:
    x = draw(0, 50, 8)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-10)
    # Any order.
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0.0, abs=1e-10)


def test_shifted_means_and_diagonal_covariances() -> None:
    one, two = standardised(1, 60, 5), standardised(2, 80, 5)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    assert frechet_distance(one, two + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)
    left, right = torch.tensor([1.0, 2.0, 0.1, 4.0, 1.0]), torch.tensor([3.0, 2.0, 0.7, 0.5, 1.0])
    wanted = float((left - right).square().sum())
    assert frechet_distance(one * left, two * right) == pytest.approx(wanted, rel=1e-6)


def test_correlated_gaussians_against_the_matrix_root() -> None:
    one, two = draw(3, 90, 6) @ draw(4, 6, 6), draw(5, 70, 6) @ draw(6, 6, 6) + 0.3
    first, second = torch.cov(one.T), torch.cov(two.T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    wanted = (one.mean(0) - two.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross
    assert frechet_distance(one, two) == pytest.approx(float(wanted), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 20), st.integers(0, 1000))
def test_it_is_symmetric_finite_and_turns_with_its_space(first: int, second: int, dimensions: int, seed: int) -> None:
    one, two = draw(seed, first, dimensions), draw(seed + 1, second, dimensions) * 2.0 + 1.0
    there = frechet_distance(one, two)
    assert there >= 0
    assert frechet_distance(two, one) == pytest.approx(there, rel=1e-7, abs=1e-7)
    turn = torch.linalg.qr(draw(seed + 2, dimensions, dimensions)).Q
    assert frechet_distance(one @ turn, two @ turn) == pytest.approx(there, rel=1e-7, abs=1e-7)
    assert frechet_distance(10 * one, 10 * two) == pytest.approx(100 * there, rel=1e-7, abs=1e-5)


def test_fewer_samples_than_dimensions_are_no_trouble_and_are_named() -> None:
    one, two = draw(0, 20, 64), draw(1, 20, 64)
    found = frechet_interval(one, two)
    assert math.isfinite(found.value)
    assert found.rank_deficient
    assert not frechet_interval(draw(0, 65, 64), draw(1, 65, 64)).rank_deficient


def test_the_jackknife_takes_the_bias_off() -> None:
    values, corrected, errors = [], [], []
    for seed in range(12):
        found = frechet_interval(draw(2 * seed, 160, 16), draw(2 * seed + 1, 160, 16))
        values.append(found.value)
        corrected.append(found.corrected)
        errors.append(found.error)
    mean = torch.tensor(corrected).mean()
    assert min(values) > 0.5
    assert abs(float(mean)) < 0.15
    # The error is that of one figure.
    assert 0.4 < float(torch.tensor(errors).mean() / torch.tensor(values).std()) < 2.5


def test_the_kernel_distance_has_no_bias_and_finds_a_shift() -> None:
    same = [kernel_distance(draw(2 * seed, 30, 8), draw(2 * seed + 1, 30, 8)) for seed in range(40)]
    mean, error = torch.tensor(same).mean(), torch.tensor(same).std() / math.sqrt(40)
    assert abs(float(mean)) < 3 * float(error)
    found = kernel_interval(draw(0, 60, 8), draw(1, 60, 8) + 1.0)
    assert found.value > 5 * found.error
    assert found.value == pytest.approx(kernel_distance(draw(0, 60, 8), draw(1, 60, 8) + 1.0))


def test_the_kernel_distance_of_points() -> None:
    # Two points at 0 and two at 1 in one dimension: k(0, .) = 1, k(1, 1) = 8.
    assert kernel_distance(torch.zeros(2, 1), torch.ones(2, 1)) == pytest.approx(1 + 8 - 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.zeros(4), torch.zeros(4, 1)),
        (torch.zeros(4, 2), torch.zeros(4, 3)),
        (torch.zeros(1, 2), torch.zeros(4, 2)),
        (torch.full((4, 2), float("nan")), torch.zeros(4, 2)),
    ],
)
def test_other_shapes_are_refused(first: Tensor, second: Tensor) -> None:
    with pytest.raises(ShapeError):
        frechet_distance(first, second)


def test_too_few_samples_for_the_parts_are_refused() -> None:
    with pytest.raises(ShapeError, match="too few"):
        frechet_interval(torch.zeros(12, 2), torch.zeros(40, 2))
