"""Rng the clips of the page on Time Reversal Fusion and of the start page, on the embedded model, into docs/images/.

python scripts/draw_clips.py [MODEL]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from calotype import load
from calotype.cli.demo import PAIR_SEED, example_pair
from calotype.evaluation.baselines import cross_fade, image_to_video
from calotype.evaluation.pairs import FRAMES, directed_twin, symmetric_pairs
from calotype.imaging.types import Image, Video
from calotype.methods.time_reversal_fusion import TimeReversalFusion
from calotype.world import PRESETS

IMAGES = Path(__file__).parent.parent / "docs" / "images"
FPS = 6
SEED = 0
"""The first one, as in the demo."""


def side_by_side(clips: Sequence[Tensor], gap: int = 4, scale: int = 3) -> Tensor:
    """Clips of one size beside each other, white between them, enlarged."""
    white = torch.ones(*clips[0].shape[:3], gap)
    row = torch.cat([part for clip in clips for part in (clip, white)][:-1], dim=3)
    return functional.interpolate(row, scale_factor=scale, mode="nearest")


def main() -> None:
    """Make the pictures anew."""
    model, method = load(sys.argv[1] if len(sys.argv) > 1 else "toy-i2v", device="cpu"), TimeReversalFusion.toy()
    pair = example_pair()
    (ours,) = method.between(model, [pair.start], [pair.end], prompts=[pair.scene.caption], seed=SEED)
    (plain,) = image_to_video(model, method, [pair.start], prompts=[pair.scene.caption], seed=SEED)
    everything = side_by_side([pair.clip, ours.frames, plain.frames, cross_fade(pair.start, pair.end, FRAMES)])
    Video(everything, FPS).save(IMAGES / "trf-between.gif", overwrite=True)
    enlarged = functional.interpolate(ours.frames, scale_factor=4, mode="bicubic").clamp(0, 1)
    Video(enlarged, FPS).save(IMAGES / "inbetween.gif", overwrite=True)
    strip = side_by_side([pair.start.pixels[None], *ours.frames[1:-1].split(1), pair.end.pixels[None]], scale=2)
    Image(strip[0]).save(IMAGES / "inbetween.png", overwrite=True)

    straight = symmetric_pairs("small", "eval", PAIR_SEED, 2)[1]
    twin = directed_twin(straight, PRESETS["small"].directed[0])
    (directed,) = method.between(model, [twin.start], [twin.end], prompts=[twin.scene.caption], seed=SEED)
    Video(side_by_side([twin.clip, directed.frames]), FPS).save(IMAGES / "trf-directed.gif", overwrite=True)

    (loop,) = method.between(model, [pair.start], [pair.start], prompts=[pair.scene.caption], seed=SEED)
    Video(side_by_side([torch.cat([loop.frames[:-1]] * 2)]), FPS).save(IMAGES / "trf-loop.gif", overwrite=True)


if __name__ == "__main__":
    main()
