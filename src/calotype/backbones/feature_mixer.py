"""One descriptor for each place out of a diffusion network's features at several layers and steps (Diffusion Hyperfeatures).

Luo et al. 2023, arXiv 2305.14334, section 3: a bottleneck block for each layer, shared over the steps, brings its features to one width;
the descriptor is their sum, weighted by a softmax over all pairs of layer and step. It is trained on pictures with known matching points.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, ShapeError

Taps = Sequence[Sequence[Float[Tensor, "batch _channels _rows _columns"]]]
"""By step, then by layer."""


class Bottleneck(nn.Module):
    """Residual block of three convolutions (1, 3, 1) with group normalisation; a fourth one beside them where the width changes."""

    def __init__(self, before: int, between: int, after: int, groups: int) -> None:
        super().__init__()
        widths = ((before, between, 1), (between, between, 3), (between, after, 1))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, side, padding=side // 2, bias=False) for i, o, side in widths)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, o) for _, o, _ in widths)
        changes = before != after
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.GroupNorm(groups, after)) if changes else nn.Identity()

    def forward(self, features: Float[Tensor, "batch before rows columns"]) -> Float[Tensor, "batch after rows columns"]:
        """Same grid, new width, not below 0."""
        states = features
        for place, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            states = norm(conv(states))
            if place < len(self.convs) - 1:
                states = functional.relu(states)
        made: Tensor = functional.relu(states + self.shortcut(features))
        return made


class FeatureMixer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Features of layers and steps to one descriptor for each place.

    Args:
        widths: channels of each layer.
        num_steps: noise levels that the features come from.
        out_channels: of the descriptor.
        groups: of the normalisations; divides a quarter of `out_channels`.
        layers: the modules of the network that the features come from, in the order of `widths`.
        timesteps: of the noise levels, in the network's own count, in the order of the steps.
        num_inversion_steps, num_noises: how the levels are reached (`calotype.backbones.diffusion_features.FeaturePlan`).

    Raises:
        InputError: the numbers don't fit together.

    Example:
        >>> import torch
        >>> mixer = FeatureMixer(widths=(8, 6), num_steps=1, out_channels=16, groups=4)
        >>> mixer([[torch.randn(2, 8, 4, 4), torch.randn(2, 6, 8, 8)]]).shape
        torch.Size([2, 16, 8, 8])
        >>> mixer.weights().tolist()
        [[0.5, 0.5]]
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, widths: tuple[int, ...], num_steps: int = 1, out_channels: int = 384, groups: int = 32, layers: tuple[str, ...] = (),
        timesteps: tuple[float, ...] = (), num_inversion_steps: int = 0, num_noises: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        if not widths or num_steps < 1 or out_channels % 4 or (out_channels // 4) % groups:
            raise InputError(
                f"a mixer of {len(widths)} layers, {num_steps} steps and {out_channels} channels in {groups} groups can't be made; "
                "a quarter of the channels must be a multiple of the groups"
            )
        if (layers and len(layers) != len(widths)) or (timesteps and len(timesteps) != num_steps):
            raise InputError(
                f"a mixer names {len(layers)} layers and {len(timesteps)} timesteps for {len(widths)} widths and {num_steps} steps; "
                "name each once"
            )
        self.bottlenecks = nn.ModuleList(Bottleneck(width, out_channels // 4, out_channels, groups) for width in widths)
        self.mixing_weights = nn.Parameter(torch.zeros(num_steps * len(widths)))

    def weights(self) -> Float[Tensor, "steps layers"]:
        """The share of each layer and step; they sum to 1."""
        shares: Tensor = self.mixing_weights.softmax(0).unflatten(0, (self.config.num_steps, len(self.config.widths)))
        return shares

    def forward(self, taps: Taps, grid: tuple[int, int] | None = None) -> Float[Tensor, "batch out rows columns"]:
        """The descriptors.

        Args:
            taps: features [B, C, h, w] by step, then by layer; grids may differ.
            grid: rows and columns of the result; None takes the largest that there is.

        Raises:
            ShapeError: another number of steps, layers or channels than the mixer's.
        """
        expected = [tuple(self.config.widths)] * self.config.num_steps
        found = [tuple(features.shape[1] for features in step) for step in taps]
        if found != expected:
            raise ShapeError(
                f"features of {len(found)} steps with the widths {found[0] if found else ()} were given; "
                f"the mixer was made for {len(expected)} with {expected[0]}"
            )
        size = grid or max(((features.shape[2], features.shape[3]) for step in taps for features in step), key=prod)
        mixed: Tensor | None = None
        for step, shares in zip(taps, self.weights(), strict=True):
            for features, share, bottleneck in zip(step, shares, self.bottlenecks, strict=True):
                part = share * bottleneck(resized(features.to(self.mixing_weights.dtype), size))
                mixed = part if mixed is None else mixed + part
        return cast(Tensor, mixed)


def resized(
    features: Float[Tensor, "batch channels _rows _columns"], grid: tuple[int, int]
) -> Float[Tensor, "batch channels rows columns"]:
    """Maps on another grid over the same picture, bilinear."""
    if tuple(features.shape[2:]) == grid:
        return features
    return functional.interpolate(features, size=grid, mode="bilinear", align_corners=False)
