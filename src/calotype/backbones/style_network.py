"""Networks of style-extracting diffusion: a stock UNet that sees a layout beside the noise, and a style in its middle.

A checkpoint's parts are `unet`, diffusers' `UNet2DModel`, and `conditioner`, which makes the layout's channels and the style vector, and
holds what lets the style into the UNet (Öttl et al. 2024, arXiv 2403.14429; shapes as in the official code).
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, ShapeError

Injection = Literal["mid", "temb", "cross"]
Aggregation = Literal["mean", "max", "linear", "set"]
NULL_STYLE = -2.0
"""Every value of the pixels of no style, outside of [-1, 1]."""
LEAST_STYLE_SIDE = 16


class StyleConditioner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Layouts and style pictures to what the UNet is given.

    Args:
        num_classes: of the layouts, with the background; a layout of zeros is an unknown one.
        layout_channels: that the layout has beside the noise.
        factor: pixels along a side for one cell of the UNet's input; a power of two.
        style_width: of the style vector.
        encoder_channels: of the style encoder's levels, each with half the resolution of the one before.
        injection: `mid`, a residual block after the first one of the UNet's middle (the paper); `temb`, added to the time embedding;
            `cross`, attention over the single pictures' vectors in the middle.
        aggregation: of the vectors of several style pictures: `mean`, `max`, `linear` (of exactly `num_styles`, in order), `set` (a
            transformer over the set).
        num_styles: pictures that `linear` takes.
        mid_channels: of the UNet's middle.
        temb_channels: of the UNet's time embedding.
        norm_num_groups: as the UNet's.

    Raises:
        InputError: a word or number that makes no network.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, num_classes: int, layout_channels: int = 3, factor: int = 4, style_width: int = 128,
        encoder_channels: tuple[int, ...] = (32, 64, 96, 128), injection: Injection = "mid", aggregation: Aggregation = "mean",
        num_styles: int = 1, mid_channels: int = 128, temb_channels: int = 256, norm_num_groups: int = 32,
    ) -> None:  # fmt: skip
        super().__init__()
        if injection not in get_args(Injection) or aggregation not in get_args(Aggregation):
            raise InputError(f"injection is {injection!r} (mid, temb, cross), aggregation {aggregation!r} (mean, max, linear, set)")
        if num_classes < 2 or factor < 1 or factor & (factor - 1) or num_styles < 1:
            raise InputError(
                f"num_classes is {num_classes} (2 or more), factor {factor} (a power of two), num_styles {num_styles} (1 or more)"
            )
        self.layout = nn.Conv2d(num_classes, layout_channels, 1, bias=False)
        before = (3, *encoder_channels[:-1])
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in zip(before, encoder_channels, strict=True))
        # The first level has none: normalisation would remove the picture's own colour and contrast.
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, o), o) for o in encoder_channels[1:])
        # Means and standard deviations of the pixels and of the last maps: what is left of a picture without its content.
        self.to_style = nn.Linear(2 * encoder_channels[-1] + 6, style_width)
        self.join: nn.Module
        if aggregation == "linear":
            self.join = nn.Sequential(
                nn.ReLU(), nn.Linear(num_styles * style_width, style_width), nn.ReLU(), nn.Linear(style_width, style_width), nn.ReLU()
            )
        if aggregation == "set":
            layer = nn.TransformerEncoderLayer(style_width, 4, 2 * style_width, dropout=0.0, batch_first=True, norm_first=True)
            self.join = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        if injection == "mid":
            groups = min(norm_num_groups, mid_channels)
            self.block = ResnetBlock2D(in_channels=mid_channels, out_channels=mid_channels, temb_channels=style_width, groups=groups)
            # A UNet that was trained without styles is the same network at first.
            nn.init.zeros_(self.block.conv2.weight)
            nn.init.zeros_(cast(Tensor, self.block.conv2.bias))
        elif injection == "temb":
            self.block = nn.Linear(style_width, temb_channels)
            nn.init.zeros_(self.block.weight)
            nn.init.zeros_(self.block.bias)
        else:
            self.block = Attention(query_dim=mid_channels, cross_attention_dim=style_width, heads=4, dim_head=max(1, mid_channels // 4))
            nn.init.zeros_(self.block.to_out[0].weight)
            nn.init.zeros_(self.block.to_out[0].bias)

    def layout_channels(self, layouts: Float[Tensor, "batch classes height width"]) -> Float[Tensor, "batch channels h w"]:
        """Layouts, one channel a class, halved bilinearly to the UNet's grid, as further channels of its input.

        Raises:
            ShapeError: another number of classes, or sides that the factor doesn't divide.
        """
        config = self.config
        if layouts.shape[1] != config.num_classes or any(side % config.factor for side in layouts.shape[2:]):
            wanted = f"{config.num_classes} classes and sides that are multiples of {config.factor}"
            raise ShapeError(f"layouts are {list(layouts.shape)}; {wanted} are expected")
        side = config.factor
        while side > 1:
            layouts = functional.interpolate(layouts, scale_factor=0.5, mode="bilinear", align_corners=False)
            side //= 2
        channels: Tensor = self.layout(layouts)
        return channels

    def styles(self, pictures: Float[Tensor, "batch count 3 height width"]) -> Float[Tensor, "batch count width"]:
        """Each style picture's vector; pixels in [-1, 1], or all `NULL_STYLE`.

        Raises:
            ShapeError: no such pictures.
        """
        if pictures.ndim != 5 or pictures.shape[2] != 3 or min(pictures.shape[3:]) < LEAST_STYLE_SIDE:
            raise ShapeError(f"style pictures are {list(pictures.shape)}; [batch, count, 3, 16 or more, 16 or more] is expected")
        batch = pictures.shape[0]
        pixels = pictures.flatten(0, 1)
        x = pixels
        for number, conv in enumerate(self.convs):
            x = conv(x)
            x = functional.silu(self.norms[number - 1](x) if number else x)
        parts = [torch.cat([maps.mean((2, 3)), maps.flatten(2).std(2, unbiased=False)], 1) for maps in (pixels, x)]
        vectors: Tensor = self.to_style(torch.cat(parts, 1))
        apart: Tensor = vectors.unflatten(0, (batch, -1))
        return apart

    def aggregate(self, vectors: Float[Tensor, "batch count width"]) -> Float[Tensor, "batch width"]:
        """The vectors of a set of pictures as one.

        Raises:
            ShapeError: `linear` with another number of pictures than it was made for.
        """
        kind = self.config.aggregation
        if kind == "max":
            return vectors.amax(1)
        if kind == "set":
            joined: Tensor = self.join(vectors).mean(1)
            return joined
        if kind == "linear":
            if vectors.shape[1] != self.config.num_styles:
                raise ShapeError(f"{vectors.shape[1]} style pictures were given; this model joins exactly {self.config.num_styles}")
            made: Tensor = self.join(vectors.flatten(1))
            return made
        mean: Tensor = vectors.mean(1)
        return mean

    def forward(self, pictures: Float[Tensor, "batch count 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """Style pictures to what the UNet reads: one vector, or with `cross` one for each picture."""
        vectors = self.styles(pictures)
        return vectors if self.config.injection == "cross" else self.aggregate(vectors)[:, None]


def run_unet(
    unet: Any, conditioner: StyleConditioner, sample: Float[Tensor, "batch channels h w"], timesteps: Float[Tensor, " batch"],
    style: Float[Tensor, "batch tokens width"],
) -> Float[Tensor, "batch outputs h w"]:  # fmt: skip
    """A `UNet2DModel` with the style in its middle; without it, what its own `forward` gives.

    Args:
        unet: diffusers' `UNet2DModel`.
        conditioner: holds what lets the style in.
        sample: noisy latents and the layout's channels.
        timesteps: of each row, or one for all.
        style: as the conditioner makes it.
    """
    injection = conditioner.config.injection
    times = unet.time_proj(timesteps.reshape(-1).expand(len(sample))).to(sample.dtype)
    temb = unet.time_embedding(times)
    if injection == "temb":
        temb = temb + conditioner.block(functional.silu(style.mean(1)))
    hidden = unet.conv_in(sample)
    skips: tuple[Tensor, ...] = (hidden,)
    for block in unet.down_blocks:
        hidden, kept = block(hidden_states=hidden, temb=temb)
        skips += kept
    middle = unet.mid_block
    hidden = middle.resnets[0](hidden, temb)
    if injection == "mid":
        hidden = conditioner.block(hidden, style.mean(1))
    elif injection == "cross":
        flat = hidden.flatten(2).transpose(1, 2)
        hidden = hidden + conditioner.block(flat, encoder_hidden_states=style).transpose(1, 2).view_as(hidden)
    for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
        hidden = resnet(attention(hidden, temb=temb) if attention is not None else hidden, temb)
    for block in unet.up_blocks:
        kept, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
        hidden = block(hidden, kept, temb)
    output: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return output
