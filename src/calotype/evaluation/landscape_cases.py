"""Unseen landscapes with all that is known of them, and the loops that StyleCineGAN's are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.core.motion_fields import integrate, resize_field
from calotype.core.splatting import Splatted, forward_splat
from calotype.imaging.types import Image, Mask
from calotype.methods.stylecinegan.method import Loop, Parts
from calotype.metrics.block_matching import follow_windows, window_places
from calotype.metrics.loops import contrast, seam_ratio
from calotype.metrics.pictures import psnr_within, rmse
from calotype.world.landscapes.drawing import SKY, WATER, paint_landscapes, sample_landscape
from calotype.world.scenes.sampling import SPLITS

SIDE = 64
NEAR = 6
"""Frames over which motion is compared with the truth."""
EARLY = 4
"""Frames in which a motion the wrong way is told from the right one: at mid-loop both are the same by symmetry."""


@dataclass(frozen=True, eq=False)
class Case:
    """One landscape."""

    index: int
    image: Image
    classes: Int[Tensor, "height width"]
    motion: Float[Tensor, "2 height width"]
    """0 on land."""
    later: Float[Tensor, "frames 3 height width"]
    """The true frames 0 to `NEAR`."""
    earlier: Float[Tensor, "frames 3 height width"]
    """The true frames 0, -1, ... -`NEAR`: what a loop shows before it closes."""
    angle: float
    """Of the random direction, in radians."""

    @property
    def moving(self) -> Mask:
        """Sky and water."""
        return Mask(self.classes > 0)


def landscape_cases(split: str, seed: int, count: int) -> list[Case]:
    """Landscapes 0 .. count - 1 of a stream."""
    landscapes = [sample_landscape(split=split, seed=seed, index=index) for index in range(count)]
    painted = paint_landscapes(landscapes, SIDE)
    later, earlier = (
        torch.stack([paint_landscapes(landscapes, SIDE, time=sign * float(time)).image for time in range(NEAR + 1)], 1) for sign in (1, -1)
    )
    angles = [float(np.random.default_rng(np.random.SeedSequence([SPLITS[split], seed, 37, index])).uniform(0, 2 * math.pi))
              for index in range(count)]  # fmt: skip
    parts = zip(painted.image, painted.mask, painted.motion, later, earlier, angles, strict=True)
    return [Case(index, Image(image), *known) for index, (image, *known) in enumerate(parts)]


def turned(field: Float[Tensor, "2 height width"], angle: float) -> Float[Tensor, "2 height width"]:
    """The field in another direction, as fast."""
    right, down = field
    return torch.stack([math.cos(angle) * right - math.sin(angle) * down, math.sin(angle) * right + math.cos(angle) * down])


class ForwardLoop(Loop):
    """Forward splatting from the loop's start alone."""

    def warp(self, maps: Float[Tensor, "1 channels side side"], t: int) -> Splatted:
        """See `Loop.warp`."""
        return forward_splat(maps, resize_field(self.future[t], (maps.shape[2], maps.shape[3])))


class CrossFadeLoop(Loop):
    """Backward warping: each pixel looks up where it comes from and where it goes to, and the two pictures are faded into each other."""

    def warp(self, maps: Float[Tensor, "1 channels side side"], t: int) -> Splatted:
        """See `Loop.warp`; nothing is torn, so there are no holes."""
        size = (maps.shape[2], maps.shape[3])
        came, goes = (resize_field(each, size) for each in (self.past[t], self.future[len(self) - t]))
        share = t / len(self)
        made = (1 - share) * _looked_up(maps, came) + share * _looked_up(maps, goes)
        return Splatted(made, torch.zeros_like(maps[:, :1], dtype=torch.bool))


def _looked_up(maps: Tensor, displacement: Tensor) -> Tensor:
    height, width = maps.shape[2:]
    down, right = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = right + displacement[:, 0].cpu(), down + displacement[:, 1].cpu()
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1).to(maps)
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def of_picture(loop: Loop, picture: Float[Tensor, "1 3 side side"]) -> Loop:
    """The same loop of one picture in [-1, 1] in place of the levels' RGB."""
    level = picture - loop.model.generator.rgb_bias(picture.shape[-1])
    return type(loop)(**{**vars(loop), "still": Parts(None, {picture.shape[-1]: level}, {})})


def as_kind(loop: Loop, kind: type[Loop]) -> Loop:
    """The same loop, warped in another way."""
    return kind(**vars(loop))


def clip_of(loop: Loop, frames: int | None = None) -> Float[Tensor, "frames 3 height width"]:
    """Frames 0 to N (N is the first one once more), or the first of them."""
    return torch.stack([loop.frame(t) for t in range(len(loop) + 1 if frames is None else frames)])


def motion_figures(case: Case, clip: Float[Tensor, "frames 3 height width"], *, backwards: bool = False) -> dict[str, float]:
    """Frames 0 to `NEAR` against the true ones, inside of what moves.

    Args:
        case: the landscape.
        clip: its frames from 0 on; with `backwards` from the loop's end to its start.
        backwards: compare with the frames before frame 0.

    Example:
        >>> case = landscape_cases("tune", 1, 1)[0]
        >>> motion_figures(case, case.later)["true_psnr_db"]
        99.0
    """
    moving, truth = case.moving.values, case.earlier if backwards else case.later
    ahead = torch.cat(integrate((-case.motion if backwards else case.motion)[None], NEAR))
    errors = []
    for number in (SKY, WATER):
        mask = case.classes == number
        places = window_places(case.image.pixels, mask)
        errors.append(follow_windows(clip[: NEAR + 1], mask, places, ahead).norm(dim=-1)[1:])
    error = torch.cat(errors, 1)
    close = [psnr_within(clip[t], truth[t], moving) for t in range(1, NEAR + 1)]
    return {
        "flow_error_px": float(error.mean()) if error.numel() else math.nan,
        "windows": error.shape[1],
        "true_psnr_db": float(np.mean(close)), "early_psnr_db": float(np.mean(close[:EARLY])),
    }  # fmt: skip


def loop_figures(case: Case, loop: Loop, clip: Float[Tensor, "frames 3 height width"]) -> dict[str, float]:
    """Frames 0 to N: how well they close, what is torn, how much contrast is left at mid-loop, and whether the rest stands still.

    `contrast` is that of a random pattern which goes the same way. `frame_contrast`, the frames' own, also counts what is smeared into the
    moving region from its rim.
    """
    moving = case.moving.values
    inside = clip * moving
    share = float(moving.float().mean())
    probe = _random_pattern(case.index).to(loop.future[0])
    warped = [loop.warp(probe, t) for t in (len(loop) // 4, len(loop) // 2, 3 * len(loop) // 4)]
    spread = [values[0].cpu()[:, moving].std(1).mean() for values in (warped[1].values, probe)]
    still = (clip - case.image.pixels).abs().amax(1)[:, ~moving]
    return {
        "seam": float(rmse(inside[-1], inside[0])) / share**0.5, "seam_ratio": seam_ratio(inside[:-1]),
        "holes": float(np.mean([float(each.holes[0, 0].cpu()[moving].float().mean()) for each in warped])),
        "contrast": float(spread[0] / spread[1]), "frame_contrast": float(contrast(clip, moving)[len(loop) // 2]),
        "static_change": float(still.max()) if still.numel() else math.nan,
    }  # fmt: skip


def _random_pattern(number: int) -> Float[Tensor, "1 channels side side"]:
    """What shows how much contrast a warp leaves, whatever the picture is: noise with a blur of one pixel, of the same power everywhere."""
    noise = torch.randn(8, 1, SIDE + 6, SIDE + 6, generator=torch.Generator().manual_seed(number))
    line = torch.exp(-0.5 * torch.arange(-3.0, 4.0) ** 2)
    return functional.conv2d(functional.conv2d(noise, line.view(1, 1, 1, 7)), line.view(1, 1, 7, 1)).transpose(0, 1)
