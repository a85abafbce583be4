"""Capsules on a table, seen by exact pinhole cameras: depth by tracing their signed distances, and which part each pixel shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.imaging.rgbd import RGBDView

TABLE, NOTHING = -1, -2


@dataclass(frozen=True)
class Capsule:
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float
    part: int
    thing: int = 0

    def distance(self, points: Tensor) -> Tensor:
        start, along = torch.tensor(self.start).to(points), (torch.tensor(self.end) - torch.tensor(self.start)).to(points)
        length = float(along.square().sum())
        share = ((points - start) @ along / length).clamp(0, 1) if length else torch.zeros(points.shape[:-1]).to(points)
        return (points - start - share[..., None] * along).norm(dim=-1) - self.radius


def distances(capsules: list[Capsule], points: Tensor) -> Tensor:
    """[parts + 1, n]; the table z = 0 comes last."""
    return torch.stack([*(each.distance(points) for each in capsules), points[..., 2]])


def look_at(eye: tuple[float, float, float], at: tuple[float, float, float] = (0.0, 0.0, 0.03)) -> Tensor:
    """camera_from_world of a camera whose picture is upright."""
    place, target = torch.tensor(eye, dtype=torch.float64), torch.tensor(at, dtype=torch.float64)
    forward = (target - place) / (target - place).norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0, 1], dtype=torch.float64))
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ place
    return pose


def intrinsics(size: tuple[int, int], focal: float) -> Tensor:
    return torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]], dtype=torch.float64)


def render(capsules: list[Capsule], pose: Tensor, *, size: tuple[int, int] = (128, 128), focal: float = 150.0) -> tuple[RGBDView, Tensor]:
    """The view, and the part of each pixel [H, W] (the number of the capsule, TABLE or NOTHING)."""
    height, width = size
    empty = RGBDView(torch.zeros(3, height, width), torch.ones(height, width), intrinsics(size, focal), pose)
    ends = empty.points().double()
    rays = ends - empty.centre
    flat, at = rays.reshape(-1, 3), torch.full((height * width,), 0.05, dtype=torch.float64)
    going = torch.arange(len(flat))
    for _ in range(160):
        near = distances(capsules, empty.centre + at[going, None] * flat[going]).min(0).values
        at[going] += near / flat[going].norm(dim=-1)
        going = going[(near > 1e-7) & (at[going] < 5.0)]
    at = at.reshape(height, width)
    apart = distances(capsules, empty.centre + at[..., None] * rays)
    hit = (apart.min(0).values.abs() < 1e-5) & (at < 5.0)
    part = torch.where(hit, apart.argmin(0), torch.tensor(NOTHING))
    part = torch.where(part == len(capsules), torch.tensor(TABLE), part)
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(len(capsules) + 2, 3, generator=generator)
    colours[-1], colours[-2] = torch.tensor([0.8, 0.8, 0.75]), torch.tensor([0.2, 0.2, 0.25])
    rgb = colours[torch.where(part < 0, part + len(colours), part)].permute(2, 0, 1).contiguous()
    return RGBDView(rgb, torch.where(hit, at, torch.zeros_like(at)).float(), empty.intrinsics, pose), part


def ring(count: int = 4, radius: float = 0.5, height: float = 0.45, turn: float = 0.3) -> list[Tensor]:
    """Cameras around the middle of the table."""
    angles = [turn + 2 * math.pi * number / count for number in range(count)]
    return [look_at((radius * math.cos(angle), radius * math.sin(angle), height)) for angle in angles]
