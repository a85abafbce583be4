"""The networks of diffusion segmentation: one UNet that removes noise from a mask, and four ways in which the picture enters it.

    ensemdiff      the picture is concatenated to the noisy mask                                        Wolleb et al., arXiv 2112.03145
    segdiff        residual dense blocks of the picture, added once after the first convolution         Amit et al., arXiv 2112.00390
    medsegdiff     concatenated; a second UNet (the highway) reads the picture, its bottleneck goes     Wu et al., arXiv 2211.00611
                   through an FF-Parser and is added to the mask's; it also learns the mask itself
    dermosegdiff   an encoder of the picture beside the mask's; its features are added at every level   Bozorgpour et al., arXiv 2308.02959

In two dimensions the UNet is diffusers' `UNet2DModel`, in three MONAI's `DiffusionModelUNet`. Every block of `patch_size` pixels a side is
one cell of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.volume_network import monai_unet
from calotype.errors import InputError, ShapeError

Architecture = Literal["ensemdiff", "segdiff", "medsegdiff", "dermosegdiff"]
GROWTH = 2
"""A residual dense block's inner convolutions have the block's channels over this."""


class DiffusionSegmentationNetwork(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A noisy state and a picture to what the network predicts for the state.

    Args:
        architecture: how the picture enters.
        spatial_dims: 2 or 3.
        state_channels: of what is denoised: of the mask, or of the picture where pictures are generated or nothing is denoised.
        image_channels: of the picture that guides; 0 for none.
        out_channels: of the prediction.
        window: sides that the network sees.
        channels: of the UNet's levels, each with half the resolution of the one before.
        num_res_blocks: of each level.
        norm_num_groups: of the normalisation; divides all channels.
        attention: of the cells with each other at the coarsest level.
        patch_size: pixels along each side of a cell.
        guidance_blocks: residual dense blocks of segdiff.

    Raises:
        InputError: an unknown architecture, or a window that the levels don't divide.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        architecture: Architecture = "ensemdiff",
        spatial_dims: int = 2,
        state_channels: int = 1,
        image_channels: int = 1,
        out_channels: int = 1,
        window: tuple[int, ...] = (64, 64),
        channels: tuple[int, ...] = (32, 64, 64),
        num_res_blocks: int = 1,
        norm_num_groups: int = 8,
        attention: bool = False,
        patch_size: int = 2,
        guidance_blocks: int = 3,
    ) -> None:
        super().__init__()
        if architecture not in get_args(Architecture):
            raise InputError(f"architecture {architecture!r} is unknown; choose one of {', '.join(get_args(Architecture))}")
        cells = [side // (patch_size << (len(channels) - 1)) for side in window]
        if len(window) != spatial_dims or any(side % (patch_size << (len(channels) - 1)) for side in window):
            raise InputError(
                f"window is {tuple(window)}; it must have {spatial_dims} sides, multiples of {patch_size << (len(channels) - 1)}, which "
                "the network's levels divide them by"
            )
        self.patch_size, self.spatial_dims = patch_size, spatial_dims
        block = patch_size**spatial_dims
        concatenated = image_channels if architecture in ("ensemdiff", "medsegdiff") else 0
        self.unet = _unet(
            spatial_dims, in_channels=block * (state_channels + concatenated), out_channels=block * out_channels, channels=channels,
            num_res_blocks=num_res_blocks, norm_num_groups=norm_num_groups, attention=attention, cells=cells,
        )  # fmt: skip
        self.guide: nn.Module | None = None
        if image_channels and architecture == "segdiff":
            self.guide = ResidualDenseGuide(spatial_dims, block * image_channels, channels[0], guidance_blocks, len(channels))
        elif image_channels and architecture == "medsegdiff":
            self.guide = Highway(spatial_dims, block * image_channels, block * out_channels, channels, norm_num_groups, cells)
        elif image_channels and architecture == "dermosegdiff":
            self.guide = PictureEncoder(spatial_dims, block * image_channels, channels, norm_num_groups)

    def forward(
        self, state: Float[Tensor, "batch state *sides"], timesteps: Float[Tensor, " batch"], image: Tensor | None = None
    ) -> Float[Tensor, "batch out *sides"]:
        """The prediction for the state at these timesteps; `image` [B, image_channels, *sides] in [-1, 1]."""
        return self.with_highway(state, timesteps, image)[0]

    def with_highway(
        self, state: Float[Tensor, "batch state *sides"], timesteps: Float[Tensor, " batch"], image: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch out *sides"], Tensor | None]:
        """The prediction, and medsegdiff's mask from the picture alone; None for the other architectures.

        Raises:
            ShapeError: a picture is missing, or is one too many.
        """
        config = self.config
        if (image is None) != (config.image_channels == 0):
            raise ShapeError(
                f"the network has {config.image_channels} channels for a picture that guides; give one exactly if there are any"
            )
        x = _to_cells(state, self.patch_size)
        y = None if image is None else _to_cells(image, self.patch_size)
        levels: list[Tensor | None] = [None] * (len(config.channels) + 1)
        highway: Tensor | None = None
        if y is not None and self.guide is not None:
            levels, highway = self.guide(y)
        if y is not None and config.architecture in ("ensemdiff", "medsegdiff"):
            x = torch.cat([x, y], 1)
        made = _to_pixels(_guided(self.unet, x, timesteps, levels), self.patch_size)
        return made, None if highway is None else _to_pixels(highway, self.patch_size)


def _unet(
    spatial_dims: int, *, in_channels: int, out_channels: int, channels: Sequence[int], num_res_blocks: int, norm_num_groups: int,
    attention: bool, cells: Sequence[int],
) -> nn.Module:  # fmt: skip
    levels = len(channels)
    heads = min(32, channels[-1])
    if spatial_dims == 3:
        return monai_unet(
            {
                "spatial_dims": 3, "in_channels": in_channels, "out_channels": out_channels, "channels": list(channels),
                "attention_levels": [False] * (levels - 1) + [attention], "num_res_blocks": num_res_blocks,
                "norm_num_groups": norm_num_groups, "num_head_channels": heads,
            }
        )  # fmt: skip
    kinds = ["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D" if attention else "DownBlock2D"]
    made: nn.Module = UNet2DModel(
        sample_size=tuple(side << (levels - 1) for side in cells), in_channels=in_channels, out_channels=out_channels,
        block_out_channels=tuple(channels), layers_per_block=num_res_blocks, norm_num_groups=norm_num_groups, down_block_types=tuple(kinds),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)), attention_head_dim=heads, add_attention=attention,
    )  # fmt: skip
    return made


def _guided(unet: Any, x: Tensor, timesteps: Tensor, added: Sequence[Tensor | None]) -> Tensor:
    """Either library's UNet with features added to each level's input and, the last ones, to the bottleneck's."""
    monai = not isinstance(unet, UNet2DModel)
    if monai:
        from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

        embedding = unet.time_embed(get_timestep_embedding(timesteps, unet.block_out_channels[0]).to(x.dtype))
        extra: dict[str, Any] = {"context": None}
    else:
        embedding = unet.time_embedding(unet.time_proj(timesteps).to(x.dtype))
        extra = {}
    h = unet.conv_in(x)
    kept: tuple[Tensor, ...] = ()
    for level, block in enumerate(unet.down_blocks):
        feature = added[level]
        h = h if feature is None else h + feature
        kept = kept if level else (h,)
        h, passed = block(hidden_states=h, temb=embedding, **extra)
        kept += tuple(passed)
    h = h if added[-1] is None else h + added[-1]
    h = unet.middle_block(hidden_states=h, temb=embedding, **extra) if monai else unet.mid_block(h, embedding)
    for block in unet.up_blocks:
        count = len(block.resnets)
        kept, passed = kept[:-count], kept[-count:]
        h = block(h, list(passed), embedding, **extra) if monai else block(h, passed, embedding)
    made: Tensor = unet.out(h) if monai else unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
    return made


def _to_cells(x: Float[Tensor, "batch channels *sides"], size: int) -> Float[Tensor, "batch cells *coarse"]:
    if size == 1:
        return x
    dims = x.ndim - 2
    for axis in range(dims):
        x = x.unflatten(2 + 2 * axis, (-1, size))
    order = (0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
    return x.permute(order).flatten(1, 1 + dims)


def _to_pixels(x: Float[Tensor, "batch cells *coarse"], size: int) -> Float[Tensor, "batch channels *sides"]:
    if size == 1:
        return x
    dims = x.ndim - 2
    x = x.unflatten(1, (-1, *[size] * dims))
    order = (0, 1, *(place for axis in range(dims) for place in (2 + dims + axis, 2 + axis)))
    x = x.permute(order)
    for axis in range(dims):
        x = x.flatten(2 + axis, 3 + axis)
    return x


def _conv(dims: int, taken: int, made: int, size: int = 3, stride: int = 1) -> nn.Module:
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    return kind(taken, made, size, stride=stride, padding=size // 2)


class ResidualDenseGuide(nn.Module):
    """SegDiff's encoder of the picture: residual dense blocks at full resolution."""

    def __init__(self, dims: int, taken: int, width: int, blocks: int, levels: int) -> None:
        super().__init__()
        inner = max(1, width // GROWTH)
        self.levels = levels
        self.conv_in = _conv(dims, taken, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([_conv(dims, width, inner), _conv(dims, width + inner, inner), _conv(dims, width + 2 * inner, width)])
            for _ in range(blocks)
        )
        self.conv_out = _conv(dims, width, width)

    def forward(self, y: Float[Tensor, "batch channels *sides"]) -> tuple[list[Tensor | None], None]:
        """Features for the first level."""
        h = first = self.conv_in(y)
        for block in self.blocks:
            seen = [h]
            *inner, last = block.children()
            for conv in inner:
                seen.append(functional.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
            # The share of ESRGAN's blocks, which keeps many of them stable.
            h = h + 0.2 * last(torch.cat(seen, 1))
        return [first + self.conv_out(h), *[None] * self.levels], None


class _Block(nn.Module):
    """Normalisation, activation, convolution, twice, with a shortcut."""

    def __init__(self, dims: int, taken: int, made: int, groups: int) -> None:
        super().__init__()
        self.conv_1, self.norm_1 = _conv(dims, taken, made), nn.GroupNorm(groups, made)
        self.conv_2, self.norm_2 = _conv(dims, made, made), nn.GroupNorm(groups, made)
        self.shortcut = _conv(dims, taken, made, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.silu(self.norm_1(self.conv_1(x)))
        made: Tensor = functional.silu(self.norm_2(self.conv_2(h))) + self.shortcut(x)
        return made


class PictureEncoder(nn.Module):
    """DermoSegDiff's second path: features of the picture for every level of the mask's encoder, at half of its width."""

    def __init__(self, dims: int, taken: int, channels: Sequence[int], groups: int) -> None:
        super().__init__()
        widths = [max(groups, width // 2 // groups * groups) for width in channels]
        self.blocks = nn.ModuleList(_Block(dims, before, width, groups) for before, width in zip([taken, *widths], widths, strict=False))
        self.halves = nn.ModuleList(_conv(dims, width, width, stride=2) for width in widths[:-1])
        # The mask's path arrives at a level with the channels of the one before.
        arriving = [channels[0], *channels[:-1]]
        self.outs = nn.ModuleList(_conv(dims, width, to, 1) for width, to in zip(widths, arriving, strict=True))
        self.bottleneck = _conv(dims, widths[-1], channels[-1], 1)

    def forward(self, y: Float[Tensor, "batch channels *sides"]) -> tuple[list[Tensor | None], None]:
        """Features for every level and for the bottleneck."""
        made: list[Tensor | None] = []
        h = y
        for level, (block, out) in enumerate(zip(self.blocks, self.outs, strict=True)):
            h = block(h if not level else self.halves[level - 1](h))
            made.append(out(h))
        return [*made, self.bottleneck(h)], None


class FFParser(nn.Module):
    """MedSegDiff's filter: every spatial frequency of every channel times a learnt complex weight (arXiv 2211.00611, section 3.3).

    Args:
        channels: of the features.
        sides: of the features; the weights belong to them.
    """

    def __init__(self, channels: int, sides: Sequence[int]) -> None:
        super().__init__()
        self.sides = tuple(sides)
        spectrum = (*self.sides[:-1], self.sides[-1] // 2 + 1)
        self.weight = nn.Parameter(torch.randn(channels, *spectrum, 2) * 0.02)

    def forward(self, x: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch channels *sides"]:
        """The filtered features."""
        axes = tuple(range(2, x.ndim))
        spectrum = torch.fft.rfftn(x.float(), dim=axes, norm="ortho")
        filtered: Tensor = torch.fft.irfftn(spectrum * torch.view_as_complex(self.weight.float()), s=self.sides, dim=axes, norm="ortho")
        return filtered.to(x.dtype)


class Highway(nn.Module):
    """MedSegDiff's second UNet: the picture to a mask; its bottleneck, parsed, goes to that of the UNet that denoises."""

    def __init__(self, dims: int, taken: int, made: int, channels: Sequence[int], groups: int, cells: Sequence[int]) -> None:
        super().__init__()
        self.downs = nn.ModuleList(_Block(dims, before, width, groups) for before, width in zip([taken, *channels], channels, strict=False))
        self.halves = nn.ModuleList(_conv(dims, width, width, stride=2) for width in channels[:-1])
        self.parser = FFParser(channels[-1], cells)
        self.ups = nn.ModuleList(_Block(dims, low + high, high, groups) for low, high in zip(channels[1:], channels, strict=False))
        self.conv_out = _conv(dims, channels[0], made, 1)

    def forward(self, y: Float[Tensor, "batch channels *sides"]) -> tuple[list[Tensor | None], Tensor]:
        """Features for the bottleneck, and the mask."""
        kept: list[Tensor] = []
        h = y
        for level, block in enumerate(self.downs):
            h = block(h if not level else self.halves[level - 1](h))
            kept.append(h)
        bottleneck = self.parser(h)
        for level in reversed(range(len(self.ups))):
            h = functional.interpolate(h, size=kept[level].shape[2:], mode="nearest")
            h = self.ups[level](torch.cat([h, kept[level]], 1))
        return [*[None] * len(self.downs), bottleneck], self.conv_out(h)
