"""A picture to the motion that can be guessed from it: a U-Net with two channels, pixels a frame to the right and down.

StyleCineGAN (arXiv 2403.14186) takes a pix2pixHD generator of this kind, trained on the mean optical flow of two seconds of real clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, ShapeError

LARGEST = 1024
"""Pixels along a side of a picture."""


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(min(8, outputs), outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(min(8, outputs), outputs), nn.SiLU(),
    )  # fmt: skip


class MotionNetwork(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A U-Net.

    Args:
        size: pixels along a side of the pictures that it was trained at; the motion has the same.
        widths: channels at each resolution, from the picture's on; each one after the first has half the resolution.

    Raises:
        InputError: the size can't be halved so often, or is above 1024 px.

    Example:
        >>> import torch
        >>> MotionNetwork(size=32, widths=(8, 8, 16))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 2, 32, 32])
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, *, size: int = 64, widths: Sequence[int] = (24, 48, 72, 96)) -> None:
        super().__init__()
        if not 1 <= size <= LARGEST:
            raise InputError(f"a motion network of {size} px is asked for; 1 to {LARGEST} px are possible")
        if size % (1 << (len(widths) - 1)):
            raise InputError(
                f"a motion network of {len(widths)} resolutions halves {size} px to a fraction; give a multiple of two to that"
            )
        self.enter = _convolutions(3, widths[0])
        self.down = nn.ModuleList(_convolutions(before, width) for before, width in pairwise(widths))
        self.up = nn.ModuleList(_convolutions(before + width, width) for before, width in pairwise(tuple(widths)[::-1]))
        self.out = nn.Conv2d(widths[0], 2, 3, padding=1)

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2 height width"]:
        """Pixels a frame, x to the right and y down, of pictures in [-1, 1]. What doesn't move isn't held at 0: multiply by the mask.

        Raises:
            ShapeError: pictures of another size.
        """
        size = self.config.size
        if pictures.shape[1:] != (3, size, size):
            raise ShapeError(f"pictures are {list(pictures.shape)}; [batch, 3, {size}, {size}] is expected")
        states = [self.enter(pictures)]
        for layers in self.down:
            states.append(layers(functional.avg_pool2d(states[-1], 2)))
        x: Tensor = states.pop()
        for layers in self.up:
            x = layers(torch.cat([functional.interpolate(x, scale_factor=2.0, mode="nearest"), states.pop()], 1))
        motion: Tensor = self.out(x)
        return motion
