"""Other colours for a training sample and its style pictures, the same for all of them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.train.rng import BatchRng
from calotype.train.segmentation_batches import jitter_colour

RecolourBy = Literal["hue", "stains"]
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of haematoxylin, eosin and DAB in red, green and blue (A. Ruifrok, D. Johnston: "Quantification of histochemical staining
by color deconvolution", 2001)."""
DARKEST = 1 / 255


def recoloured(
    images: Float[Tensor, "batch 3 height width"], styles: Float[Tensor, "batch count 3 height width"], strength: float, rng: BatchRng,
    by: RecolourBy = "hue",
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch count 3 height width"]]:  # fmt: skip
    """A sample and its style pictures in [0, 1] in other colours, so that what the colours are can be read off the style alone.

    Where labelled pictures have few colours, a network learns that a layout means these colours, whatever the style.

    Args:
        images: the samples.
        styles: each one's style pictures, of the same size.
        strength: 0 to 1.
        rng: each sample draws numbers of its own.
        by: `hue`, as a segmenter's colour jitter (`calotype.train.segmentation_batches.jitter_colour`); `stains`, see `restained`.
    """
    pictures = torch.cat([images[:, None], styles], 1).transpose(1, 2)
    changed = (jitter_colour if by == "hue" else restained)(pictures, strength, rng).transpose(1, 2)
    return changed[:, 0], changed[:, 1:]


def restained(images: Float[Tensor, "batch 3 *sides"], strength: float, rng: BatchRng) -> Float[Tensor, "batch 3 *sides"]:
    """Pictures in [0, 1] with other amounts of haematoxylin, eosin and DAB: at strength 1, each one halved to doubled.

    The optical density of each pixel is taken as a mixture of the three stains (Ruifrok and Johnston 2001), which is solved for their
    amounts.
    """
    stains = torch.nn.functional.normalize(torch.tensor(STAINS), dim=1).to(images)
    density = -images.flatten(2).clamp(min=DARKEST).log()
    amounts = torch.linalg.inv(stains.T) @ density
    factors = torch.stack([2.0 ** ((2 * rng.uniform() - 1) * strength) for _ in STAINS], 1)[:, :, None].to(images)
    return torch.exp(-(stains.T @ (amounts * factors))).clamp(0, 1).view_as(images)
