"""Checkpoint folders that describe pictures, at small width with random weights. Built once a process."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from tests.tiny import _root, cached


@functools.cache
def cached_dinov2() -> Path:
    """DINOv2 on its own: patches of 14 px, trained at 56 px."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(6)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(_root() / "tiny-dinov2")
    return _root() / "tiny-dinov2"


@functools.cache
def cached_descriptors(mixer: bool = True) -> Path:
    """A `DescriptorPipeline` folder: the tiny toy text-to-image model, a ViT with patches of 8 px, and a mixer of two layers."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer, Dinov2Config, Dinov2Model

    from calotype.backbones.descriptors import save_descriptors
    from calotype.backbones.feature_mixer import FeatureMixer

    torch.manual_seed(7)
    base, folder = cached("toy-t2i"), _root() / f"tiny-descriptors-{mixer}"
    networks = {
        "unet": UNet2DConditionModel.from_pretrained(base / "unet"),
        "vae": AutoencoderKL.from_pretrained(base / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(base / "text_encoder"),
        "vit": Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8)),
    }
    if mixer:
        layers = ("up_blocks.0.resnets.1.conv2", "up_blocks.1.resnets.1.conv2")
        networks["mixer"] = FeatureMixer(
            widths=(64, 64), num_steps=2, out_channels=32, groups=4, layers=layers, timesteps=(1.0, 261.0), num_inversion_steps=10
        )
    save_descriptors(
        folder, networks=networks, tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(base / "scheduler"),
    )  # fmt: skip
    return folder
