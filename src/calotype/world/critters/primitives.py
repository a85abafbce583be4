"""The solids of the critters' world, with exact distances: capsules (a sphere is one without length) and upright boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Capsule:
    """All points within `radius` of the segment from `start` to `end`; metres. A sphere where both are the same point."""

    start: Vector
    end: Vector
    radius: float
    colour: Vector
    """Red, green and blue in [0, 1]."""
    part: str | None = None
    """Which part of a critter it is; None in a thing without parts."""

    def distance(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Signed distance in metres, negative inside.

        >>> ball = Capsule(start=(0, 0, 0), end=(0, 0, 0), radius=1.0, colour=(1, 0, 0))
        >>> ball.distance(torch.tensor([[3.0, 0.0, 0.0]])).tolist()
        [2.0]
        """
        start, axis = points.new_tensor(self.start), points.new_tensor(self.end) - points.new_tensor(self.start)
        along = ((points - start) @ axis / axis.square().sum().clamp(min=1e-12)).clamp(0.0, 1.0)
        found: Tensor = (points - start - along[:, None] * axis).norm(dim=-1) - self.radius
        return found


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box that stands upright, turned by `yaw` radians about the vertical; metres."""

    centre: Vector
    half: Vector
    """Half its sides."""
    yaw: float
    colour: Vector
    part: str | None = None

    def distance(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Signed distance in metres, negative inside.

        >>> box = Box(centre=(0, 0, 0), half=(1, 1, 1), yaw=0.0, colour=(1, 0, 0))
        >>> box.distance(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.5]])).tolist()
        [2.0, -0.5]
        """
        away = points - points.new_tensor(self.centre)
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        local = torch.stack([cosine * away[:, 0] + sine * away[:, 1], cosine * away[:, 1] - sine * away[:, 0], away[:, 2]], -1)
        outside = local.abs() - points.new_tensor(self.half)
        found: Tensor = outside.clamp(min=0.0).norm(dim=-1) + outside.amax(-1).clamp(max=0.0)
        return found


Primitive = Capsule | Box
