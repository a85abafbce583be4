"""A folder of the role VolumePrior at small width: MONAI's `DiffusionModelUNet` in windows of 8 voxels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from tests.tiny import cached

WINDOW = 8
PIPELINE_CONFIG: dict[str, Any] = {"window": [WINDOW] * 3, "spacing": [2.0, 2.0, 2.0], "scale": 0.05, "limit": 0.4, "unit": "ppm"}
SCHEDULE: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}


def volume_config(patch_size: int = 1, channels: tuple[int, ...] = (8, 8)) -> dict[str, Any]:
    """The UNet's arguments."""
    return {
        "spatial_dims": 3,
        "in_channels": patch_size**3,
        "out_channels": patch_size**3,
        "channels": list(channels),
        "attention_levels": [False] * len(channels),
        "num_res_blocks": 1,
        "norm_num_groups": 4,
        "num_head_channels": 8,
    }


def tiny_volume_prior(
    path: Path, *, patch_size: int = 1, rounded: bool = False, prediction_type: str = "v_prediction", channels: tuple[int, ...] = (8, 8)
) -> Path:
    """The folder, in float16 or in 8 bits. The last convolution, which MONAI begins with zeros, gets weights like any other."""
    from diffusers import DDIMScheduler

    from calotype.backbones.volume_network import VolumeNetwork, monai_unet, save_folder

    config = volume_config(patch_size, channels)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        unet = monai_unet(config)
        for parameter in unet.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)
    scheduler = DDIMScheduler(
        **SCHEDULE, prediction_type=prediction_type, clip_sample=False, timestep_spacing="leading", set_alpha_to_one=True
    )
    save_folder(path, VolumeNetwork(unet, patch_size), config, scheduler=scheduler, pipeline_config=PIPELINE_CONFIG, rounded=rounded)
    return path


@functools.cache
def cached_prior(patch_size: int = 1, rounded: bool = False) -> Path:
    """One such folder, made at most once a process. Don't change it; copy it."""
    return tiny_volume_prior(cached("sd").parent / f"tiny-prior-{patch_size}-{rounded}", patch_size=patch_size, rounded=rounded)
