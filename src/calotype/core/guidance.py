"""Guidance: which branches of a condition the network is asked for, and how their estimates are combined.

A branch is a label, never a place in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.stepping import StepContext
from calotype.errors import InputError


@runtime_checkable
class Guidance(Protocol):
    """Lists the branches that it needs and combines their estimates."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The branches to evaluate; each is a key of the conditions."""
        ...

    def combine(self, estimates: Mapping[str, Float[Tensor, "batch ..."]], sigma: float) -> Float[Tensor, "batch ..."]:
        """Estimates of x0 by branch, all of one shape [B, ...], to the guided estimate of that shape."""
        ...


@runtime_checkable
class BranchInputs(Guidance, Protocol):
    """A guidance that says what each branch is given, where that isn't the sample for all of them.

    Its labels are all branches that there can be; in a step only those that `inputs` names are evaluated, in that order.
    """

    def inputs(self, x: Float[Tensor, "batch ..."], step: StepContext) -> Mapping[str, Float[Tensor, "rows ..."]]:
        """The noisy samples by branch, each with as many rows as the others; `combine` is given as many estimates."""
        ...


@dataclass(frozen=True)
class NoGuidance:
    """One branch, taken as it is."""

    label: str = "cond"

    @property
    def labels(self) -> tuple[str, ...]:
        """The one branch."""
        return (self.label,)

    def combine(self, estimates: Mapping[str, Float[Tensor, "batch ..."]], sigma: float) -> Float[Tensor, "batch ..."]:
        """The branch itself."""
        return estimates[self.label]


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6, in the convention scale = 1 + w): negative + scale * (positive - negative).

    Combining estimates of x0, epsilon or v is the same thing at one noise level, since each is affine in the others.
    As in diffusers, a scale of at most 1 everywhere means no guidance: the negative branch is not evaluated.

    Example:
        >>> import torch
        >>> cfg = ClassifierFreeGuidance(3.0)
        >>> cfg.labels
        ('uncond', 'cond')
        >>> cfg.combine({"cond": torch.tensor([2.0]), "uncond": torch.tensor([1.0])}, sigma=1.0)
        tensor([4.])
        >>> ClassifierFreeGuidance(1.0).labels
        ('cond',)
    """

    scale: float | Tensor
    """A number, or a tensor that broadcasts against the estimates (see `linear_ramp`)."""
    positive: str = "cond"
    negative: str = "uncond"

    @property
    def labels(self) -> tuple[str, ...]:
        """The negative branch (where it is needed), then the positive one."""
        highest = float(self.scale.max()) if isinstance(self.scale, Tensor) else self.scale
        return (self.positive,) if highest <= 1 else (self.negative, self.positive)

    def combine(self, estimates: Mapping[str, Float[Tensor, "batch ..."]], sigma: float) -> Float[Tensor, "batch ..."]:
        """The guided estimate; the positive branch alone where it is the only label."""
        positive = estimates[self.positive]
        if len(self.labels) == 1:
            return positive
        negative = estimates[self.negative]
        scale = self.scale.to(positive) if isinstance(self.scale, Tensor) else self.scale
        return negative + scale * (positive - negative)


@dataclass(frozen=True)
class InstructionGuidance:
    """Two guidances, by a picture and by an instruction for it (Brooks et al. 2023, eq. 3).

    D = D(0, 0) + image_scale (D(picture, 0) - D(0, 0)) + scale (D(picture, instruction) - D(picture, 0)).

    Example:
        >>> import torch
        >>> found = {name: torch.tensor([value]) for name, value in (("uncond", 0.0), ("image", 1.0), ("cond", 3.0))}
        >>> InstructionGuidance(scale=2.0, image_scale=1.5).combine(found, sigma=1.0)
        tensor([5.5000])
    """

    scale: float
    """How much the instruction counts (official code: 7.5)."""
    image_scale: float
    """How much the picture counts (official code: 1.5)."""
    labels: tuple[str, ...] = ("uncond", "image", "cond")
    """Neither, the picture alone, both."""

    def combine(self, estimates: Mapping[str, Float[Tensor, "batch ..."]], sigma: float) -> Float[Tensor, "batch ..."]:
        """The guided estimate."""
        neither, picture, both = (estimates[label] for label in self.labels)
        return neither + self.image_scale * (picture - neither) + self.scale * (both - picture)


def linear_ramp(min_scale: float, max_scale: float, num_frames: int) -> Float[Tensor, "1 frames 1 1 1"]:
    """Per-frame guidance scales for clips [B, F, C, h, w]: `min_scale` at the first frame, `max_scale` at the last (as SVD).

    Example:
        >>> linear_ramp(1.0, 3.0, 5).flatten().tolist()
        [1.0, 1.5, 2.0, 2.5, 3.0]

    Raises:
        InputError: `num_frames` is less than 1.
    """
    if num_frames < 1:
        raise InputError(f"num_frames is {num_frames}; it must be at least 1")
    return torch.linspace(min_scale, max_scale, num_frames).view(1, num_frames, 1, 1, 1)
