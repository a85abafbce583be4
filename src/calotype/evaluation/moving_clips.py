"""Clips of the moving world with their truth: what a made clip is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.evaluation.pairs import palette
from calotype.metrics import Track, centroid_error, psnr_within, track
from calotype.world import GroundTruth, ground_truth
from calotype.world.moving import MovingScene, Variant, redirected, sample_moving

FRAMES, SIZE = 8, 64
MARGIN = 4
"""Pixels that a swept mask is widened by: a cell of the toy autoencoder's latents."""


@dataclass(frozen=True, eq=False)
class MovingClip:
    """A scene, painted, with what is known about it."""

    scene: MovingScene
    index: int
    num_frames: int = FRAMES

    @cached_property
    def truth(self) -> GroundTruth:
        """Masks, ground, places."""
        return ground_truth(self.scene, SIZE, self.num_frames)

    @property
    def frames(self) -> Float[Tensor, "frames 3 size size"]:
        """The true clip, pixels in [0, 1]."""
        return self.truth.frames

    @cached_property
    def swept(self) -> Bool[Tensor, "size size"]:
        """Where any object is in any frame, widened by `MARGIN`."""
        mask = self.truth.masks.flatten(0, 1).any(0).float()[None, None]
        return functional.max_pool2d(mask, 2 * MARGIN + 1, 1, MARGIN)[0, 0] > 0

    @cached_property
    def seen(self) -> Track:
        """Where the first object truly is, seen through the same eyes as a made clip."""
        return self.follow(self.frames, area=1.0)

    @cached_property
    def area(self) -> float:
        """Pixels that the first object covers."""
        return float(self.seen.areas.mean())

    def follow(self, frames: Float[Tensor, "frames 3 size size"], area: float | None = None) -> Track:
        """Follow the scene's first object through a clip on the scene's ground."""
        return track(frames, self.truth.background[:1], palette(self.scene.objects[0]), self.area if area is None else area)

    def path_error(self, frames: Float[Tensor, "frames 3 size size"]) -> float:
        """Mean distance in pixels of the first object from its true place; half the side in a frame without it."""
        return float(centroid_error(self.follow(frames), self.seen.centroids).mean())

    def redirected(self) -> MovingClip:
        """The same object on the same ground, going another way: the next of the other three by turns."""
        ways = [way for way in ("left", "right", "up", "down") if way != self.scene.direction]
        return MovingClip(redirected(self.scene, ways[self.index % 3]), self.index, self.num_frames)

    def measure(self, frames: Float[Tensor, "frames 3 size size"]) -> dict[str, float]:
        """A clip that should be this one."""
        pixels, truth = frames.transpose(0, 1), self.frames.transpose(0, 1)
        every = torch.ones(truth.shape[1:], dtype=torch.bool)
        return {
            "psnr_db": psnr_within(pixels, truth, every),
            "swept_psnr_db": psnr_within(pixels, truth, self.swept.expand_as(every)),
            "path_error_px": self.path_error(frames),
        }


def moving_clips(split: str, seed: int, count: int, variant: Variant = "straight", num_frames: int = FRAMES) -> list[MovingClip]:
    """The first clips of a stream."""
    return [
        MovingClip(sample_moving(split=split, seed=seed, index=index, num_frames=num_frames, variant=variant), index, num_frames)
        for index in range(count)
    ]


def share_inside(error: Float[Tensor, "size size"], mask: Bool[Tensor, "size size"]) -> float:
    """Share of a map's sum that lies inside of a mask; NaN where the map is 0.

    Example:
        >>> share_inside(torch.tensor([[3.0, 1.0]]), torch.tensor([[True, False]]))
        0.75
    """
    total = float(error.sum())
    return float(error[mask].sum()) / total if total > 0 else float(np.nan)
