"""Where a picture may be changed, and by how much: the band around each class, its interior, and the texture that hides noise.

All maps are [batch, ..., height, width] and computed by pooling and shifts, on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

TextureName = Literal["lbp", "lbp-uniformity", "deviation", "none"]
Side = Literal["inner", "both"]
"""Of a class's border: inside it alone, or on either side."""
Picture = Float[Tensor, "batch channels height width"]
Classes = Int[Tensor, "batch height width"]
Maps = Float[Tensor, "batch classes height width"]


class Regions(NamedTuple):
    """The parts of a picture that belong to each class but the background, as 0 and 1, [B, K - 1, H, W]."""

    contour: Tensor
    """Within `width` pixels of the class's border."""
    interior: Tensor
    """The class without its contour."""

    @property
    def support(self) -> Float[Tensor, "batch 1 height width"]:
        """Where any class's contour or interior is."""
        return torch.maximum(self.contour, self.interior).amax(1, keepdim=True)


def dilate(maps: Maps, width: int) -> Maps:
    """The largest value within a square of `2 width + 1` pixels; beyond the picture there is nothing (0)."""
    return functional.max_pool2d(functional.pad(maps, (width,) * 4, value=0.0), 2 * width + 1, stride=1)


def erode(maps: Maps, width: int) -> Maps:
    """The smallest value within a square of `2 width + 1` pixels; beyond the picture a class goes on (1), so that its edge is no border."""
    return 1 - functional.max_pool2d(functional.pad(1 - maps, (width,) * 4, value=0.0), 2 * width + 1, stride=1)


def one_hot(masks: Classes, num_classes: int) -> Maps:
    """A map of 0 and 1 for each class but the background.

    Example:
        >>> one_hot(torch.tensor([[[0, 2]]]), 3).tolist()
        [[[[0.0, 0.0]], [[0.0, 1.0]]]]
    """
    return torch.stack([(masks == number).float() for number in range(1, num_classes)], 1)


def regions(masks: Classes, num_classes: int, width: int, side: Side = "both") -> Regions:
    """Contours and interiors, each class by itself: contour = dilate(class) - erode(class), interior = class - contour.

    With the side `inner`, contour = class - erode(class), so that both together are the class.

    Example:
        >>> masks = torch.zeros(1, 9, 9, dtype=torch.int64)
        >>> masks[:, 2:7, 2:7] = 1
        >>> for side in ("both", "inner"):
        ...     found = regions(masks, 2, 1, side)
        ...     print(int(found.contour.sum()), int(found.interior.sum()))
        40 9
        16 9
    """
    classes = one_hot(masks, num_classes)
    contour = (dilate(classes, width) if side == "both" else classes) - erode(classes, width)
    return Regions(contour, classes * (1 - contour))


class TextureMap(Protocol):
    """How much noise the texture around each pixel hides, [B, 1, H, W] in [0, 1]."""

    def __call__(self, images: Picture) -> Tensor: ...


def lbp_count(images: Picture) -> Float[Tensor, "batch 1 height width"]:
    """Share of the eight neighbours that aren't brighter: the local binary pattern's number of ones.

    Example:
        >>> lbp_count(torch.zeros(1, 3, 4, 4)).mean().item()
        1.0
    """
    return _neighbours(images).mean(1, keepdim=True)


def lbp_uniformity(images: Picture) -> Float[Tensor, "batch 1 height width"]:
    """Changes between 0 and 1 along the ring of eight neighbours over their largest number, 8: high in fine texture, low at plain edges."""
    ring = _neighbours(images)
    return (ring - ring.roll(1, dims=1)).abs().mean(1, keepdim=True)


def local_deviation(images: Picture) -> Float[Tensor, "batch 1 height width"]:
    """Standard deviation within 5 x 5 pixels, over its largest value in the picture."""
    grey = functional.pad(images.mean(1, keepdim=True), (2,) * 4, mode="replicate")
    mean, square = functional.avg_pool2d(grey, 5, 1), functional.avg_pool2d(grey.square(), 5, 1)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return deviation / deviation.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)


def no_texture(images: Picture) -> Float[Tensor, "batch 1 height width"]:
    """The whole budget everywhere."""
    return torch.ones_like(images[:, :1])


TEXTURES: Mapping[str, TextureMap] = MappingProxyType(
    {"lbp": lbp_count, "lbp-uniformity": lbp_uniformity, "deviation": local_deviation, "none": no_texture}
)


def _neighbours(images: Picture) -> Float[Tensor, "batch 8 height width"]:
    """Whether each pixel is at least as bright as each neighbour, once around; the picture goes on by its edge."""
    grey = images.mean(1, keepdim=True)
    height, width = grey.shape[2:]
    wide = functional.pad(grey, (1,) * 4, mode="replicate")
    ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    return torch.cat([(grey >= wide[:, :, row : row + height, column : column + width]).float() for row, column in ring], 1)


_DIAGONAL = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
_WHITE = 6.0
"""Norm of that kernel: what white noise of deviation 1 comes to."""


def diagonal_detail(images: Picture) -> Picture:
    """Second differences along both axes: planes, and stripes along either, leave nothing, a checkerboard most.

    Example:
        >>> ramp = torch.arange(16.0).view(1, 1, 4, 4)
        >>> float(diagonal_detail(ramp)[0, 0, 1, 1])
        0.0
    """
    channels = images.shape[1]
    kernel = torch.tensor(_DIAGONAL).to(images).expand(channels, 1, 3, 3)
    return functional.conv2d(functional.pad(images, (1,) * 4, mode="replicate"), kernel, groups=channels)


def sensor_noise(images: Picture, support: Float[Tensor, "batch 1 height width"]) -> float:
    """Standard deviation of the pixels' own noise where the pictures would be changed, in the pictures' unit.

    The median of the diagonal detail (Immerkaer 1996, with a median against edges and texture). It needs no clean picture. Fine texture
    counts as noise: a network can't tell them apart either.

    Args:
        images: in [0, 1].
        support: 1 where the pictures would be changed.

    Returns:
        The deviation; 0 where there is no support.

    Example:
        >>> noise = 0.01 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> round(sensor_noise(0.5 + noise, torch.ones(1, 1, 64, 64)), 3)
        0.01
    """
    found = diagonal_detail(images).abs() / _WHITE
    inside = erode(support, 1).expand_as(found) > 0
    return float(found[inside].median() / 0.6745) if bool(inside.any()) else 0.0
