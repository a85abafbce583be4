"""Several masks made into one: closed cases, the equations of STAPLE, a reader that is worse than the others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.core.mask_fusion import fuse_masks, staple
from calotype.errors import InputError, ShapeError


def reads(truth: torch.Tensor, readers: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Masks of readers [masks, true class, class said] of a truth."""
    rng = torch.Generator().manual_seed(seed)
    return torch.stack([torch.multinomial(one[truth.flatten()], 1, generator=rng).view(truth.shape) for one in readers])


def truth_of(classes: int, side: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, classes, (side, side), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 10_000), st.sampled_from(["mean", "vote", "staple"]))
def test_probabilities_stay_probabilities_and_the_order_of_masks_does_not_matter(masks: int, classes: int, seed: int, how: str) -> None:
    rng = torch.Generator().manual_seed(seed)
    given = torch.rand((masks, 2, classes, 5, 4), generator=rng).softmax(2)
    fused = fuse_masks(given, how)  # type: ignore[arg-type]
    assert fused.shape == (2, classes, 5, 4)
    assert fused.dtype == torch.float32
    assert torch.allclose(fused.sum(1), torch.ones(2, 5, 4), atol=1e-5)
    assert torch.allclose(fuse_masks(given.flip(0), how), fused, atol=1e-4)  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 10_000))
def test_masks_that_agree_are_the_answer(classes: int, masks: int, seed: int) -> None:
    truth = truth_of(classes, 6, seed)
    found = staple(truth.expand(masks, -1, -1), classes)
    assert torch.equal(found.probability.argmax(0), truth)
    assert found.probability.max(0).values.min() > 1 - 1e-6


def test_names_of_classes_do_not_matter() -> None:
    truth = truth_of(3)
    masks = reads(truth, torch.full((4, 3, 3), 0.1) + 0.7 * torch.eye(3))
    renamed = torch.tensor([2, 0, 1])
    assert torch.allclose(staple(masks, 3).probability, staple(renamed[masks], 3).probability[renamed], atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_readers_are_found_as_they_are(classes: int) -> None:
    """Four good readers and a bad one: their confusions within sampling error, the truth better than the vote has it."""
    good = [0.95, 0.92, 0.9, 0.85, 0.4]
    readers = torch.stack([torch.eye(classes) * g + (1 - torch.eye(classes)) * (1 - g) / (classes - 1) for g in good])
    truth = truth_of(classes)
    masks = reads(truth, readers)
    found = staple(masks, classes)
    assert torch.allclose(found.readers, readers.double(), atol=0.05)
    vote = fuse_masks(torch.nn.functional.one_hot(masks, classes).movedim(-1, 1)[:, None].float(), "vote")[0]
    errors = [(one.argmax(0) != truth).float().mean() for one in (found.probability, vote)]
    assert errors[0] < errors[1]


def test_the_end_satisfies_both_equations() -> None:
    """Warfield's W and theta by loops over pixels, from the readers that were found."""
    masks = reads(truth_of(2, 8), torch.tensor([[[0.9, 0.1], [0.2, 0.8]]] * 3))
    found = staple(masks, 2, tolerance=1e-13, most_steps=5000)
    share = masks.double().mean()
    sensitivity, specificity = found.readers[:, 1, 1], found.readers[:, 0, 0]
    for y, x in itertools.product(range(8), range(8)):
        a, b = float(share), float(1 - share)
        for mask in range(3):
            a *= float(sensitivity[mask] if masks[mask, y, x] else 1 - sensitivity[mask])
            b *= float(1 - specificity[mask] if masks[mask, y, x] else specificity[mask])
        assert math.isclose(float(found.probability[1, y, x]), a / (a + b), abs_tol=1e-5)
    weight = found.probability[1].double()
    for mask in range(3):
        assert math.isclose(float((weight * masks[mask]).sum() / weight.sum()), float(sensitivity[mask]), abs_tol=1e-5)


def test_four_readers_of_a_disc_are_those_that_simpleitk_finds() -> None:
    """SimpleITK 2.5's STAPLEImageFilter on the same four masks; its probabilities agreed to 7e-7."""
    rng = np.random.default_rng(0)
    disc = (np.hypot(*(np.indices((64, 64)) - 32)) < 15).astype(np.uint8)
    masks = []
    for more, less in ((0.05, 0.1), (0.1, 0.05), (0.02, 0.3), (0.3, 0.1)):
        mask = disc.copy()
        mask[(disc == 0) & (rng.random(disc.shape) < more)] = 1
        mask[(disc == 1) & (rng.random(disc.shape) < less)] = 0
        masks.append(mask)
    found = staple(torch.from_numpy(np.stack(masks)).long()).readers
    assert found[:, 1, 1].tolist() == pytest.approx([0.8525402, 0.9326869, 0.6466974, 0.8843933], abs=1e-6)
    assert found[:, 0, 0].tolist() == pytest.approx([0.9546753, 0.9084840, 0.9815306, 0.7152397], abs=1e-6)


def test_the_likelihood_never_falls() -> None:
    masks = reads(truth_of(3), torch.full((4, 3, 3), 0.2) + 0.4 * torch.eye(3))
    values = [staple(masks, 3, most_steps=steps).log_likelihood for steps in range(1, 30)]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 1


def test_a_class_that_nobody_says_and_empty_masks() -> None:
    nothing = staple(torch.zeros(3, 4, 4, dtype=torch.int64), 2)
    assert torch.allclose(nothing.probability[0], torch.ones(4, 4))
    assert torch.isfinite(nothing.probability).all()
    one_empty = torch.zeros(3, 8, 8, dtype=torch.int64)
    one_empty[:2, 2:6, 2:6] = 1
    assert torch.equal(staple(one_empty).probability.argmax(0), one_empty[0])


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        fuse_masks(torch.rand(0, 1, 2, 4), "mean")
    with pytest.raises(InputError, match="0 to 1"):
        staple(torch.tensor([[0, 2]]), 2)
    with pytest.raises(ShapeError):
        staple(torch.zeros(0, 3, dtype=torch.int64))
