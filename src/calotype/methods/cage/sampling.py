"""The sampler of CAGE: Euler steps along a flow in which every frame has a time of its own.

Davtyan et al. 2024, arXiv 2403.14368; numbers as in the official code. Times are diffusers': 1 is noise and 0 is data, the paper's tau is
1 - time. Where all frames share their times, this is diffusers' FlowMatchEulerDiscreteScheduler, and the step in sigma = time / (1 - time)
that `calotype.core.samplers` makes is the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

TARGETS = 3
"""Frames that are made at once."""
Velocity = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Latents, offsets, times, features and where they are given, to noise - x0 of the last frames; see
`calotype.backbones.control_video_network.ControlledVideoTransformer.forward`."""


class Known(NamedTuple):
    """Frames that are known."""

    latents: Float[Tensor, "batch frames channels height width"]
    offsets: Int[Tensor, "batch frames"]
    """Their numbers minus the reference frame's."""


class Controls(NamedTuple):
    """Features of objects at cells of the frames to come."""

    features: Float[Tensor, "batch frames numbers rows columns"]
    given: Float[Tensor, "batch frames rows columns"]
    """1 where a feature is given, 0 elsewhere."""

    def at(self, frames: slice) -> Controls:
        """Those of some frames."""
        return Controls(self.features[:, frames], self.given[:, frames])


def joint_times(steps: int) -> Float[Tensor, "levels 1"]:
    """All frames together from noise to data.

    Example:
        >>> joint_times(2).flatten().tolist()
        [1.0, 0.5, 0.0]
    """
    return torch.linspace(1.0, 0.0, steps + 1)[:, None]


def staggered_times(steps: int, *, warm: bool) -> Float[Tensor, "levels targets"]:
    """The window's frames one after the other: its first frame is ready when the others are a third and two thirds of the way.

    Args:
        steps: from noise to data, for each frame; a multiple of 3 keeps every step as long.
        warm: the window begins as the one before it ended; false begins with pure noise in all frames and lets the later ones wait.

    Example:
        >>> staggered_times(3, warm=True).tolist()[0], staggered_times(3, warm=True).tolist()[-1]
        ([0.3333333432674408, 0.6666666865348816, 1.0], [0.0, 0.3333333432674408, 0.6666666865348816])
    """
    each = max(1, round(steps / TARGETS))
    count = each if warm else each * TARGETS
    left = torch.linspace(count / each, 0.0, count + 1)[:, None]
    return ((left + torch.arange(TARGETS)) / TARGETS).clamp(max=1.0)


def integrate(
    velocity: Velocity, known: Callable[[int], Known | None], controls: Controls,
    start: Float[Tensor, "batch targets channels height width"], times: Float[Tensor, "levels frames"], *, guidance: float = 0.0,
) -> Float[Tensor, "batch targets channels height width"]:  # fmt: skip
    """Follow the flow.

    Args:
        velocity: the network.
        known: frames before the targets, by the number of the step; the official code draws an earlier frame anew in each. None for none.
        controls: of the targets.
        start: the targets at the first times: noise where these are 1.
        times: of each target, or of all alike ([levels, 1]), level by level.
        guidance: gamma; v + gamma (v - v without controls). 0 asks the network once a step.

    Returns:
        The targets at the last times.
    """
    x, batch, targets = start, len(start), start.shape[1]
    times = times.to(x.device).expand(-1, targets)
    ahead = torch.arange(1, targets + 1, device=x.device).expand(batch, -1)
    for step in range(len(times) - 1):
        before, now = known(step), times[step].expand(batch, -1)
        window, offsets = (x, ahead) if before is None else (torch.cat([before.latents, x], 1), torch.cat([before.offsets, ahead], 1))
        moments = torch.nn.functional.pad(now, (window.shape[1] - targets, 0))
        v = velocity(window, offsets, moments, controls.features, controls.given)
        if guidance:
            v = v + guidance * (v - velocity(window, offsets, moments, controls.features, torch.zeros_like(controls.given)))
        x = x + (times[step + 1] - times[step])[None, :, None, None, None] * v
    return x
