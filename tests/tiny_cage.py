"""A folder of the role ComposableVideo at small width, and folders of clips for its training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow

from calotype.world.collisions import paint_bouncing, sample_bouncing
from tests.tiny import cached

SIDE = 32
FEATURES = 6
GRID = (4, 4)


def tiny_transformer(**changes: Any) -> Any:
    """The network, with weights from a fixed seed; what begins as zeros has weights like any other."""
    from calotype.backbones.control_video_network import ControlledVideoTransformer

    with torch.random.fork_rng():
        torch.manual_seed(8)
        made = ControlledVideoTransformer(
            **{"grid": GRID, "width": 16, "depth": 1, "heads": 2, "feature_width": FEATURES, **changes}
        ).eval()
        for parameter in made.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)
    return made


def tiny_encoder() -> Any:
    """The encoder of control features."""
    from calotype.backbones.control_features import ControlEncoder

    with torch.random.fork_rng():
        torch.manual_seed(9)
        return ControlEncoder(widths=(8, 8, 8), feature_width=FEATURES).eval()


@functools.cache
def cached_cage_model() -> Path:
    """The folder, made at most once a process. Don't change it; copy it."""
    from diffusers import AutoencoderKL

    from calotype.backbones.composable_video import save_parts

    path = cached("toy-vae").parent / "tiny-cage"
    if not path.is_dir():
        save_parts(
            path, transformer=tiny_transformer(), control_encoder=tiny_encoder(), vae=AutoencoderKL.from_pretrained(cached("toy-vae")),
            size=(SIDE, SIDE), targets=3, stride=1, feature_layers=1,
        )  # fmt: skip
    return path


def tiny_dinov2(path: Path) -> Path:
    """A DINOv2 model, in the layout of `facebook/dinov2-small`."""
    from transformers import Dinov2Config, Dinov2Model

    with torch.random.fork_rng():
        torch.manual_seed(10)
        config = Dinov2Config(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14)
        Dinov2Model(config).save_pretrained(path)
    return path


def tiny_vq(path: Path, **changes: Any) -> Path:
    """A VQModel with f = 4."""
    from diffusers import VQModel

    with torch.random.fork_rng():
        torch.manual_seed(11)
        config = {"block_out_channels": (8, 8, 8), "latent_channels": 4, "num_vq_embeddings": 16, "norm_num_groups": 4, "sample_size": SIDE}
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
        VQModel(**{**config, **blocks, "scaling_factor": 1.0, **changes}).save_pretrained(path)
    return path


def clips_folder(path: Path, *, count: int = 4, frames: int = 6) -> Path:
    """Clips of the collisions world as folders of frames."""
    scenes = [sample_bouncing(split="train", seed=0, index=index, num_frames=frames) for index in range(count)]
    for index, clip in enumerate(torch.nn.functional.avg_pool2d(paint_bouncing(scenes).flatten(0, 1), 2).unflatten(0, (count, frames))):
        home = path / f"clip{index}"
        home.mkdir(parents=True)
        for number, frame in enumerate(clip):
            Pillow.fromarray((frame.permute(1, 2, 0) * 255).round().byte().numpy()).save(home / f"{number:03d}.png")
    return path
