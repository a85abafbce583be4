"""Pinhole cameras around the critters' table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.world.critters.primitives import Vector


@dataclass(frozen=True, kw_only=True)
class TableCamera:
    """A camera without distortion that looks at a point with its picture upright; square pixels, OpenCV axes (x right, y down, z ahead)."""

    eye: Vector
    target: Vector
    focal: float
    """In units of the picture's height, so that the same camera serves every size."""
    across: float = 1.0
    """Width of the picture over its height."""

    def width(self, height: int) -> int:
        """Pixels across of a picture of that height."""
        return round(self.across * height)

    def intrinsics(self, height: int) -> Float[Tensor, "3 3"]:
        """For a picture of that height in pixels; the origin is the upper left corner of the first pixel, whose middle is (0.5, 0.5)."""
        focal = self.focal * height
        return torch.tensor([[focal, 0.0, self.width(height) / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])

    def camera_from_world(self) -> Float[Tensor, "4 4"]:
        """A world point [x, y, z, 1] in the camera's axes."""
        eye = torch.tensor(self.eye, dtype=torch.float64)
        ahead = torch.tensor(self.target, dtype=torch.float64) - eye
        ahead = ahead / ahead.norm()
        right = torch.linalg.cross(ahead, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        right = right / right.norm()
        turn = torch.stack([right, torch.linalg.cross(ahead, right), ahead])
        moved = torch.eye(4, dtype=torch.float64)
        moved[:3, :3], moved[:3, 3] = turn, -turn @ eye
        return moved.float()

    def project(self, points: Float[Tensor, "points 3"], height: int) -> Float[Tensor, "points 3"]:
        """Pixels across and down and the depth in metres of world points.

        >>> camera = TableCamera(eye=(0, -1, 0), target=(0, 0, 0), focal=1.0)
        >>> camera.project(torch.tensor([[0.1, 0.0, 0.2]]), 100).round(decimals=3).tolist()
        [[60.0, 30.0, 1.0]]
        """
        moved = self.camera_from_world().to(points.dtype)
        placed = (points @ moved[:3, :3].T + moved[:3, 3]) @ self.intrinsics(height).to(points.dtype).T
        return torch.cat([placed[:, :2] / placed[:, 2:], placed[:, 2:]], 1)


def cameras_around(
    target: Vector, *, count: int, distance: float, elevation: float, first: float = 0.0, focal: float = 1.4
) -> tuple[TableCamera, ...]:
    """Cameras on a circle, evenly spaced, that all look at a point.

    Args:
        target: metres.
        count: of cameras.
        distance: of each from the target, in metres.
        elevation: of each above the horizontal, in radians.
        first: direction of the first one as seen from the target, in radians from the x axis.
        focal: see `TableCamera`.
    """
    made = []
    for number in range(count):
        angle = first + 2.0 * math.pi * number / count
        flat = distance * math.cos(elevation)
        eye = (target[0] + flat * math.cos(angle), target[1] + flat * math.sin(angle), target[2] + distance * math.sin(elevation))
        made.append(TableCamera(eye=eye, target=target, focal=focal))
    return tuple(made)
