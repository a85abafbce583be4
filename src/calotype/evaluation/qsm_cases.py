"""Brains whose susceptibility is known, as a method meets them: a field with noise, a mask, and an affine that says how the head lay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool3d

from calotype.core.dipole import DipoleOperator, b0_direction
from calotype.imaging.grids import divided
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff.resolution import Resolution
from calotype.metrics.volumes import cone_energy, hfen, nrmse_percent, roi_slope, ssim
from calotype.world.brains.anatomy import Brain, sample_brain
from calotype.world.brains.field import measured_field

CROP = (48, 64, 48)
"""Voxels of 2 mm around the middle of the brain. Nothing outside is there for the field either."""


@dataclass(frozen=True, eq=False)
class Head:
    """One brain, cut to the crop, and the same without its ball."""

    brain: Brain
    ball: Float[Tensor, "x y z"]
    """What the ball adds to the susceptibility in ppm; 0 everywhere where there is none."""
    split: str
    seed: int
    index: int


@dataclass(frozen=True, eq=False)
class Scan:
    """A head in the scanner."""

    head: Head
    noise_ppm: float
    tilt_degrees: float
    field: Volume
    """Local field in ppm; its affine is the brain's, turned about the left-right axis."""
    mask: Volume
    """1 in the brain, else 0."""

    @property
    def direction(self) -> tuple[float, float, float]:
        """Of the main field in array axes."""
        return b0_direction(self.field.affine.numpy())

    @property
    def dipole(self) -> DipoleOperator:
        """The convolution that inverts this case, with its mask."""
        return DipoleOperator(self.field.size, self.field.spacing, self.direction, mask=self.mask.values > 0)

    def measure(self, chi: Float[Tensor, "x y z"]) -> dict[str, float]:
        """Every number of a map; `ball_share` is how much of the ball's 0.3 ppm is found, NaN without one."""
        brain, mask = self.head.brain, self.mask.values > 0
        truth, ball = brain.susceptibility, self.head.ball
        power = float(ball.square().sum())
        # With the brain's own structure taken off, what is left of the map is projected on the ball.
        surplus = chi - chi[mask].mean() - (truth - ball - truth[mask].mean())
        share = float((surplus * ball).sum()) / power if power > 0 else math.nan
        return {**distances(chi, truth, mask, brain.regions, self.field.spacing, self.direction), "ball_share": share}


def distances(
    chi: Float[Tensor, "x y z"],
    truth: Float[Tensor, "x y z"],
    mask: Bool[Tensor, "x y z"],
    regions: Int[Tensor, "x y z"],
    spacing: Sequence[float],
    direction: Sequence[float],
) -> dict[str, float]:
    """A map in ppm against the true one; see `calotype.metrics.volumes`."""
    return {
        "nrmse_percent": nrmse_percent(chi, truth, mask),
        "hfen": hfen(chi, truth, mask),
        "ssim": ssim(chi, truth, mask),
        "roi_slope": roi_slope(chi, truth, regions),
        "cone_energy": cone_energy(chi, truth, mask, spacing, direction),
    }


def heads(split: str, seed: int, count: int, *, first: int = 0) -> list[Head]:
    """The brains `first` to `first + count - 1` of a split. Every other one has a ball of 0.3 ppm, which no training brain has.

    Raises:
        InputError: an unknown split.
        MissingError: nilearn isn't installed.
    """
    made = []
    for index in range(first, first + count):
        plain = sample_brain(split=split, seed=seed, index=index).crop(CROP)
        brain = sample_brain(split=split, seed=seed, index=index, sphere=True).crop(CROP) if index % 2 else plain
        made.append(Head(brain, brain.susceptibility - plain.susceptibility, split, seed, index))
    return made


def scan(head: Head, *, noise_ppm: float, tilt_degrees: float = 0.0) -> Scan:
    """The field of a head that is tilted about its left-right axis; the noise of a head is the same draws in every position.

    Raises:
        InputError: negative noise.
    """
    angle = math.radians(tilt_degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    affine, brain = turn @ head.brain.affine, head.brain
    values = measured_field(brain, noise_ppm=noise_ppm, split=head.split, seed=head.seed, index=head.index, direction=b0_direction(affine))
    placed = torch.from_numpy(affine)
    return Scan(head, noise_ppm, tilt_degrees, Volume(values, placed, "ppm"), Volume(brain.mask.float(), placed))


def scan_thick(case: Scan, factor: tuple[int, int, int]) -> tuple[Volume, Volume]:
    """The field of a head in voxels that are `factor` times as thick, with the case's noise, and its mask.

    The scanner stops at a lower frequency (`Resolution`): each thick voxel's field is that of the map without its finest detail.
    """
    brain, head = case.head.brain, case.head
    resolution = Resolution([size // times for size, times in zip(brain.mask.shape, factor, strict=True)], factor)
    affine = case.field.affine.numpy() @ np.linalg.inv(divided(np.eye(4), factor))
    mask, magnitude = (avg_pool3d(values[None], factor)[0] for values in (brain.mask, brain.magnitude))
    regions = brain.regions[tuple(slice(times // 2, None, times) for times in factor)]
    thick = Brain(resolution.lower(brain.susceptibility), (mask >= 0.5).float(), magnitude, regions, affine)
    values = measured_field(thick, noise_ppm=case.noise_ppm, split=head.split, seed=head.seed, index=head.index, direction=case.direction)
    placed = torch.from_numpy(affine)
    return Volume(values, placed, "ppm"), Volume(thick.mask, placed)
