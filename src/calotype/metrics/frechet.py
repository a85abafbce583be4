"""Distances between two samples of feature vectors: the Frechet distance of their Gaussians, and an unbiased kernel distance beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from calotype.errors import ShapeError

GROUPS = 10
"""Parts that the jackknife leaves out, one after the other."""


@dataclass(frozen=True)
class Distance:
    """A distance between two samples and how far it can be trusted."""

    value: float
    """As the formula gives it, and as others print it. Of the Frechet distance it is too large by an amount that falls as 1 / samples."""
    corrected: float
    """The same without the part that falls as 1 / samples; around 0, and as often below, for two samples of one distribution."""
    error: float
    """Standard error of either."""
    counts: tuple[int, int]
    """Samples of the first and of the second."""
    dimensions: int
    """Numbers of a feature."""

    @property
    def rank_deficient(self) -> bool:
        """Fewer samples than dimensions + 1: a covariance has no full rank, `value` is biased much, and `corrected` is a rough estimate."""
        return min(self.counts) <= self.dimensions


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with the samples' means and covariances.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` (Dowson and Landau 1982), in float64. The last trace is the sum of the singular values of
    `A1 A2^T`, where `Ai^T Ai = Ci`: no matrix root is taken, so that samples of fewer vectors than dimensions are no trouble numerically.

    Args:
        first, second: [samples, dimensions], at least two samples each.

    Returns:
        0 or more. It is biased: of two samples of one distribution it is larger than 0 and falls as 1 / samples
        (`frechet_interval` corrects that).

    Raises:
        ShapeError: other shapes, too few samples, or numbers that aren't finite.

    >>> round(frechet_distance(torch.tensor([[-1.0], [1.0]]), torch.tensor([[2.0], [4.0]])), 6)
    9.0
    """
    one, two = _checked(first, second)
    (mean_one, root_one), (mean_two, root_two) = _moments(one), _moments(two)
    overlap = torch.linalg.svdvals(root_one @ root_two.T).sum()
    distance = (mean_one - mean_two).square().sum() + root_one.square().sum() + root_two.square().sum() - 2.0 * overlap
    return max(0.0, float(distance))


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel `(x.y / dimensions + 1)^3`, unbiased (Binkowski et al. 2018, section 4, "KID").

    Args:
        first, second: [samples, dimensions], at least two samples each.

    Returns:
        0 on average for two samples of one distribution, whatever their number; so often a little below 0.

    Raises:
        ShapeError: other shapes, too few samples, or numbers that aren't finite.

    >>> kernel_distance(torch.zeros(3, 2), torch.ones(3, 2)) > 0
    True
    """
    one, two = _checked(first, second)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1.0) ** 3

    def within(x: Tensor) -> Tensor:
        table = kernel(x, x)
        return (table.sum() - table.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(one) + within(two) - 2.0 * kernel(one, two).mean())


def frechet_interval(first: Tensor, second: Tensor, *, groups: int = GROUPS) -> Distance:
    """`frechet_distance` with its bias taken off and its standard error, by the jackknife.

    Each of `groups` parts of both samples is left out in turn (Efron and Tibshirani 1993, chapter 11). A bootstrap doesn't serve: vectors
    drawn twice shrink the covariance, which biases the distance further.

    Args:
        first, second: [samples, dimensions]; their order is taken to be arbitrary. At least 2 x `groups` samples each.
        groups: parts.

    Raises:
        ShapeError: as `frechet_distance`, or too few samples for the parts.

    >>> draw = torch.Generator().manual_seed(0)
    >>> found = frechet_interval(torch.randn(200, 8, generator=draw), torch.randn(200, 8, generator=draw))
    >>> found.value > 0.1, abs(found.corrected) < 3 * found.error
    (True, True)
    """
    return _jackknife(frechet_distance, first, second, groups)


def kernel_interval(first: Tensor, second: Tensor, *, groups: int = GROUPS) -> Distance:
    """`kernel_distance` with its standard error; see `frechet_interval`. Its `value` has no bias."""
    return _jackknife(kernel_distance, first, second, groups)


def _jackknife(statistic: Callable[[Tensor, Tensor], float], first: Tensor, second: Tensor, groups: int) -> Distance:
    one, two = _checked(first, second)
    if groups < 2 or min(len(one), len(two)) < 2 * groups:
        raise ShapeError(f"{len(one)} and {len(two)} samples are too few for {groups} parts; each needs {2 * groups}, or give fewer parts")
    value = statistic(one, two)
    parts = [torch.arange(len(x)) % groups for x in (one, two)]
    without = torch.tensor([statistic(one[parts[0] != number], two[parts[1] != number]) for number in range(groups)], dtype=torch.float64)
    corrected = groups * value - (groups - 1) * float(without.mean())
    error = float((without - without.mean()).square().sum() * (groups - 1) / groups) ** 0.5
    return Distance(value, corrected, error, (len(one), len(two)), one.shape[1])


def _moments(samples: Float64[Tensor, "samples dimensions"]) -> tuple[Tensor, Tensor]:
    """The mean and a root R of the covariance, R^T R, with as few rows as there are samples or dimensions."""
    mean = samples.mean(0)
    centred = (samples - mean) / (len(samples) - 1) ** 0.5
    return mean, torch.linalg.qr(centred, mode="r").R


def _checked(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for samples in (first, second):
        if samples.ndim != 2 or len(samples) < 2 or samples.shape[1] != first.shape[1]:
            raise ShapeError(
                f"features of shape {tuple(first.shape)} and {tuple(second.shape)} were given; expected [samples, dimensions] with the "
                "same dimensions and at least two samples each"
            )
        if not bool(torch.isfinite(samples).all()):
            raise ShapeError("a feature is not a finite number")
    one, two = (samples.detach().to("cpu", torch.float64) for samples in (first, second))
    return one, two
