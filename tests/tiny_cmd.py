"""A folder of the role ContentMotionVideo at small width, on the tiny version of toy-t2i, and clips for its training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from calotype.world.clips import write_clips
from tests.tiny import cached

FRAMES = 8
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
MOTION: dict[str, Any] = {"motion_channels": 3, "num_frames": FRAMES, "rows": 8, "columns": 8, "content_size": (16, 16), "width": 16}


@functools.cache
def cached_cmd_model() -> Path:
    """The folder, made at most once a process. Don't change it; copy it."""
    from diffusers import DDIMScheduler

    import calotype
    from calotype.backbones.content_motion import ClipFacts, save_parts
    from calotype.backbones.content_motion_network import ContentMotionAutoencoder, MotionDiT

    path = cached("toy-t2i").parent / "tiny-cmd"
    if path.is_dir():
        return path
    image = calotype.load(str(cached("toy-t2i")), device="cpu").modules
    with torch.random.fork_rng():
        torch.manual_seed(7)
        autoencoder = ContentMotionAutoencoder(width=16, depth=1, heads=2, motion_channels=3).eval()
        network = MotionDiT(**MOTION, depth=1, heads=2, text_width=image["text_encoder"].config.hidden_size).eval()
        for parameter in (*autoencoder.parameters(), *network.parameters()):
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)
    parts = {name: image[name] for name in ("unet", "text_encoder", "tokenizer", "vae")}
    save_parts(
        path, {**parts, "scheduler": scheduler, "autoencoder": autoencoder, "motion_network": network},
        motion_scheduler=scheduler, facts=ClipFacts(FRAMES, 7.0, (0.1, -0.2, 0.0), (0.5, 0.6, 2.0)),
    )  # fmt: skip
    return path


def clip_folder(path: Path, *, count: int = 4, num_frames: int = FRAMES) -> Path:
    """Captioned clips of the moving world."""
    return write_clips(path, count=count, num_frames=num_frames)
