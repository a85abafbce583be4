"""How well masks are found, how far their probabilities can be trusted, and what that is over patients.

Masks hold class numbers, 0 is the background. A picture where neither the mask nor the truth has a class says nothing about that class: its
number is NaN, and means leave it out. A class that only one of them has is a miss: Dice and IoU 0, the largest Hausdorff distance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError, ShapeError
from calotype.metrics.intervals import Interval, bootstrap, mean

BINS = 15
"""Of confidence (Guo et al. 2017)."""


def dice(found: Int[Tensor, count * sides], truth: Int[Tensor, count * sides], num_classes: int = 2) -> Float64[Tensor, "count classes"]:
    """Twice the intersection over the sum of both, for each picture and each class but the background.

    Raises:
        ShapeError: shapes differ.

    Example:
        >>> dice(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 0, 0, 0]])).tolist()
        [[0.6666666666666666]]
    """
    both, first, second = _areas(found, truth, num_classes)
    return torch.where(first + second > 0, 2 * both / (first + second), torch.nan)


def iou(found: Int[Tensor, count * sides], truth: Int[Tensor, count * sides], num_classes: int = 2) -> Float64[Tensor, "count classes"]:
    """Intersection over union, for each picture and each class but the background.

    Raises:
        ShapeError: shapes differ.

    Example:
        >>> iou(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 0, 0, 0]])).tolist()
        [[0.5]]
    """
    both, first, second = _areas(found, truth, num_classes)
    either = first + second - both
    return torch.where(either > 0, both / either, torch.nan)


def _areas(found: Tensor, truth: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    _same_shape(found, truth)
    numbers = torch.arange(1, num_classes, device=found.device).view(-1, *[1] * (found.ndim - 1))
    first, second = found[:, None] == numbers, truth[:, None] == numbers
    both, first, second = ((mask.flatten(2).sum(2).double()) for mask in (first & second, first, second))
    return both, first, second


def _same_shape(found: Tensor, truth: Tensor) -> None:
    if found.shape != truth.shape:
        raise ShapeError(f"the masks have the shapes {list(found.shape)} (found) and {list(truth.shape)} (truth); use equal ones")


def hausdorff95(
    found: Int[Tensor, count * sides], truth: Int[Tensor, count * sides], num_classes: int = 2, *, spacing: Sequence[float] | None = None
) -> Float64[Tensor, "count classes"]:
    """95th percentile of the distances between the borders, the larger of the two directions, for each picture and class.

    Args:
        found: class numbers.
        truth: class numbers.
        num_classes: with the background.
        spacing: size of a pixel along each side, in mm say; 1 by default. Where one of the masks lacks the class, the distance is the
            picture's diagonal.

    Raises:
        ShapeError: shapes differ, or the spacing hasn't as many numbers as the picture has sides.

    Example:
        >>> hausdorff95(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 1, 1, 1]]), spacing=[0.5]).tolist()
        [[0.95]]
    """
    _same_shape(found, truth)
    sides = found.shape[1:]
    steps = [1.0] * len(sides) if spacing is None else [float(step) for step in spacing]
    if len(steps) != len(sides) or min(steps) <= 0:
        raise ShapeError(f"the spacing is {steps} and the pictures have {len(sides)} sides; give a positive number for each")
    diagonal = float(np.linalg.norm([(side - 1) * step for side, step in zip(sides, steps, strict=True)]))
    distances = torch.full((len(found), num_classes - 1), torch.nan, dtype=torch.float64)
    for row in range(len(found)):
        for number in range(1, num_classes):
            first, second = found[row] == number, truth[row] == number
            if bool(first.any()) and bool(second.any()):
                box = _box(first | second)
                borders = _border(first[box]), _border(second[box])
                directed = (_percentile95(one, other, steps) for one, other in (borders, borders[::-1]))
                distances[row, number - 1] = max(directed)
            elif bool(first.any()) or bool(second.any()):
                distances[row, number - 1] = diagonal
    return distances


def _box(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box around a mask: distances between two masks are the same in it."""
    places = mask.nonzero()
    return tuple(slice(int(first), int(last) + 1) for first, last in zip(places.amin(0), places.amax(0), strict=True))


def _border(mask: Tensor) -> Bool[np.ndarray, "*sides"]:
    """The pixels of a mask that touch what is outside it, the outside of the picture too."""
    from scipy.ndimage import binary_erosion

    inside = mask.cpu().numpy()
    found: Bool[np.ndarray, "*sides"] = inside & ~binary_erosion(inside)
    return found


def _percentile95(border: Bool[np.ndarray, "*sides"], other: Bool[np.ndarray, "*sides"], spacing: Sequence[float]) -> float:
    """Of the distances from a border's pixels to the nearest of another's."""
    from scipy.ndimage import distance_transform_edt

    return float(np.percentile(distance_transform_edt(~other, sampling=spacing)[border], 95))


@dataclass(frozen=True)
class Reliability:
    """How often a class is right where it was given so much confidence: a curve of `bins` points."""

    confidence: Float64[Tensor, " bins"]
    """Mean of the largest probability of each bin's pixels; NaN in an empty bin."""
    accuracy: Float64[Tensor, " bins"]
    """Share of each bin's pixels whose most probable class is the true one; NaN in an empty bin."""
    count: Int64[Tensor, " bins"]
    """Pixels of each bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean difference of confidence and accuracy, weighted by the bins' pixels; NaN without pixels."""
        total = int(self.count.sum())
        gaps = (self.confidence - self.accuracy).abs().nan_to_num() * self.count
        return float(gaps.sum()) / total if total else float("nan")


def reliability(
    probability: Float[Tensor, "count classes *sides"],
    truth: Int[Tensor, count * sides],
    *,
    bins: int = BINS,
    region: Bool[Tensor, count * sides] | None = None,
) -> Reliability:
    """Confidence and accuracy of all pixels together, in `bins` equal bins of confidence, (0, 1/bins] to (1 - 1/bins, 1].

    Args:
        probability: sums to 1 over the classes.
        truth: class numbers.
        bins: how many.
        region: pixels that count; all by default.

    Raises:
        ShapeError: shapes don't belong together.
        InputError: no bins, or probabilities that don't sum to 1.
    """
    kept = truth if region is None else region
    if probability.shape[0] != truth.shape[0] or probability.shape[2:] != truth.shape[1:] or kept.shape != truth.shape:
        raise ShapeError(
            f"the shapes are {list(probability.shape)} (probability), {list(truth.shape)} (truth), {list(kept.shape)} (region); "
            "they must be of the same pictures"
        )
    if bins < 1:
        raise InputError(f"bins is {bins}; it must be at least 1")
    if len(probability) and float((probability.double().sum(1) - 1).abs().max()) > 1e-3:
        raise InputError("the probabilities don't sum to 1 over the classes; give those after the softmax, of the background too")
    confidence, guess = probability.max(1)
    right = guess == truth
    if region is not None:
        confidence, right = confidence[region], right[region]
    confidence, right = confidence.flatten().double().clamp(0, 1), right.flatten().double()
    places = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    count = torch.bincount(places, minlength=bins)
    sums = (torch.zeros(bins, dtype=torch.float64, device=places.device).index_add(0, places, values) for values in (confidence, right))
    means = [values / count for values in sums]
    return Reliability(means[0], means[1], count)


def expected_calibration_error(
    probability: Float[Tensor, "count classes *sides"],
    truth: Int[Tensor, count * sides],
    bins: int = BINS,
    region: Bool[Tensor, count * sides] | None = None,
) -> float:
    """See `reliability`; 0 is perfect. NaN where no pixel counts.

    Example:
        >>> probability = torch.tensor([[[0.25, 0.25], [0.75, 0.75]]])
        >>> expected_calibration_error(probability, torch.tensor([[1, 0]]))
        0.25
    """
    return reliability(probability, truth, bins=bins, region=region).error


def boundary_band(mask: Int[Tensor, count * sides], width: int = 2) -> Bool[Tensor, count * sides]:
    """The pixels that have one of another class at most `width` steps away (diagonal steps count as one); the masks have 2 or 3 sides.

    Example:
        >>> boundary_band(torch.tensor([[[0, 0, 0, 1, 1, 1]]]), 1).int().tolist()
        [[[0, 0, 1, 1, 0, 0]]]
    """
    if mask.ndim not in (3, 4) or width < 1:
        raise ShapeError(
            f"the masks have the shape {list(mask.shape)} and the band {width} pixels; give [count, 2 or 3 sides] and 1 or more"
        )
    pool = functional.max_pool2d if mask.ndim == 3 else functional.max_pool3d
    values = mask[:, None].float()
    largest, smallest = pool(values, 2 * width + 1, 1, width), -pool(-values, 2 * width + 1, 1, width)
    return (largest != smallest)[:, 0]


def by_patient(values: ArrayLike, patients: Sequence[str]) -> dict[str, float]:
    """Each patient's mean, in the order of their names; NaN for a patient all of whose values are NaN.

    Example:
        >>> by_patient([1.0, 3.0, 5.0, float("nan")], ["b", "b", "a", "a"])
        {'a': 5.0, 'b': 2.0}
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(patients),):
        raise ShapeError(
            f"there are {list(numbers.shape)} values and {len(patients)} patients; give one value and one name for each picture"
        )
    found: dict[str, list[float]] = defaultdict(list)
    for value, patient in zip(numbers.tolist(), patients, strict=True):
        found[patient].append(value)
    kept = {patient: [value for value in found[patient] if not np.isnan(value)] for patient in sorted(found)}
    return {patient: float(np.mean(one)) if one else float("nan") for patient, one in kept.items()}


@dataclass(frozen=True)
class PatientSummary:
    """What a number of pictures is over patients."""

    mean: Interval
    """Mean of the patients' means, with its bootstrap interval over patients."""
    variance: float
    """Between the patients' means (unbiased); NaN with fewer than two."""
    count: int
    """Patients that have a number."""


def over_patients(values: ArrayLike, patients: Sequence[str], *, level: float = 0.9, seed: int = 0) -> PatientSummary:
    """Mean and variance of the patients' means: every patient counts alike, however many pictures there are of it.

    Example:
        >>> summary = over_patients([1.0, 3.0, 4.0], ["a", "a", "b"])
        >>> summary.mean.value, summary.variance, summary.count
        (3.0, 2.0, 2)
    """
    means = np.array(list(by_patient(values, patients).values()), dtype=np.float64)
    means = means[~np.isnan(means)]
    variance = float(means.var(ddof=1)) if len(means) > 1 else float("nan")
    return PatientSummary(bootstrap(mean, means, level=level, seed=seed), variance, len(means))
