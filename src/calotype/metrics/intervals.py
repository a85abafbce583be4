"""Bootstrap intervals: how far a mean over a few scenes can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A statistic with the ends of its percentile interval."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., NDArray[np.float64]], *columns: ArrayLike, level: float = 0.9, resamples: int = 4000, seed: int = 0
) -> Interval:
    """The statistic of some columns of per-scene numbers with its percentile bootstrap interval.

    Row i of every column belongs to scene i and scenes are drawn with replacement, so the comparison of two columns is a paired one.

    Args:
        statistic: takes one array [..., scenes] per column and reduces the last axis.
        columns: equally long sequences of numbers, one per scene; a scene with a NaN in any column is left out.
        level: probability between the two ends; 0.9 puts 5 % beyond either end.
        resamples: number of bootstrap samples.
        seed: of the resampling, so that the same numbers give the same interval.

    Returns:
        The statistic and its interval; all NaN where no scene is left.

    Example:
        >>> gain = bootstrap(lambda ours, theirs: (ours - theirs).mean(-1), [3.0, 4.0, 5.0], [1.0, 2.0, 3.0])
        >>> gain
        Interval(value=2.0, low=2.0, high=2.0)
    """
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns])
    table = table[:, np.isfinite(table).all(axis=0)]
    count = table.shape[1]
    if count == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    rows = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(statistic(*(column[rows] for column in table)), dtype=np.float64)
        value = float(statistic(*table))
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistic: the mean over scenes."""
    return np.asarray(values.mean(-1))


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistic: the mean difference."""
    return np.asarray((ours - theirs).mean(-1))


def ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistic: the ratio of means, which a scene near 0 doesn't blow up.

    Example:
        >>> bootstrap(ratio, [2.0, 4.0], [1.0, 2.0]).value
        2.0
    """
    return np.asarray(ours.mean(-1) / theirs.mean(-1))
