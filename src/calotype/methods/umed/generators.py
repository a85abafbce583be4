"""The two networks that draw perturbations, and the perturbation that they make together within the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.methods.umed.regions import TEXTURES, Classes, Picture, Side, TextureName, diagonal_detail, one_hot, regions

Parts = Literal["both", "contour", "interior"]

THETA = 0.5
"""Share of the central difference at the start; it is learnt."""
GAIN = 2.0
"""Root mean square of a high-pass pattern before it is limited to -1 to 1."""
SLOPE = 0.1
GROUPS = 4


class CentralDifferenceConv(nn.Module):
    """A convolution of 3 x 3 that looks at differences from the centre as well (Yu et al. 2020, arXiv 2003.04092, eq. 4).

    y(p) = sum_n w_n x(p + n) - theta x(p) sum_n w_n, theta in (0, 1). At theta = 1 plain surfaces give nothing but the bias, so that
    contours are what it sees. `bias` is added as in any convolution.

    Example:
        >>> layer = CentralDifferenceConv(1, 2)
        >>> tuple(layer(torch.rand(1, 1, 8, 8)).shape), round(float(layer.theta), 3)
        ((1, 2, 8, 8), 0.5)
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)
        self.logit = nn.Parameter(torch.logit(torch.tensor(THETA)))

    @property
    def theta(self) -> Tensor:
        """Share of the central difference, a number."""
        return self.logit.sigmoid()

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Tensor:
        """As `torch.nn.Conv2d`."""
        centre = functional.conv2d(x, self.conv.weight.sum((2, 3), keepdim=True), stride=self.conv.stride)
        plain: Tensor = self.conv(x)
        return plain - self.theta * centre


class Perturbator(nn.Module):
    """An encoder and a decoder that draw a map as large as the picture, any values; the sides are continued to multiples of its stride.

    Args:
        channels: of the picture (and of what else is given with it).
        out_channels: of the map.
        widths: channels of each level; every further level halves the sides.
        central_differences: whether the encoder's convolutions are `CentralDifferenceConv`; the decoder's are plain.

    Example:
        >>> tuple(Perturbator(1, 1, (8, 8), central_differences=True)(torch.rand(1, 1, 9, 7)).shape)
        (1, 1, 9, 7)
    """

    def __init__(self, channels: int, out_channels: int, widths: Sequence[int], *, central_differences: bool) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        conv: Any = CentralDifferenceConv if central_differences else _plain
        into = [channels, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(conv(before, width, 2 if level else 1), _settled(width), conv(width, width), _settled(width))
            for level, (before, width) in enumerate(zip(into, widths, strict=True))
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        # A transposed convolution draws patterns of two pixels that hang on the picture's grid, which no other layer can from a smooth one.
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, width, 2, stride=2) for below, width in pairs)
        self.mix = nn.ModuleList(nn.Sequential(_plain(2 * width, width), _settled(width)) for _, width in pairs)
        self.out = _plain(widths[0], out_channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out_channels height width"]:
        """The map of each picture."""
        height, width = x.shape[2:]
        missing = (-width % self.stride, -height % self.stride)
        x = functional.pad(x, (0, missing[0], 0, missing[1]), mode="replicate")
        kept: list[Tensor] = []
        for level in self.down:
            x = level(x)
            kept.append(x)
        for up, mix, skip in zip(self.up, self.mix, kept[-2::-1], strict=True):
            x = mix(torch.cat([up(x), skip], 1))
        made: Tensor = self.out(x)
        return made[:, :, :height, :width]


def _plain(channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    return nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)


def _settled(width: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(min(GROUPS, width), width), nn.LeakyReLU(SLOPE))


class Perturbation(nn.Module):
    """Both perturbators, and what they add to a picture: d = eps (tanh(Gc) contour + texture tanh(Gt) interior), |d| <= eps.

    Args:
        channels: of a picture.
        num_classes: with the background. Each class has a contour, an interior and patterns of its own.
        epsilon: the budget in the pictures' unit, [0, 1].
        band: pixels that a contour is wide, on one side of the border.
        side: whether a contour is inside its class alone.
        texture: which map scales the interior's budget.
        widths: channels of the networks' levels.
        sees_masks: whether the networks see contours, interiors and classes beside the picture.
        high_pass: whether the networks' maps are reduced to their diagonal detail, of which smooth pictures have least.
        parts: which of the two perturbators draws.

    Example:
        >>> masks = torch.zeros(1, 16, 16, dtype=torch.int64)
        >>> masks[:, 4:12, 4:12] = 1
        >>> drawn = Perturbation(1, 2, epsilon=4 / 255, widths=(4, 8))(torch.full((1, 1, 16, 16), 0.5), masks)
        >>> bool(drawn.abs().max() <= 4 / 255), float(drawn[0, 0, 0, 0])
        (True, 0.0)
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        epsilon: float,
        band: int = 3,
        side: Side = "inner",
        texture: TextureName = "lbp",
        widths: Sequence[int] = (16, 32, 64),
        sees_masks: bool = True,
        high_pass: bool = True,
        parts: Parts = "both",
    ) -> None:
        super().__init__()
        self.channels, self.num_classes, self.epsilon, self.band, self.side = channels, num_classes, epsilon, band, side
        self.texture, self.sees_masks, self.high_pass, self.parts = texture, sees_masks, high_pass, parts
        seen = channels + (3 * (num_classes - 1) if sees_masks else 0)
        drawn = channels * (num_classes - 1)
        self.contour = Perturbator(seen, drawn, widths, central_differences=True)
        self.interior = Perturbator(seen, drawn, widths, central_differences=False)

    def forward(self, images: Picture, masks: Classes) -> Float[Tensor, "batch channels height width"]:
        """What is added to pictures in [0, 1] with these masks."""
        found = regions(masks, self.num_classes, self.band, self.side)
        seen = images - 0.5
        if self.sees_masks:
            seen = torch.cat([seen, found.contour, found.interior, one_hot(masks, self.num_classes)], 1)
        delta = torch.zeros_like(images)
        if self.parts != "interior":
            delta = delta + self._pattern(self.contour(seen), found.contour)
        if self.parts != "contour":
            delta = delta + TEXTURES[self.texture](images) * self._pattern(self.interior(seen), found.interior)
        # The contours of two classes may meet, and then so do their patterns.
        return self.epsilon * delta.clamp(-1, 1)

    def _pattern(self, drawn: Tensor, where: Float[Tensor, "batch classes height width"]) -> Float[Tensor, "batch channels height width"]:
        drawn = drawn.float()
        if self.high_pass:
            drawn = diagonal_detail(drawn)
            # A new network draws next to nothing there, of which no surrogate learns anything: every pattern has one size.
            drawn = GAIN * drawn / drawn.square().mean((1, 2, 3), keepdim=True).add(1e-12).sqrt()
        shape = (len(drawn), self.num_classes - 1, self.channels, *drawn.shape[2:])
        return (drawn.tanh().view(shape) * where[:, :, None]).sum(1)
