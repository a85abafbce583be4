"""Numbers of masks against MONAI, float64 and closed forms; what an empty mask counts; patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from calotype.errors import InputError, ShapeError
from calotype.metrics.segmentation import (
    boundary_band,
    by_patient,
    dice,
    expected_calibration_error,
    hausdorff95,
    iou,
    over_patients,
    reliability,
)

SEEDS = st.integers(0, 10_000)


def masks(seed: int, *shape: int, classes: int = 3) -> torch.Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def one_hot(mask: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return functional.one_hot(mask, classes).movedim(-1, 1)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_dice_and_iou_are_monais(seed: int) -> None:
    from monai.metrics.meandice import compute_dice
    from monai.metrics.meaniou import compute_iou

    found, truth = masks(seed, 3, 7, 5), masks(seed + 1, 3, 7, 5)
    theirs = (f(one_hot(found), one_hot(truth), include_background=False) for f in (compute_dice, compute_iou))
    for ours, expected in zip((dice(found, truth, 3), iou(found, truth, 3)), theirs, strict=True):
        assert torch.allclose(ours, expected.double(), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 4))
def test_dice_and_iou_follow_from_each_other_and_are_symmetric(seed: int, classes: int) -> None:
    found, truth = masks(seed, 2, 6, 6, classes=classes), masks(seed + 1, 2, 6, 6, classes=classes)
    first, second = dice(found, truth, classes), iou(found, truth, classes)
    assert torch.allclose(first, 2 * second / (1 + second), equal_nan=True)
    assert torch.equal(first.nan_to_num(), dice(truth, found, classes).nan_to_num())
    assert bool(((first >= 0) & (first <= 1) | first.isnan()).all())
    same = dice(truth, truth, classes)
    assert bool(((same == 1) | same.isnan()).all())


def test_what_empty_masks_count() -> None:
    """Neither has the class: NaN. One has it: a miss."""
    empty, disc = torch.zeros(1, 5, 5, dtype=torch.int64), torch.zeros(1, 5, 5, dtype=torch.int64)
    disc[:, 1:3, 1:3] = 1
    for function in (dice, iou):
        assert math.isnan(function(empty, empty).item())
        assert function(disc, empty).item() == function(empty, disc).item() == 0
    assert math.isnan(hausdorff95(empty, empty).item())
    assert hausdorff95(disc, empty, spacing=(3.0, 4.0)).item() == pytest.approx(math.hypot(12, 16))
    assert hausdorff95(disc, disc).item() == 0


@pytest.mark.parametrize("sides", [(12, 9), (8, 7, 6)])
@pytest.mark.parametrize("spaced", [False, True])
def test_hausdorff_is_the_percentile_of_all_distances(sides: tuple[int, ...], spaced: bool) -> None:
    """By brute force over the border's pixels: those with a neighbour of another class."""
    from scipy.ndimage import binary_erosion

    spacing = (0.5, 2.0, 1.25)[: len(sides)] if spaced else None
    found, truth = (torch.zeros(1, *sides, dtype=torch.int64) for _ in range(2))
    found[(0, *(slice(1, 5),) * len(sides))] = 1
    truth[(0, *(slice(2, 6),) * len(sides))] = 1
    truth[(0, *(1,) * len(sides))] = 1

    def border(mask: torch.Tensor) -> np.ndarray:
        inside = mask[0].numpy().astype(bool)
        return np.argwhere(inside & ~binary_erosion(inside)) * np.array(spacing or (1.0,) * len(sides))

    first, second = border(found), border(truth)
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    expected = max(np.percentile(distances.min(axis), 95) for axis in (0, 1))
    assert hausdorff95(found, truth, spacing=spacing).item() == pytest.approx(expected, rel=1e-5)


def test_hausdorff_is_monais() -> None:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    found, truth = (one_hot(boundary_band(masks(seed, 2, 20, 14, classes=2), 1).long(), 2) for seed in (0, 1))
    found, truth = (mask * (torch.arange(20).view(-1, 1) % 9 > 3) for mask in (found, truth))
    theirs = compute_hausdorff_distance(found, truth, include_background=False, percentile=95, spacing=[1.5, 0.5])
    assert torch.allclose(hausdorff95(found[:, 1], truth[:, 1], spacing=(1.5, 0.5)), theirs.double(), rtol=1e-5)


def test_reliability_is_that_of_monai() -> None:
    """Of one class against the rest, whose bins MONAI has; two classes, all confidences of 1/2 and more."""
    from monai.metrics.calibration import calibration_binning

    probability = torch.rand((1, 2, 40, 40), generator=torch.Generator().manual_seed(0)).mul(4).softmax(1)
    truth = masks(1, 1, 40, 40, classes=2)
    ours = reliability(probability, truth, bins=10)
    confidence, guess = probability.max(1, keepdim=True)
    mean, share, count = calibration_binning(confidence, (guess == truth[:, None]).float(), num_bins=10, right=True)
    assert torch.equal(ours.count, count[0, 0].long())
    assert torch.allclose(ours.confidence, mean[0, 0].double(), equal_nan=True, atol=1e-5)
    assert torch.allclose(ours.accuracy, share[0, 0].double(), equal_nan=True, atol=1e-5)


def test_calibration_error_in_closed_form() -> None:
    """A share a of pixels right with confidence c: |c - a|; right with its own probability: about 0."""
    probability = torch.tensor([0.3, 0.7]).view(1, 2, 1).expand(1, 2, 1000)
    truth = (torch.arange(1000) < 900).long()[None]
    assert expected_calibration_error(probability, truth) == pytest.approx(0.2, abs=1e-6)
    rng = torch.Generator().manual_seed(0)
    p = torch.rand((1, 200_000), generator=rng)
    drawn = (torch.rand((1, 200_000), generator=rng) < p).long()
    assert expected_calibration_error(torch.stack([1 - p, p], 1), drawn) < 0.005
    assert expected_calibration_error(torch.stack([1 - p, p], 1), 1 - drawn) > 0.4


def test_a_region_counts_its_pixels_alone() -> None:
    probability = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).softmax(1)
    truth, region = masks(1, 2, 8, 8), masks(2, 2, 8, 8, classes=2).bool()
    inside = reliability(probability, truth, region=region)
    outside = reliability(probability, truth, region=~region)
    assert torch.equal(inside.count + outside.count, reliability(probability, truth).count)
    assert int(inside.count.sum()) == int(region.sum())
    assert math.isnan(expected_calibration_error(probability, truth, region=torch.zeros_like(region)))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.sampled_from([(9, 7), (6, 5, 4)]))
def test_the_band_is_where_another_class_is_near(seed: int, width: int, sides: tuple[int, ...]) -> None:
    mask = torch.zeros(1, *sides, dtype=torch.int64)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        mask[(0, *(int(rng.integers(side)) for side in sides))] = int(rng.integers(1, 3))
    band = boundary_band(mask, width)
    whole = mask[0].numpy()
    for place in np.ndindex(*sides):
        near = whole[tuple(slice(max(0, index - width), index + width + 1) for index in place)]
        assert bool(band[(0, *place)]) == bool((near != whole[place]).any())


def test_patients_count_alike() -> None:
    values, patients = [0.2, 0.4, 0.9, float("nan"), float("nan")], ["b", "b", "a", "a", "c"]
    means = by_patient(values, patients)
    assert list(means) == ["a", "b", "c"]
    assert means["b"] == pytest.approx(0.3)
    assert math.isnan(means["c"])
    summary = over_patients(values, patients)
    assert (summary.count, summary.mean.value) == (2, pytest.approx(0.6))
    assert summary.variance == pytest.approx(np.var([0.9, 0.3], ddof=1))
    assert summary.mean.low <= 0.6 <= summary.mean.high
    many = over_patients(np.repeat(np.arange(20.0), 3), [f"{i // 3}" for i in range(60)])
    single = over_patients(np.arange(20.0), [str(i) for i in range(20)])
    assert many.mean.value == single.mean.value
    assert many.variance == pytest.approx(single.variance)
    assert math.isnan(over_patients([1.0], ["a"]).variance)


def test_what_makes_no_sense_is_refused() -> None:
    mask = masks(0, 2, 4, 4)
    with pytest.raises(ShapeError):
        dice(mask, mask[:1])
    with pytest.raises(ShapeError, match="2 sides"):
        hausdorff95(mask, mask, 3, spacing=(1.0,))
    with pytest.raises(ShapeError):
        reliability(one_hot(mask).float(), mask[:1])
    with pytest.raises(InputError, match="sum to 1"):
        reliability(torch.ones(2, 3, 4, 4), mask)
    with pytest.raises(InputError, match="at least 1"):
        reliability(one_hot(mask).float(), mask, bins=0)
    with pytest.raises(ShapeError):
        boundary_band(mask[0])
    with pytest.raises(ShapeError):
        by_patient([1.0], ["a", "b"])
