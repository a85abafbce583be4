"""Encoders that invert a generator: a picture to w+ and to the feature that one layer receives in place of the one before's output.

Yao et al. 2022, "Feature-Style Encoder", arXiv 2202.02183; StyleCineGAN (arXiv 2403.14186) takes its feature at layer 9 or 10 of 17.
The feature keeps what is at its place in the picture, which w+ alone can't.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.stylegan2 import ROOT, SLOPE, EqualLinear, input_size
from calotype.errors import InputError, ShapeError

MOST_STYLES, MOST_UNITS = 18, 100
"""Of the published encoder: the first are those of a generator of 1024 px."""
POOLED = 3
"""Cells along a side to which each stage of the published encoder is averaged."""


class EqualConv(nn.Module):
    """A convolution whose stored weights have the deviation 1; see `EqualLinear`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale, self.stride, self.padding = 1 / math.sqrt(inputs * kernel**2), stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width]."""
        return functional.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding)


class HalvingBlock(nn.Module):
    """Two convolutions beside a linear path; halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = EqualConv(inputs, inputs), EqualConv(inputs, outputs, stride=2)
        self.beside = EqualConv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width]."""
        made: Tensor = (_leaky(self.second(_leaky(self.first(x)))) + self.beside(functional.avg_pool2d(x, 2))) / ROOT
        return made


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x * ROOT, SLOPE)


class FeatureStyleEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A small encoder, without normalisation, for generators of one's own.

    Args:
        size: pixels along a side of the picture.
        style_dim: numbers of a style.
        num_styles: rows of w+.
        feature_layer: which layer of the generator receives the feature.
        feature_channels: of the feature; the generator's `input_shape(feature_layer)` says how many.
        widths: channels at half the picture's resolution, at a quarter, and so on; the last of these goes to the styles.
        style_width: numbers between the last of these and the styles.
        feature_width: channels between the stage and the feature.

    Raises:
        InputError: no stage has the feature's resolution.

    Example:
        >>> encoder = FeatureStyleEncoder(size=16, style_dim=8, num_styles=6, feature_layer=3, feature_channels=5, widths=(8, 8))
        >>> w_plus, feature = encoder(torch.zeros(2, 3, 16, 16))
        >>> w_plus.shape, feature.shape
        (torch.Size([2, 6, 8]), torch.Size([2, 5, 8, 8]))
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, size: int = 64, style_dim: int = 128, num_styles: int = 10, feature_layer: int = 6, feature_channels: int = 48,
        widths: Sequence[int] = (48, 64, 96, 160), style_width: int = 320, feature_width: int = 48,
    ) -> None:  # fmt: skip
        super().__init__()
        stages = [size >> step for step in range(1, len(widths) + 1)]
        wanted = input_size(feature_layer)
        if wanted not in stages or size % (1 << len(widths)):
            raise InputError(f"the feature of layer {feature_layer} has {wanted} px, which is none of the encoder's stages of {stages} px")
        self.stage = stages.index(wanted)
        self.stem = EqualConv(12, widths[0])
        self.blocks = nn.ModuleList(HalvingBlock(before, width) for before, width in pairwise(widths))
        self.styles = nn.Sequential(
            EqualLinear(widths[-1] * stages[-1] ** 2, style_width, activate=True), EqualLinear(style_width, num_styles * style_dim)
        )
        self.feature = nn.Sequential(
            EqualConv(widths[self.stage], feature_width), nn.LeakyReLU(SLOPE),
            EqualConv(feature_width, feature_width), nn.LeakyReLU(SLOPE),
            EqualConv(feature_width, feature_channels),
        )  # fmt: skip
        self.register_buffer("mean_style", torch.zeros(style_dim))
        self.register_buffer("feature_scale", torch.ones(1))

    def forward(
        self, pictures: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch rows numbers"], Float[Tensor, "batch channels rows_of_cells columns"]]:
        """w+ and the feature of pictures in [-1, 1].

        `mean_style` is what the styles are offsets of, and `feature_scale` the deviation of the generator's own feature: a training sets
        both before it begins.

        Raises:
            ShapeError: pictures of another size.
        """
        size = self.config.size
        if pictures.shape[1:] != (3, size, size):
            raise ShapeError(f"pictures are {list(pictures.shape)}; [batch, 3, {size}, {size}] is expected")
        states = [_leaky(self.stem(functional.pixel_unshuffle(pictures, 2)))]
        for block in self.blocks:
            states.append(block(states[-1]))
        offsets = self.styles(states[-1].flatten(1)).unflatten(1, (self.config.num_styles, self.config.style_dim))
        return offsets + self.mean_style, self.feature(states[self.stage]) * self.feature_scale


class ResidualUnit(nn.Module):
    """Improved residual unit of ArcFace's networks (arXiv 1801.07698): normalisation first, no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1, self.bn2 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2, self.bn3 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width]."""
        made: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return made + (x if self.downsample is None else self.downsample(x))


class OfficialFeatureStyleEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The published encoder, with the names of its files: an ArcFace ResNet of which every stage goes to the styles.

    Args:
        size: pixels along a side of the pictures that it is given, which it reduces to `seen`.
        seen: pixels along a side of what the network receives.
        style_dim: numbers of a style.
        num_styles: rows of w+.
        feature_layer: which layer of the generator receives the feature.
        feature_channels: of the feature.
        widths: channels of the stem and of the four stages.
        depths: units of each stage.
        feature_width: channels between the stage and the feature.

    Raises:
        InputError: no stage has the feature's resolution, or twice it; or more styles or units than there can be.

    Example:
        >>> small = {"widths": (4, 4, 4, 8, 8), "depths": (1, 1, 1, 1), "style_dim": 8, "num_styles": 8, "feature_width": 8}
        >>> encoder = OfficialFeatureStyleEncoder(size=64, seen=32, feature_layer=4, feature_channels=5, **small).eval()
        >>> [tuple(made.shape) for made in encoder(torch.zeros(1, 3, 64, 64))]
        [(1, 8, 8), (1, 5, 16, 16)]
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, size: int = 1024, seen: int = 256, style_dim: int = 512, num_styles: int = 18, feature_layer: int = 10,
        feature_channels: int = 256, widths: Sequence[int] = (64, 64, 128, 256, 512), depths: Sequence[int] = (3, 4, 14, 3),
        feature_width: int = 512,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_styles > MOST_STYLES or sum(depths) > MOST_UNITS or size % seen:
            raise InputError(
                f"an encoder of {num_styles} styles and {sum(depths)} units that reduces {size} px to {seen} is asked for; at most "
                f"{MOST_STYLES} and {MOST_UNITS}, and a whole number of pixels in one, are possible"
            )
        wanted = input_size(feature_layer)
        # A stage that is twice as fine is halved on the way to the feature.
        sizes = [seen >> step for step in range(4)]
        if wanted == seen:
            self.stage, stride = 0, 1
        elif 2 * wanted in sizes:
            self.stage, stride = sizes.index(2 * wanted), 2
        else:
            raise InputError(f"the feature of layer {feature_layer} has {wanted} px, which no stage of {sizes} px gives")
        self.conv = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0]))
        for number, (before, width, depth) in enumerate(zip(widths[:-1], widths[1:], depths, strict=True), 1):
            units = [ResidualUnit(before, width, stride=2), *(ResidualUnit(width, width, stride=1) for _ in range(depth - 1))]
            self.add_module(f"block_{number}", nn.Sequential(*units))
        self.content_layer = nn.Sequential(
            nn.BatchNorm2d(widths[self.stage]),
            nn.Conv2d(widths[self.stage], feature_width, 3, padding=1, bias=False), nn.BatchNorm2d(feature_width), nn.PReLU(feature_width),
            nn.Conv2d(feature_width, feature_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(feature_channels),
        )  # fmt: skip
        self.styles = nn.ModuleList(nn.Linear(sum(widths[1:]) * POOLED**2, style_dim) for _ in range(num_styles))
        self.register_buffer("mean_style", torch.zeros(style_dim))

    def forward(
        self, pictures: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch rows numbers"], Float[Tensor, "batch channels rows_of_cells columns"]]:
        """w+ and the feature of pictures in [-1, 1].

        Raises:
            ShapeError: pictures of another size.
        """
        size, seen = self.config.size, self.config.seen
        if pictures.shape[1:] != (3, size, size):
            raise ShapeError(f"pictures are {list(pictures.shape)}; [batch, 3, {size}, {size}] is expected")
        states = [self.conv(functional.avg_pool2d(pictures, size // seen))]
        for number in range(1, 5):
            states.append(self.get_submodule(f"block_{number}")(states[-1]))
        pooled = torch.cat([functional.adaptive_avg_pool2d(state, POOLED) for state in states[1:]], 1).flatten(1)
        offsets = torch.stack([layer(pooled) for layer in self.styles], 1)
        return offsets + self.mean_style, self.content_layer(states[self.stage])
