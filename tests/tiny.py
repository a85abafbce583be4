"""Checkpoint folders with the public models' exact config keys at small width and random weights. Built once a process (`cached`)."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = ("red", "blue", "ball", "house", "star", "sand", "grass", "sea", "and", "on")


def tiny_sd(path: Path, **save: Any) -> Path:
    """Stable Diffusion 1.5: epsilon, PNDM config, CLIP-L text encoder. 128 px."""
    return _stable_diffusion(path, scheduler="pndm", unet=_SD15_UNET, width=64, **save)


def tiny_sd21(path: Path, **save: Any) -> Path:
    """Stable Diffusion 2.1: v-prediction, DDIM config, linear projections, heads by block. 128 px."""
    return _stable_diffusion(path, scheduler="ddim-v", unet=_SD21_UNET, width=64, **save)


def tiny_sdxl(path: Path, **save: Any) -> Path:
    """Stable Diffusion XL base: two text encoders, sizes as a condition, Euler config. 64 px (three levels, f = 4)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(3)
    path.mkdir(parents=True, exist_ok=True)
    _save(CLIPTextModel, _text_config(32, "quick_gelu"), path / "text_encoder", **save)
    _save(CLIPTextModelWithProjection, {**_text_config(64, "gelu"), "projection_dim": 64}, path / "text_encoder_2", **save)
    _write_tokenizer(path / "tokenizer")
    _write_tokenizer(path / "tokenizer_2", pad="!")
    _save(UNet2DConditionModel, _SDXL_UNET, path / "unet", **save)
    _save(AutoencoderKL, {**_vae_config(3), "force_upcast": True, "scaling_factor": 0.13025, "sample_size": 64}, path / "vae", **save)
    _write(path / "scheduler" / "scheduler_config.json", _SCHEDULERS["euler-xl"])
    _write(
        path / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.19.0.dev0",
            "force_zeros_for_empty_prompt": True,
            "add_watermarker": None,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return path


def tiny_svd(path: Path, **save: Any) -> Path:
    """Stable Video Diffusion: temporal decoder with f = 8, CLIP vision encoder at 224 px, karras sigmas up to 700. 6 frames, 64 px."""
    return _stable_video(path, toy=False, **save)


def tiny_toy_i2v(path: Path, **save: Any) -> Path:
    """The toy image-to-video model: SVD's topology, plain AutoencoderKL with f = 4, a text encoder beside it. 8 frames, 64 px."""
    return _stable_video(path, toy=True, **save)


def tiny_toy_t2i(path: Path, **save: Any) -> Path:
    """The toy text-to-image model: v-prediction, three levels, f = 4, 24 text positions. 64 px."""
    unet = {**_SD21_UNET, "block_out_channels": [32, 64, 64], "attention_head_dim": [2, 2, 4], "layers_per_block": 1, "sample_size": 16}
    unet |= {"down_block_types": ["CrossAttnDownBlock2D"] * 3, "up_block_types": ["CrossAttnUpBlock2D"] * 3}
    return _stable_diffusion(path, scheduler="ddim-v", unet=unet, width=64, levels=3, positions=24, **save)


def tiny_i2vgen(path: Path, **save: Any) -> Path:
    """I2VGen-XL: zero-terminal-SNR cosine schedule, v-prediction, CLIP text and vision encoders, channel-first network. 64 px."""
    from diffusers import AutoencoderKL, I2VGenXLUNet
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection

    torch.manual_seed(5)
    path.mkdir(parents=True, exist_ok=True)
    _save(CLIPTextModel, _text_config(64, "gelu"), path / "text_encoder", **save)
    _write_tokenizer(path / "tokenizer")
    _save(CLIPVisionModelWithProjection, {**_VISION, "patch_size": 28}, path / "image_encoder", **save)
    _save(I2VGenXLUNet, _I2VGEN_UNET, path / "unet", **save)
    _save(AutoencoderKL, {**_vae_config(4), "sample_size": 64}, path / "vae", **save)
    _write(path / "scheduler" / "scheduler_config.json", _SCHEDULERS["ddim-i2vgen"])
    _write(path / "feature_extractor" / "preprocessor_config.json", _PREPROCESSOR)
    _write(
        path / "model_index.json",
        {
            "_class_name": "I2VGenXLPipeline",
            "_diffusers_version": "0.26.0.dev0",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "I2VGenXLUNet"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return path


def tiny_pix2pix(path: Path, **save: Any) -> Path:
    """InstructPix2Pix: SD 1.5 with eight input channels, Euler ancestral config. 128 px."""
    made = _stable_diffusion(path, scheduler="euler-ancestral", unet={**_SD15_UNET, "in_channels": 8}, width=64, **save)
    index = json.loads((made / "model_index.json").read_text())
    _write(made / "model_index.json", {**index, "_class_name": "StableDiffusionInstructPix2PixPipeline"})
    return made


def tiny_vae(path: Path, **save: Any) -> Path:
    """The toy autoencoder on its own: AutoencoderKL with f = 4. 64 px."""
    from diffusers import AutoencoderKL

    torch.manual_seed(4)
    _save(AutoencoderKL, {**_vae_config(3), "sample_size": 64}, path, **save)
    return path


BUILDERS: Mapping[str, Callable[..., Path]] = {
    "sd": tiny_sd,
    "sd21": tiny_sd21,
    "sdxl": tiny_sdxl,
    "svd": tiny_svd,
    "i2vgen": tiny_i2vgen,
    "pix2pix": tiny_pix2pix,
    "toy-i2v": tiny_toy_i2v,
    "toy-t2i": tiny_toy_t2i,
    "toy-vae": tiny_vae,
}


@functools.cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="calotype-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@functools.cache
def cached(kind: str) -> Path:
    """The folder of one kind (a key of `BUILDERS`), made at most once a process. Don't change it; copy it."""
    return BUILDERS[kind](_root() / f"tiny-{kind}")


def _stable_diffusion(
    path: Path, *, scheduler: str, unet: Mapping[str, Any], width: int, levels: int = 4, positions: int = 77, **save: Any
) -> Path:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(1)
    path.mkdir(parents=True, exist_ok=True)
    _save(CLIPTextModel, _text_config(width, "quick_gelu", positions), path / "text_encoder", **save)
    _write_tokenizer(path / "tokenizer", length=positions)
    _save(UNet2DConditionModel, unet, path / "unet", **save)
    _save(AutoencoderKL, {**_vae_config(levels), "sample_size": 128}, path / "vae", **save)
    config = _SCHEDULERS[scheduler]
    _write(path / "scheduler" / "scheduler_config.json", config)
    _write(
        path / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.6.0",
            "feature_extractor": [None, None],
            "safety_checker": [None, None],
            "requires_safety_checker": False,
            "scheduler": ["diffusers", config["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return path


def _stable_video(path: Path, *, toy: bool, **save: Any) -> Path:
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection

    torch.manual_seed(2)
    path.mkdir(parents=True, exist_ok=True)
    width = 64
    _save(CLIPVisionModelWithProjection, {**_VISION, "patch_size": 32 if toy else 28}, path / "image_encoder", **save)
    _save(UNetSpatioTemporalConditionModel, {**_SVD_UNET, "num_frames": 8, "sample_size": 16} if toy else _SVD_UNET, path / "unet", **save)
    if toy:
        _save(AutoencoderKL, {**_vae_config(3), "sample_size": 64}, path / "vae", **save)
        _save(CLIPTextModel, _text_config(width, "quick_gelu", 24), path / "text_encoder", **save)
        _write_tokenizer(path / "tokenizer", length=24)
    else:
        _save(AutoencoderKLTemporalDecoder, _SVD_VAE, path / "vae", **save)
    _write(path / "scheduler" / "scheduler_config.json", {**_SCHEDULERS["svd"], "sigma_max": 80.0 if toy else 700.0})
    _write(path / "feature_extractor" / "preprocessor_config.json", _PREPROCESSOR)
    index: dict[str, Any] = {
        "_class_name": "StableVideoDiffusionPipeline",
        "_diffusers_version": "0.24.0.dev0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
        "vae": ["diffusers", "AutoencoderKL" if toy else "AutoencoderKLTemporalDecoder"],
    }
    _write(path / "model_index.json", index)
    return path


def _save(network: Any, config: Mapping[str, Any], path: Path, **save: Any) -> None:
    """Random weights in safetensors files, and the public config's keys and no others.

    `save` goes to save_pretrained (variant, max_shard_size); with variant "fp16" the weights are halved.
    """
    values = dict(config)
    if hasattr(network, "from_config"):
        module: nn.Module = network.from_config(values)
    else:
        module = network(network.config_class(**values))
    _spread(module)
    if save.get("variant") == "fp16":
        module = module.half()
    module.save_pretrained(path, **save)
    _write(path / "config.json", values)


def _spread(module: nn.Module) -> None:
    """Give zero-initialised biases and the token embeddings some size, so that no input of the network is without effect on its output."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05)
        elif name.endswith("token_embedding.weight"):
            nn.init.normal_(parameter, std=0.3)
        elif name.endswith("mix_factor"):
            nn.init.normal_(parameter, std=0.5)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _byte_symbols() -> list[str]:
    """CLIP's 256 printable stand-ins for bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


@functools.cache
def _vocabulary() -> tuple[dict[str, int], tuple[str, ...]]:
    """CLIP's byte-level vocabulary with merges for a few words only."""
    symbols = _byte_symbols()
    tokens, merges = symbols + [symbol + "</w>" for symbol in symbols], []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            tokens.append(pieces[0])
    merges = list(dict.fromkeys(merges))
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, tuple(merges)


def _write_tokenizer(path: Path, *, length: int = 77, pad: str = "<|endoftext|>") -> None:
    vocabulary, merges = _vocabulary()
    _write(path / "vocab.json", vocabulary)
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    named = {"bos_token": {"content": "<|startoftext|>", **special}, "eos_token": {"content": "<|endoftext|>", **special}}
    _write(path / "special_tokens_map.json", {**named, "pad_token": pad, "unk_token": {"content": "<|endoftext|>", **special}})
    _write(
        path / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            **{key: {"__type": "AddedToken", **value} for key, value in named.items()},
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": length,
            "pad_token": pad,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": {"__type": "AddedToken", "content": "<|endoftext|>", **special},
        },
    )


def _text_config(width: int, activation: str, positions: int = 77) -> dict[str, Any]:
    end = len(_vocabulary()[0]) - 1
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": end - 1,
        "dropout": 0.0,
        "eos_token_id": end,
        "hidden_act": activation,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 2 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": positions,
        "model_type": "clip_text_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 1,
        "projection_dim": width,
        "torch_dtype": "float32",
        "vocab_size": len(_vocabulary()[0]),
    }


def _vae_config(levels: int) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": [32] * levels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


_VISION: dict[str, Any] = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 64,
    "image_size": 224,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 28,
    "projection_dim": 64,
}

_I2VGEN_UNET: dict[str, Any] = {
    "_class_name": "I2VGenXLUNet",
    "_diffusers_version": "0.26.0.dev0",
    "attention_head_dim": 8,
    "block_out_channels": [32, 64, 64, 64],
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 16,
    "num_attention_heads": None,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"],
}

_SD15_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 2,
    "block_out_channels": [32, 64, 64, 64],
    "center_input_sample": False,
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 16,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
_SD21_UNET: dict[str, Any] = {
    **_SD15_UNET,
    "attention_head_dim": [1, 2, 4, 4],
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": True,
    "use_linear_projection": True,
}
_SDXL_UNET: dict[str, Any] = {
    **_SD21_UNET,
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 8,
    "attention_head_dim": [1, 2, 2],
    "block_out_channels": [32, 64, 64],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 96,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": 112,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 1, 2],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
}
_SVD_UNET: dict[str, Any] = {
    "_class_name": "UNetSpatioTemporalConditionModel",
    "_diffusers_version": "0.24.0.dev0",
    "addition_time_embed_dim": 32,
    "block_out_channels": [32, 64, 64, 64],
    "cross_attention_dim": 64,
    "down_block_types": [*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"],
    "in_channels": 8,
    "layers_per_block": 2,
    "num_attention_heads": [1, 2, 2, 2],
    "num_frames": 6,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 96,
    "sample_size": 8,
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3],
}
_SVD_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKLTemporalDecoder",
    "_diffusers_version": "0.24.0.dev0",
    "block_out_channels": [32, 32, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "out_channels": 3,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
_PREPROCESSOR: dict[str, Any] = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
_LATENT_DIFFUSION = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
_SCHEDULERS: dict[str, dict[str, Any]] = {
    "pndm": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        **_LATENT_DIFFUSION,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "ddim-v": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        **_LATENT_DIFFUSION,
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "ddim-i2vgen": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.26.0.dev0",
        "beta_end": 0.02,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
    "euler-ancestral": {
        "_class_name": "EulerAncestralDiscreteScheduler",
        "_diffusers_version": "0.12.0.dev0",
        **_LATENT_DIFFUSION,
        "clip_sample": False,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "euler-xl": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        **_LATENT_DIFFUSION,
        "clip_sample": False,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    "svd": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.24.0.dev0",
        **_LATENT_DIFFUSION,
        "clip_sample": False,
        "interpolation_type": "linear",
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "sigma_max": 700.0,
        "sigma_min": 0.002,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
    },
}
