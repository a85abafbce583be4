"""StyleGAN2's generator in plain torch, with a feature of the picture's own in place of what a layer would receive.

Karras et al. 2020, arXiv 1912.04958: a mapping network, convolutions whose weights a style modulates, noise of fixed maps, and RGB
that each level adds to the upsampled RGB of the one below. Weights have the names that rosinality's training writes.

Layers are numbered from 0: layer 0 works at 4 px, layers 1 and 2 at 8 px, and so on. Every odd layer doubles the resolution.
Layer k uses row k of w+, the RGB of a level the row after its last layer's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, ShapeError

SMALLEST = 4
"""Pixels along a side of the first level."""
ROOT = math.sqrt(2.0)
"""Gain after an activation, which keeps the variance (section 4.1 of arXiv 1812.04948)."""
SLOPE = 0.2


def default_channels(multiplier: int) -> dict[int, int]:
    """Channels of each level in the public checkpoints.

    >>> default_channels(2)[256]
    128
    """
    return dict.fromkeys((4, 8, 16, 32), 512) | {side: 16384 // side * multiplier for side in (64, 128, 256, 512, 1024)}


def layer_size(layer: int) -> int:
    """Pixels along a side of what a layer gives.

    >>> [layer_size(layer) for layer in range(5)]
    [4, 8, 8, 16, 16]
    """
    return SMALLEST << (layer + 1) // 2


def input_size(layer: int) -> int:
    """Pixels along a side of what a layer receives, which is the size of a feature in its place.

    >>> [input_size(layer) for layer in (5, 6, 9, 10)]
    [16, 32, 64, 128]
    """
    return SMALLEST << layer // 2


def upsample_rgb(rgb: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels doubled_height doubled_width"]:
    """Twice the resolution by the filter [1, 3, 3, 1]; zeros outside of the picture.

    Example:
        >>> upsample_rgb(torch.ones(1, 1, 3, 3))[0, 0, 2].tolist()
        [0.75, 1.0, 1.0, 1.0, 1.0, 0.75]
    """
    for dim in (2, 3):
        padded = functional.pad(rgb, (0, 0, 1, 1) if dim == 2 else (1, 1))
        before, here, after = (padded.narrow(dim, place, rgb.shape[dim]) for place in range(3))
        rgb = torch.stack([before * 0.25 + here * 0.75, here * 0.75 + after * 0.25], dim + 1).flatten(dim, dim + 1)
    return rgb


def _smooth(x: Tensor) -> Tensor:
    """The filter [1, 3, 3, 1] with the gain 2 along each side, three pixels fewer."""
    for dim in (2, 3):
        count = x.shape[dim] - 3
        parts = [x.narrow(dim, place, count) for place in range(4)]
        x = (parts[0] + parts[3]) * 0.25 + (parts[1] + parts[2]) * 0.75
    return x


class PixelNorm(nn.Module):
    """Divides a vector by its root mean square."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, numbers]."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """A linear layer whose stored weights have the deviation 1, so that all layers learn at the same rate (arXiv 1710.10196, section 4.1).

    Args:
        inputs, outputs: numbers.
        bias: of the start.
        rate: learning rate of the layer over that of the others.
        activate: apply the leaky ReLU.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale, self.rate, self.activate = rate / math.sqrt(inputs), rate, activate

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        made = functional.linear(x, self.weight * self.scale, self.bias * self.rate)
        return functional.leaky_relu(made, SLOPE) * ROOT if self.activate else made


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style (section 2.2), without what makes its outputs equally large.

    Scaling the input and the output is the same as scaling the weights of each picture, and one convolution serves the batch.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style_dim: int, *, upsample: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.scale, self.upsample, self.padding = 1 / math.sqrt(inputs * kernel**2), upsample, kernel // 2

    def forward(self, x: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """What the convolution gives, and the factor [batch, outputs, 1, 1] that demodulates it (equation 3)."""
        scales, weight = self.modulation(style), self.weight[0] * self.scale
        x = x * scales[:, :, None, None]
        if self.upsample:
            made = _smooth(functional.pad(functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2), (1, 1, 1, 1)))
        else:
            made = functional.conv2d(x, weight, padding=self.padding)
        power = functional.linear(scales.square(), weight.square().sum((2, 3)))
        return made, torch.rsqrt(power + 1e-8)[:, :, None, None]


class NoiseStrength(nn.Module):
    """How much of the noise map a layer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class ActivationBias(nn.Module):
    """What a layer adds to each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """A layer: modulated and demodulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, upsample=upsample)
        self.noise = NoiseStrength()
        self.activate = ActivationBias(outputs)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """`noise` [batch or 1, 1, height, width]."""
        made, factor = self.conv(x, style)
        # The activation's gain goes before it, into the small tensors.
        shift = ROOT * (self.noise.weight * noise + self.activate.bias[:, None, None])
        return functional.leaky_relu(made * (ROOT * factor) + shift, SLOPE)


class ToRGB(nn.Module):
    """What a level adds to the picture: a 1x1 modulated convolution, which is linear in the feature, and a bias."""

    def __init__(self, inputs: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))


class ConstantInput(nn.Module):
    """What layer 0 receives."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, SMALLEST, SMALLEST))


@dataclass(frozen=True)
class Activations:
    """What a generator computed on the way to a picture."""

    layers: dict[int, Tensor]
    """What each layer gives, by its number: [batch, channels, side, side]."""
    rgb: dict[int, Tensor]
    """The picture after each level, by its side: [batch, 3, side, side], about in [-1, 1]."""

    @property
    def picture(self) -> Tensor:
        """That of the last level."""
        return self.rgb[max(self.rgb)]


class StyleGAN2Generator(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Pictures from styles.

    Args:
        size: pixels along a side of the picture, a power of two from 8 to 1024.
        style_dim: numbers of z and of w.
        num_mapping_layers: layers from z to w.
        channel_multiplier: of the public checkpoints' channels from 64 px on; only where `channels` is None.
        channels: channels of each level, by its side.
        learning_rate_multiplier: of the mapping network.

    Raises:
        InputError: a size that is no level, or channels that lack one.

    Example:
        >>> network = StyleGAN2Generator(size=16, style_dim=8, num_mapping_layers=2, channels={4: 8, 8: 8, 16: 4})
        >>> w = network.map(torch.zeros(2, 8))
        >>> network(network.broadcast(w)).shape
        torch.Size([2, 3, 16, 16])
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, size: int = 1024, style_dim: int = 512, num_mapping_layers: int = 8, channel_multiplier: int = 2,
        channels: Mapping[int, int] | None = None, learning_rate_multiplier: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(size, int) or size < 8 or size & (size - 1) or size > 1024:
            raise InputError(f"the size of a generator is {size!r}; a power of two from 8 to 1024 is expected")
        self.levels = tuple(1 << power for power in range(2, size.bit_length()))
        # A config file has the sides as text.
        given = {int(side): count for side, count in channels.items()} if channels is not None else default_channels(channel_multiplier)
        lacking = [side for side in self.levels if side not in given]
        if lacking:
            raise InputError(f"the channels of the level of {lacking[0]} px are not given; {list(self.levels)} are expected")
        widths = [given[side] for side in self.levels]
        self.style = nn.Sequential(
            PixelNorm(),
            *(EqualLinear(style_dim, style_dim, rate=learning_rate_multiplier, activate=True) for _ in range(num_mapping_layers)),
        )
        self.register_buffer("mean_style", torch.zeros(style_dim))
        self.input = ConstantInput(widths[0])
        self.conv1, self.to_rgb1 = StyledConv(widths[0], widths[0], style_dim), ToRGB(widths[0], style_dim)
        self.convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        for before, width in pairwise(widths):
            self.convs.append(StyledConv(before, width, style_dim, upsample=True))
            self.convs.append(StyledConv(width, width, style_dim))
            self.to_rgbs.append(ToRGB(width, style_dim))
        for layer in range(self.num_layers):
            self.noises.register_buffer(f"noise_{layer}", torch.randn(1, 1, layer_size(layer), layer_size(layer)))

    @property
    def num_layers(self) -> int:
        """Convolutions of the synthesis."""
        return 2 * len(self.levels) - 1

    @property
    def num_styles(self) -> int:
        """Rows of w+."""
        return 2 * len(self.levels)

    def input_shape(self, layer: int) -> tuple[int, int, int]:
        """(channels, height, width) of a feature in the place of what a layer receives.

        Raises:
            InputError: there is no such layer.
        """
        if not 0 <= layer < self.num_layers:
            raise InputError(f"layer {layer} is asked for; the generator has layers 0 to {self.num_layers - 1}")
        return int(self._layer(layer).conv.weight.shape[2]), input_size(layer), input_size(layer)

    def map(self, z: Float[Tensor, "batch numbers"], *, truncation: float = 1.0) -> Float[Tensor, "batch numbers"]:
        """w of normal numbers z; `truncation` below 1 draws it towards `mean_style`, to less varied and more usual pictures."""
        w: Tensor = self.style(z)
        return w if truncation == 1.0 else torch.lerp(self.mean_style.to(w), w, truncation)

    @torch.no_grad()
    def measure_mean_style(self, *, count: int = 10_000, seed: int = 0) -> Float[Tensor, " numbers"]:
        """Mean w of so many z; keeps it as `mean_style`."""
        z = torch.randn(count, self.config.style_dim, generator=torch.Generator().manual_seed(seed)).to(self.mean_style)
        self.mean_style.copy_(torch.cat([self.map(part) for part in z.split(1000)]).mean(0))
        mean: Tensor = self.mean_style
        return mean

    def broadcast(self, w: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch rows numbers"]:
        """w+ that has the same w in every row."""
        return w[:, None].expand(-1, self.num_styles, -1)

    def forward(
        self, w_plus: Float[Tensor, "batch rows numbers"], features: Mapping[int, Tensor] | None = None, *,
        noise: Mapping[int, Tensor] | None = None, size: int | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:  # fmt: skip
        """The picture; see `collect`."""
        return self.collect(w_plus, features, noise=noise, size=size).picture

    def collect(
        self, w_plus: Float[Tensor, "batch rows numbers"], features: Mapping[int, Tensor] | None = None, *,
        noise: Mapping[int, Tensor] | None = None, size: int | None = None,
    ) -> Activations:  # fmt: skip
        """Every layer's output and every level's picture.

        Args:
            w_plus: a style for each layer and for the last RGB.
            features: by layer number, what the layer receives in place of what the one before gives. Layers before it still make the
                coarse levels' RGB.
            noise: by layer number, in place of the fixed maps [batch or 1, 1, side, side].
            size: stop at the level of this side; None for the last.

        Raises:
            InputError: a size that is no level, or a feature for a layer that isn't there.
            ShapeError: w+ or a feature has another shape.
        """
        size = self.levels[-1] if size is None else size
        if size not in self.levels:
            raise InputError(f"a picture of {size} px is asked for; the generator has levels of {list(self.levels)} px")
        self._check(w_plus, features or {})
        x = self.input.input.expand(len(w_plus), -1, -1, -1)
        layers: dict[int, Tensor] = {}
        rgb: dict[int, Tensor] = {}
        for layer in range(2 * self.levels.index(size) + 1):
            if features and layer in features:
                x = features[layer]
            x = layers[layer] = self.run_layer(layer, x, w_plus, None if noise is None else noise.get(layer))
            if layer % 2 == 0:
                side = layer_size(layer)
                made = self.to_rgb(side, x, w_plus)
                rgb[side] = made if layer == 0 else made + upsample_rgb(rgb[side // 2])
        return Activations(layers, rgb)

    def run_layer(
        self, layer: int, feature: Float[Tensor, "batch inputs height width"], w_plus: Float[Tensor, "batch rows numbers"],
        noise: Tensor | None = None,
    ) -> Float[Tensor, "batch outputs doubled_height doubled_width"]:  # fmt: skip
        """What one layer makes of a feature; `noise` None for its fixed map."""
        fixed: Tensor = getattr(self.noises, f"noise_{layer}")
        made: Tensor = self._layer(layer)(feature, w_plus[:, layer], fixed if noise is None else noise)
        return made

    def to_rgb(
        self, level: int, feature: Float[Tensor, "batch channels height width"], w_plus: Float[Tensor, "batch rows numbers"], *,
        bias: bool = True,
    ) -> Float[Tensor, "batch 3 height width"]:  # fmt: skip
        """What the level of so many pixels a side adds to the picture; without the bias it is linear in the feature."""
        place = self.levels.index(level)
        made: Tensor = self._rgb(level).conv(feature, w_plus[:, 2 * place + 1])[0]
        return made + self.rgb_bias(level) if bias else made

    def rgb_bias(self, level: int) -> Float[Tensor, "1 3 1 1"]:
        """What the level adds whatever the feature is."""
        bias: Tensor = self._rgb(level).bias
        return bias

    def _layer(self, layer: int) -> Any:
        return self.conv1 if layer == 0 else self.convs[layer - 1]

    def _rgb(self, level: int) -> Any:
        place = self.levels.index(level)
        return self.to_rgb1 if place == 0 else self.to_rgbs[place - 1]

    def _check(self, w_plus: Tensor, features: Mapping[int, Tensor]) -> None:
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.num_styles, self.config.style_dim):
            raise ShapeError(f"w+ is {list(w_plus.shape)}; [batch, {self.num_styles}, {self.config.style_dim}] is expected")
        for layer, feature in features.items():
            expected = (len(w_plus), *self.input_shape(layer))
            if feature.shape != expected:
                raise ShapeError(f"the feature for layer {layer} is {list(feature.shape)}; {list(expected)} is expected")
