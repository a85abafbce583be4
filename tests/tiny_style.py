"""A folder of the role LayoutStyleToImage at small width, and data folders of stained tissue for its training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from calotype.data.segmentation_folder import Pair, write_segmentation
from calotype.world.tissue import paint_tissue, sample_tissue
from tests.tiny import cached

SIDE = 32
SCHEDULE: dict[str, Any] = {"beta_start": 0.0015, "beta_end": 0.0205, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 7, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4,
}  # fmt: skip


def tiny_unet() -> Any:
    """The UNet, with weights from a fixed seed."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(5)
        return UNet2DModel(**UNET).eval()


def tiny_conditioner(**changes: Any) -> Any:
    """The conditioner for `tiny_unet`; what begins as zeros has weights like any other, unless `zeros` is true."""
    from calotype.backbones.style_network import StyleConditioner

    zeros = changes.pop("zeros", False)
    config = {
        "num_classes": 3, "style_width": 12, "encoder_channels": (8, 8), "mid_channels": 16, "temb_channels": 32, "norm_num_groups": 4,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(6)
        made = StyleConditioner(**{**config, **changes}).eval()
        for parameter in made.parameters():
            if not zeros and not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.2)
    return made


@functools.cache
def cached_style_model(rounded: bool = False) -> Path:
    """The folder, made at most once a process. Don't change it; copy it."""
    from diffusers import AutoencoderKL, DDIMScheduler

    from calotype.backbones.layout_style import save_parts
    from calotype.backbones.segmenter_network import PictureFacts

    path = cached("sd").parent / f"tiny-style-{rounded}"
    if not path.is_dir():
        scheduler = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        save_parts(
            path, unet=tiny_unet(), conditioner=tiny_conditioner(), vae=AutoencoderKL.from_pretrained(cached("toy-vae")),
            scheduler=scheduler, facts=PictureFacts(window=(SIDE, SIDE), channels=3, class_values=(0, 100, 200)), rounded=rounded,
        )  # fmt: skip
    return path


def tissue_folder(path: Path, *, patients: int = 3, pictures: int = 2, size: int = 40, seed: int = 0) -> Path:
    """Pictures of stained tissue with their masks."""
    scenes = [sample_tissue(split="train", seed=seed, index=index, pictures_per_patient=pictures) for index in range(patients * pictures)]
    painted = paint_tissue(scenes, size=size)
    rows = [
        Pair(
            f"p{scene.patient}-{index}", painted.image[index], painted.mask[index], {"patient": f"p{scene.patient}", "hue": scene.style.hue}
        )
        for index, scene in enumerate(scenes)
    ]
    return write_segmentation(path, rows, class_values=(0, 100, 200))
