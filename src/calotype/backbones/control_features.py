"""Features of small parts of a picture that stay the same when the part is moved, enlarged or squeezed: what CAGE controls are made of.

The paper takes DINOv2's. `ControlEncoder` is small enough to be trained on a user's own frames in a minute.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ControlEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Strided convolutions: pictures to a grid of features, each of length 1 times the root of their width.

    Args:
        widths: channels after each convolution, each of which halves the resolution.
        feature_width: numbers of a feature.

    Example:
        >>> import torch
        >>> ControlEncoder(widths=(8, 8, 8), feature_width=6)(torch.zeros(2, 3, 64, 48)).shape
        torch.Size([2, 6, 8, 6])
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, *, widths: tuple[int, ...] = (32, 64, 96), feature_width: int = 48) -> None:
        super().__init__()
        before = (3, *widths[:-1])
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 5 if i == 3 else 3, 2, 2 if i == 3 else 1) for i, o in zip(before, widths, strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, o), o) for o in widths[1:])
        self.out = nn.Conv2d(widths[-1], feature_width, 1)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features rows columns"]:
        """Pixels in [-1, 1], their sides multiples of 2 to the number of convolutions."""
        states = functional.silu(self.convs[0](pixels))
        for conv, norm in zip(list(self.convs)[1:], self.norms, strict=True):
            states = functional.silu(norm(conv(states)))
        made: Tensor = functional.normalize(self.out(states), dim=1) * self.config.feature_width**0.5
        return made


def control_features(
    encoder: Any, pixels: Float[Tensor, "batch 3 height width"], grid: tuple[int, int], layers: int = 1
) -> Float[Tensor, "batch features rows columns"]:
    """Features of pictures on a grid, float32.

    Args:
        encoder: a `ControlEncoder`, or transformers' `Dinov2Model`, which sees the picture at as many pixels as give the grid, in [-1, 1]
            and not with ImageNet's mean and deviation, as in the official code.
        pixels: in [-1, 1].
        grid: (rows, columns); a `ControlEncoder`'s own grid is resampled to it where it is another.
        layers: of a `Dinov2Model`: so many of the last ones, after its final normalisation, one beside the other.

    Example:
        >>> import torch
        >>> control_features(ControlEncoder(widths=(8, 8, 8), feature_width=6), torch.zeros(2, 3, 64, 64), (8, 8)).shape
        torch.Size([2, 6, 8, 8])
    """
    weight = next(encoder.parameters())
    pixels = pixels.to(weight.device, weight.dtype)
    made: Tensor
    if isinstance(encoder, ControlEncoder):
        made = encoder(pixels).float()
    else:
        side = encoder.config.patch_size
        seen = functional.interpolate(pixels, size=(grid[0] * side, grid[1] * side), mode="bicubic", align_corners=False, antialias=True)
        states = encoder(pixel_values=seen, output_hidden_states=True).hidden_states[-layers:]
        tokens = torch.cat([encoder.layernorm(state)[:, -grid[0] * grid[1] :] for state in states], dim=-1)
        made = tokens.transpose(1, 2).unflatten(2, grid).float()
    if made.shape[2:] != grid:
        made = functional.interpolate(made, size=grid, mode="bilinear", align_corners=False)
    return made


def feature_width(encoder: Any, layers: int = 1) -> int:
    """Numbers of a feature of `control_features`."""
    width: int = encoder.config.feature_width if isinstance(encoder, ControlEncoder) else encoder.config.hidden_size * layers
    return width
