"""Which modules of a network are worth tapping: their channels and resolution."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from calotype.core.topology import stride_of

_WORTH = re.compile(
    r"^(conv_in"
    r"|(down_blocks|up_blocks)\.\d+\.((resnets|temp_convs|downsamplers|upsamplers)\.\d+|resnets\.\d+(\.spatial_res_block)?\.conv2)"
    r"|mid_block\.resnets\.\d+"
    r"|(.*\.)?(temporal_)?transformer_blocks\.\d+)$"
)


@dataclass(frozen=True)
class FeatureInfo:
    """A module whose output is a feature map."""

    module: str
    channels: int
    stride: int | None
    """Latent pixels per feature pixel and axis; None where it isn't known."""
    layout: Literal["map", "tokens"]
    """`map`: [rows, channels, height, width]; `tokens`: [rows, tokens, channels]."""


def feature_taps(model: nn.Module) -> tuple[FeatureInfo, ...]:
    """Residual blocks (and their last convolution, where AnyV2V injects), samplers and transformer blocks of a diffusers network.

    Any other module that returns a tensor can be tapped as well.

    Example:
        >>> from diffusers import UNet2DModel
        >>> unet = UNet2DModel(block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> [tap.module for tap in feature_taps(unet)][:3]
        ['conv_in', 'down_blocks.0.resnets.0', 'down_blocks.0.resnets.0.conv2']
    """
    found = []
    for name, module in model.named_modules():
        if _WORTH.match(name):
            tokens = "transformer_blocks" in name
            found.append(FeatureInfo(name, _channels(module), stride_of(model, name), "tokens" if tokens else "map"))
    return tuple(found)


def _channels(module: Any) -> int:
    for path in ("out_channels", "spatial_res_block.out_channels", "conv.out_channels", "out_dim", "attn1.out_dim", "dim"):
        value: Any = module
        for part in path.split("."):
            value = getattr(value, part, None)
        if isinstance(value, int):
            return value
    return 0
