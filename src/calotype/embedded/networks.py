"""The toy family's networks at their shipped sizes: the public models' own classes and config keys, only narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNetSpatioTemporalConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

SIZE = 64
WIDTH = 128
"""Width of text and picture tokens, `cross_attention_dim` of both UNets."""
FRAMES = 8
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""Stable Diffusion's noise schedule."""


def alphas_cumprod() -> Float[Tensor, " timesteps"]:
    """Of Stable Diffusion's scaled-linear schedule, float64."""
    steps = SCHEDULE["num_train_timesteps"]
    betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, steps, dtype=torch.float64) ** 2
    return (1.0 - betas).cumprod(0)


def scheduler() -> DDIMScheduler:
    """What the image models are sampled with: v-prediction on `SCHEDULE`."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def autoencoder(**changes: Any) -> AutoencoderKL:
    """toy-vae: f = 4, 64 px to 16x16x4."""
    from diffusers import AutoencoderKL

    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": SIZE,
        "scaling_factor": 1.0,
        "mid_block_add_attention": False,
        "force_upcast": False,
    }
    return AutoencoderKL(**{**config, **changes})


def text_encoder(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextModel:
    """A CLIP text transformer of two layers; its token embeddings start wide enough for words to differ."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = CLIPTextModel(CLIPTextConfig(**{**config, **changes}))
    nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    return model


def image_unet(**changes: Any) -> UNet2DConditionModel:
    """toy-t2i's denoiser: three levels, cross attention at 16, 8 and 4."""
    from diffusers import UNet2DConditionModel

    config: dict[str, Any] = {
        "sample_size": SIZE // 4,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (64, 96, 96),
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "attention_head_dim": 4,
        "cross_attention_dim": WIDTH,
    }
    return UNet2DConditionModel(**{**config, **changes})


def video_unet(**changes: Any) -> UNetSpatioTemporalConditionModel:
    """toy-i2v's denoiser: Stable Video Diffusion's topology. Its classes fix 32 norm groups, so widths are multiples of 32.

    One layer per block where SVD has two: half the time a clip. The blocks keep SVD's names; an up block has two layers instead of three.
    The outer three levels have the shapes of `image_unet`, whose weights they start from (`calotype.embedded.inflate`).
    """
    from diffusers import UNetSpatioTemporalConditionModel

    config: dict[str, Any] = {
        "sample_size": SIZE // 4,
        "in_channels": 8,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
        "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
        "block_out_channels": (64, 96, 96, 32),
        "layers_per_block": 1,
        "num_attention_heads": (4, 4, 4, 1),
        "cross_attention_dim": WIDTH,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
        "num_frames": FRAMES,
    }
    return UNetSpatioTemporalConditionModel(**{**config, **changes})


def image_encoder(**changes: Any) -> CLIPVisionModelWithProjection:
    """toy-i2v's picture token: a CLIP vision transformer of one layer on 7 x 7 patches of 32 px."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 224,
        "patch_size": 32,
        "projection_dim": WIDTH,
    }
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**{**config, **changes}))


def seeded(seed: int, make: Any) -> Any:
    """Call `make()` with PyTorch's global generator seeded, and put the generator back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
