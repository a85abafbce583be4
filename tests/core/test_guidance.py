"""Guidance by labels."""

from __future__ import annotations

import pytest
import torch

from calotype.core.guidance import ClassifierFreeGuidance, NoGuidance, linear_ramp
from calotype.errors import InputError

COND, UNCOND = torch.full((1, 3, 1, 1, 1), 2.0), torch.full((1, 3, 1, 1, 1), 1.0)
ESTIMATES = {"cond": COND, "uncond": UNCOND}


def test_no_guidance_is_its_branch() -> None:
    assert NoGuidance().labels == ("cond",)
    assert NoGuidance("source").combine({"source": COND}, 1.0) is COND


@pytest.mark.parametrize(("scale", "expected"), [(7.5, 8.5), (1.5, 2.5), (3.0, 4.0)])
def test_scale_extrapolates(scale: float, expected: float) -> None:
    guided = ClassifierFreeGuidance(scale).combine(ESTIMATES, 1.0)
    assert torch.allclose(guided, torch.full_like(COND, expected))


@pytest.mark.parametrize("scale", [1.0, 0.0, torch.ones(1, 3, 1, 1, 1)])
def test_scale_of_at_most_one_needs_one_branch(scale: float | torch.Tensor) -> None:
    guidance = ClassifierFreeGuidance(scale)
    assert guidance.labels == ("cond",)
    assert guidance.combine({"cond": COND}, 1.0) is COND


def test_scales_differ_by_frame_and_serve_every_row() -> None:
    guidance = ClassifierFreeGuidance(linear_ramp(1.0, 3.0, 3))
    assert guidance.labels == ("uncond", "cond")
    two = {label: torch.cat([x, 10 * x]) for label, x in ESTIMATES.items()}
    guided = guidance.combine(two, 1.0)
    assert guided[0].flatten().tolist() == [2, 3, 4]
    assert guided[1].flatten().tolist() == [20, 30, 40]


def test_labels_can_be_named() -> None:
    guidance = ClassifierFreeGuidance(2.0, positive="edit", negative="source")
    assert guidance.labels == ("source", "edit")
    assert torch.equal(guidance.combine({"edit": COND, "source": UNCOND}, 1.0), torch.full_like(COND, 3.0))


def test_guiding_estimates_equals_guiding_noise() -> None:
    """What diffusers' pipelines combine is epsilon; at one noise level it is the same thing."""
    x, sigma = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), 3.0
    cond, uncond = 0.3 * x, 0.1 * x + 0.2
    guided = ClassifierFreeGuidance(7.5).combine({"cond": cond, "uncond": uncond}, sigma)
    epsilon_cond, epsilon_uncond = (x - cond) / sigma, (x - uncond) / sigma
    epsilon = epsilon_uncond + 7.5 * (epsilon_cond - epsilon_uncond)
    assert torch.allclose(guided, x - sigma * epsilon, atol=1e-5)


def test_ramp() -> None:
    assert linear_ramp(1.0, 3.0, 14).shape == (1, 14, 1, 1, 1)
    assert linear_ramp(1.0, 3.0, 1).flatten().tolist() == [1.0]
    with pytest.raises(InputError, match="num_frames is 0"):
        linear_ramp(1.0, 3.0, 0)
