"""Every supported network at tiny width, made once a process, and one call of each with distinct rows."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tests import tiny

# Of the kinds, those that differ in what a rule sees.
DISTINCT = ("sdxl", "svd", "i2vgen", "pixart")
KINDS = ("sd", "sd21", "sdxl", "svd", "i2vgen", "dit", "pixart")
FRAMES = 2


@functools.cache
def network(kind: str) -> Any:
    """The network in evaluation mode; leave it as it is."""
    import diffusers

    torch.manual_seed(0)
    made: nn.Module
    if kind == "i2vgen":
        made = diffusers.I2VGenXLUNet(
            block_out_channels=(16, 32),
            attention_head_dim=8,
            cross_attention_dim=16,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=8,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        )
    elif kind == "dit":
        made = diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, patch_size=2, norm_num_groups=4
        )
    elif kind == "pixart":
        made = diffusers.PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            cross_attention_dim=16,
            caption_channels=16,
            use_additional_conditions=False,
        )
    else:
        config = {"sd": tiny._SD15_UNET, "sd21": tiny._SD21_UNET, "sdxl": tiny._SDXL_UNET, "svd": tiny._SVD_UNET}[kind]
        chosen = diffusers.UNetSpatioTemporalConditionModel if kind == "svd" else diffusers.UNet2DConditionModel
        changes: dict[str, Any] = {"layers_per_block": 1}
        if kind in ("sd21", "svd"):  # two levels are enough where the third adds nothing new
            changes |= {name: [config[name][0], config[name][-1]] for name in ("down_block_types", "up_block_types")}
            changes["block_out_channels"] = [32, 32]
            changes |= {"num_attention_heads": [1, 2]} if kind == "svd" else {"attention_head_dim": [1, 2]}
        made = chosen.from_config({**config, **changes})
        tiny._spread(made)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return made.eval()


def inputs(kind: str, rows: int, size: tuple[int, int] = (8, 8), seed: int = 0) -> dict[str, Any]:
    """Keyword arguments of a call in which every row is different."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    height, width = size
    if kind == "svd":
        return {
            "sample": normal(rows, FRAMES, 8, height, width),
            "timestep": 1.0,
            "encoder_hidden_states": normal(rows, 1, 64),
            "added_time_ids": normal(rows, 3),
        }
    if kind == "i2vgen":
        return {
            "sample": normal(rows, 4, FRAMES, height, width),
            "timestep": 1,
            "fps": torch.full((rows,), 7),
            "image_latents": normal(rows, 4, FRAMES, height, width),
            "image_embeddings": normal(rows, 16),
            "encoder_hidden_states": normal(rows, 5, 16),
        }
    if kind == "dit":
        return {"hidden_states": normal(rows, 4, height, width), "timestep": torch.ones(rows), "class_labels": torch.arange(rows)}
    if kind == "pixart":
        return {
            "hidden_states": normal(rows, 4, height, width),
            "timestep": torch.ones(rows),
            "encoder_hidden_states": normal(rows, 5, 16),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }
    keywords: dict[str, Any] = {
        "sample": normal(rows, 4, height, width),
        "timestep": 10,
        "encoder_hidden_states": normal(rows, 5, 96 if kind == "sdxl" else 64),
    }
    if kind == "sdxl":
        keywords["added_cond_kwargs"] = {"text_embeds": normal(rows, 64), "time_ids": normal(rows, 6)}
    return keywords


@functools.cache
def untouched(kind: str, rows: int) -> Tensor:
    """The output of the network as it is."""
    return call(kind, network(kind), rows)


@torch.no_grad()
def call(kind: str, model: Any, rows: int, size: tuple[int, int] = (8, 8), **keywords: Any) -> Tensor:
    """The output, [rows, ...]."""
    return model(**inputs(kind, rows, size, **keywords), return_dict=False)[0]  # type: ignore[no-any-return]
