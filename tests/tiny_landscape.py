"""A folder of the role LandscapeGenerator at small width, with random weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from tests.tiny import cached

SIDE = 32
FEATURE_LAYER = 4


def tiny_generator() -> Any:
    """32 px; what begins as zeros has weights like any other, and the picture lies about in [-1, 1]."""
    from calotype.backbones.stylegan2 import StyleGAN2Generator

    with torch.random.fork_rng():
        torch.manual_seed(12)
        made = StyleGAN2Generator(size=SIDE, style_dim=8, num_mapping_layers=2, channels={4: 8, 8: 8, 16: 8, 32: 6}).eval()
        for name, parameter in made.named_parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)
            elif name.startswith("to_rgb") and "modulation" not in name:
                parameter.data *= 0.2
    return made.requires_grad_(False)


def tiny_encoder() -> Any:
    """The small one."""
    from calotype.backbones.feature_style_encoder import FeatureStyleEncoder

    with torch.random.fork_rng():
        torch.manual_seed(13)
        return FeatureStyleEncoder(
            size=SIDE, style_dim=8, num_styles=8, feature_layer=FEATURE_LAYER, feature_channels=8, widths=(8, 8, 8), style_width=16,
            feature_width=8,
        ).eval()  # fmt: skip


def tiny_classifier() -> Any:
    """Of three classes, over the feature and the layers from 16 px on."""
    from calotype.backbones.pixel_classifier import PixelClassifier

    with torch.random.fork_rng():
        torch.manual_seed(14)
        return PixelClassifier(feature_channels=8 + 8 + 8 + 6 + 6, num_members=3, widths=(8, 8)).eval()


def tiny_motion() -> Any:
    """A motion network for 16 px."""
    from calotype.backbones.motion_network import MotionNetwork

    with torch.random.fork_rng():
        torch.manual_seed(15)
        return MotionNetwork(size=16, widths=(8, 8)).eval()


@functools.cache
def cached_landscape_model() -> Path:
    """The folder, made at most once a process. Don't change it; copy it."""
    from calotype.backbones.landscape_generator import save_parts

    path = cached("toy-vae").parent / "tiny-landscape"
    if not path.is_dir():
        save_parts(path, generator=tiny_generator(), encoder=tiny_encoder(), pixel_classifier=tiny_classifier(), motion=tiny_motion())
    return path
