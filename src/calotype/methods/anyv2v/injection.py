"""What is copied from the source's rows into the edit's, where in the network and down to which noise level.

The paper names decoder layers by number, layer = 3 * block + place in the block, and takes layer 4 for the convolution and 4 to 11 for
attention. Layer 3 is the first with attention, so for a decoder of any depth the rule is: every attention but the first of block 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from calotype.attention import AttentionControl, Inject, Site, StepContext, when
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.inversion import Trajectory
from calotype.core.schedule import VPSchedule
from calotype.errors import InputError
from calotype.features import FeatureInject

SOURCE, NEGATIVE, EDIT = "src", "uncond", "cond"
CONVOLUTIONS = ("up_blocks.1.resnets.1.spatial_res_block.conv2", "up_blocks.1.resnets.1.conv2")
"""Decoder layer 4's last spatial convolution: in networks of SVD's topology, and in I2VGen-XL's. Its output has no shortcut in it yet."""
_FIRST_TIMESTEP = 1001.0
_SAME = 1e-6


@cache
def _paper_schedule() -> VPSchedule:
    """I2VGen-XL's, on whose steps the paper's fractions are counted."""
    return VPSchedule.of("squaredcos_cap_v2", rescale_betas_zero_snr=True)


def sigma_of_tau(tau: float, scale: float = 1.0) -> float:
    """The noise level down to which the first share `tau` of I2VGen-XL's sampling steps goes.

    Its steps are even in the timestep, 981, 961, ..., 1 for 50 of them, so that share ends at timestep 1001 - 1000 tau. On another
    schedule the same share of the steps would be other noise levels, at which other things are decided.

    Args:
        tau: share of the steps, 0 to 1.
        scale: factor on the level; smaller latents decide the same things at lower noise.

    Returns:
        Infinity for 0 (never), 0 for 1 (always).

    Example:
        >>> [round(sigma_of_tau(tau), 2) for tau in (0.0, 0.2, 0.5, 1.0)]
        [inf, 3.14, 1.02, 0.0]
    """
    if tau <= 0:
        return inf
    return 0.0 if tau >= 1 else scale * _paper_schedule().sigma(_FIRST_TIMESTEP - 1000 * tau)


def above(sigma: float) -> when:
    """Steps at a noise level and above it."""
    return when(sigma_min=sigma * (1 - _SAME))


@dataclass(frozen=True)
class DecoderAttention:
    """The paper's decoder layers 4 and up: the first self-attention of each transformer of a kind, but for block 0 and layer 3."""

    kind: Literal["self", "temporal-self"]

    def __call__(self, site: Site) -> bool:
        """Whether a site is one of them."""
        late = site.place == "up" and (site.block, site.layer) >= (1, 1)
        return late and site.kind == self.kind and site.name.endswith("attn1")


def convolution(network: nn.Module) -> str:
    """The name of decoder layer 4's last spatial convolution.

    Raises:
        InputError: the network has none.
    """
    names = dict(network.named_modules())
    found = next((name for name in CONVOLUTIONS if name in names), None)
    if found is None:
        raise InputError(
            f"a {type(network).__name__} without {CONVOLUTIONS[1]} was given; anyv2v injects there, so it needs a UNet of the topology of"
            " Stable Video Diffusion or I2VGen-XL"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Injection:
    """The three injections by noise level."""

    conv: float
    """Lowest noise level at which the convolution's output is injected."""
    spatial: float
    """The same for queries and keys of the spatial self-attention."""
    temporal: float
    """The same for queries and keys of the self-attention over frames."""
    value: bool = False
    """Whether values are injected as well (for comparison)."""

    def active(self, sigma: float) -> bool:
        """Whether anything is injected at a level, so that the source's rows are needed."""
        return sigma >= min(self.conv, self.spatial, self.temporal) * (1 - _SAME)

    def add(self, control: AttentionControl, others: tuple[str, ...] = (NEGATIVE, EDIT)) -> None:
        """Put the rules on a network: from the source's rows into those of the roles `others`, wherever the source is in the batch."""
        parts: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v") if self.value else ("q", "k")
        if self.conv < inf:
            control.add(FeatureInject(module=convolution(control.model), src=SOURCE, dst=others, steps=above(self.conv)))
        if self.spatial < inf:
            control.add(Inject(what=parts, src=SOURCE, dst=others, select=DecoderAttention("self"), steps=above(self.spatial)))
        if self.temporal < inf:
            control.add(Inject(what=parts, src=SOURCE, dst=others, select=DecoderAttention("temporal-self"), steps=above(self.temporal)))


@dataclass(frozen=True, eq=False)
class BesideSource:
    """Guidance of the edit, with the source's saved latents beside it in the batch wherever something is injected.

    The source's own estimate is thrown away: its rows are read from the trajectory at every level.
    """

    guidance: ClassifierFreeGuidance
    trajectory: Trajectory
    """The source at the levels that are sampled at."""
    injection: Injection

    @classmethod
    def of(cls, scale: float, trajectory: Trajectory, injection: Injection) -> BesideSource:
        """With classifier-free guidance of that scale."""
        return cls(ClassifierFreeGuidance(scale, EDIT, NEGATIVE), trajectory, injection)

    @property
    def labels(self) -> tuple[str, ...]:
        """The source, then the edit's branches."""
        return (SOURCE, *self.guidance.labels)

    def inputs(self, x: Float[Tensor, "clips frames ..."], step: StepContext) -> dict[str, Float[Tensor, "clips frames ..."]]:
        """The sample for the edit, and what the source was at this step."""
        edits = dict.fromkeys(self.guidance.labels, x)
        return {SOURCE: self.trajectory.latents[step.index].to(x), **edits} if self.injection.active(step.sigma) else edits

    def combine(self, estimates: Mapping[str, Tensor], sigma: float) -> Tensor:
        """The edit's guided estimate."""
        return self.guidance.combine(estimates, sigma)
