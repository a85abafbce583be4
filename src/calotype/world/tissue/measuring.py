"""Colours of the tissue world, and the way back: a style's numbers, measured in a picture whose layout is known.

Everything is linear in the optical density (minus the logarithm of the light that passes), so means over regions are enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.errors import ShapeError
from calotype.world.tissue.sampling import VARIANTS

Array = npt.NDArray[np.float64]

ARC = (0.35, 0.35 + 1.5 * math.pi)
"""Angles of hue 0 and hue 1 in the colour plane of the optical density: a quarter of the circle stays free, so the ends are apart."""
MEAN, SWING = 0.55, 0.45
"""A stain's density in the three channels: mean and amplitude."""
LIGHT, WARMTH = 0.10, 0.08
"""Density of the empty slide, and how far red and blue depart from it at the coolest and the warmest."""
_CHANNELS = np.array([0.0, 2.0, 4.0]) * math.pi / 3.0
LEAST_PIXELS = 12
"""A class that covers fewer pixels has no measures."""


def hue_angle(hue: float) -> float:
    """Radians in the colour plane of a hue 0..1."""
    return ARC[0] + hue * (ARC[1] - ARC[0])


def stain_density(angle: float) -> Array:
    """Density of a stain in red, green and blue; the mean is the same for every angle."""
    density: Array = MEAN + SWING * np.cos(angle - _CHANNELS)
    return density


def light_density(tint: float) -> Array:
    """Density of the empty slide, from cool (0) to warm (1) light."""
    return LIGHT + WARMTH * (2.0 * tint - 1.0) * np.array([-1.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class StyleMeasures:
    """What pictures show of their styles; see `TissueStyle` for the units. Each [N], float64 on the CPU, NaN where a class is missing."""

    hue: Float[Tensor, " pictures"]
    second_hue: Float[Tensor, " pictures"]
    contrast: Float[Tensor, " pictures"]
    frequency: Float[Tensor, " pictures"]
    tint: Float[Tensor, " pictures"]


def measure_style(images: Float[Tensor, "pictures 3 height width"], masks: Int[Tensor, "pictures height width"]) -> StyleMeasures:
    """The styles of pictures of the variant `tissue`, given their layouts.

    The mean optical density of each class is a known mixture of the light's and the two stains' densities, which is solved for them. The
    hue is the angle of a stain's density in the plane of equal mean, as a place on the arc of `hue_angle`. The frequency comes from the
    ratio of a texture's squared differences to its variance.

    Args:
        images: in [0, 1], painted or generated.
        masks: the layouts, values 0, 1 and 2.

    Raises:
        ShapeError: shapes that don't fit.

    Example:
        >>> from calotype.world.tissue import paint_tissue, sample_tissue
        >>> scene = sample_tissue(split="tune", seed=1, index=0)
        >>> made = paint_tissue([scene])
        >>> abs(float(measure_style(made.image, made.mask).hue[0]) - scene.style.hue) < 0.02
        True
    """
    if images.ndim != 4 or images.shape[1] != 3 or masks.shape != (images.shape[0], *images.shape[2:]):
        raise ShapeError(f"pictures are {tuple(images.shape)} and masks {tuple(masks.shape)}; give [N, 3, H, W] and [N, H, W]")
    # On the CPU: some accelerators have no float64.
    masks, density = masks.cpu(), -images.detach().cpu().double().clamp(min=1.0 / 255.0).log()
    inner = torch.stack([_inner(masks == label) for label in range(3)], 1)
    means = torch.stack([_mean(density, inner[:, label]) for label in range(3)], 1)
    mixture = torch.tensor([[1.0, *row] for row in VARIANTS["tissue"].stains], dtype=torch.float64)
    light, first, second = (torch.linalg.inv(mixture) @ means).unbind(1)
    return StyleMeasures(
        hue=_hue(first, 0.5),
        second_hue=_hue(second, 0.87),
        contrast=first.mean(1) / MEAN,
        frequency=_frequency(density.mean(1), inner[:, 1], inner[:, 2]),
        tint=((light[:, 2] - light[:, 0]) / (2.0 * WARMTH) + 1.0) / 2.0,
    )


def _inner(region: Tensor) -> Tensor:
    """A region without the outer pixels, where it has other ones."""
    eroded = -functional.max_pool2d(-region[:, None].double(), 5, stride=1, padding=2)[:, 0] > 0.5
    enough = eroded.flatten(1).sum(1) >= LEAST_PIXELS
    return torch.where(enough[:, None, None], eroded, region)


def _mean(values: Tensor, region: Tensor) -> Tensor:
    """Mean of [N, C, H, W] over a region [N, H, W], NaN where it is too small: [N, C]."""
    count = region.flatten(1).sum(1)
    total = (values * region[:, None]).flatten(2).sum(2)
    return torch.where(count[:, None] >= LEAST_PIXELS, total / count[:, None].clamp(min=1), torch.nan)


def _hue(density: Tensor, centre: float) -> Tensor:
    """Place on the arc of a density's [N, 3] angle; `centre` says which turn of the circle is meant."""
    channels = torch.from_numpy(_CHANNELS)
    angle = torch.atan2((density * channels.sin()).sum(1), (density * channels.cos()).sum(1))
    middle = hue_angle(centre)
    turned = torch.remainder(angle - middle + math.pi, 2 * math.pi) - math.pi + middle
    return (turned - ARC[0]) / (ARC[1] - ARC[0])


def _frequency(values: Tensor, *regions: Tensor) -> Tensor:
    """Waves a side of the texture in regions: mean squared difference of neighbours over twice the variance is 1 - cos(pulse / side)."""
    steps = torch.zeros(len(values), dtype=values.dtype)
    spread = steps.clone()
    side = values.shape[-1]
    for region in regions:
        mean = torch.nan_to_num(_mean(values[:, None], region)[:, 0])
        apart = (values - mean[:, None, None]) * region
        right, below = region[:, :, 1:] & region[:, :, :-1], region[:, 1:] & region[:, :-1]
        steps += (values.diff(dim=2).square() * right).flatten(1).sum(1) + (values.diff(dim=1).square() * below).flatten(1).sum(1)
        spread += (
            apart.square().flatten(1).sum(1) * (right.flatten(1).sum(1) + below.flatten(1).sum(1)) / region.flatten(1).sum(1).clamp(min=1)
        )
    # Both directions together: 2 - cos kx - cos ky is about k^2 / 2 for the pulse k per pixel.
    ratio = (steps / spread.clamp(min=1e-12)).clamp(max=3.9)
    pulse = (2.0 * ratio).sqrt()
    return torch.where(spread > 1e-9, pulse * side / (2 * math.pi), torch.nan)
