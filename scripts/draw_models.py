"""Rng the pictures of the pages on the three embedded models, on scenes of the split `eval`, into docs/images/.

python scripts/draw_models.py toy-vae | toy-vae-wide | toy-t2i | toy-i2v
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from typing import Any

import torch
from draw_worlds import labelled
from torch import Tensor

from calotype import load
from calotype.embedded.validation_i2v import sample as sample_clips
from calotype.embedded.validation_t2i import sample as sample_pictures
from calotype.embedded.worlds import WORLDS
from calotype.train.sample_grids import save_clips, save_grid
from calotype.world import paint, sample_scene

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SEED = 24


def draw_vae(model: Any) -> None:
    """Scenes in the upper row, what the autoencoder makes of them in the lower."""
    pictures = paint([sample_scene("small", split="eval", seed=SEED, index=index) for index in range(10)])
    again = torch.cat([model.decode(model.encode(part)) for part in pictures.split(5)])
    save_grid(torch.cat([pictures, again]), 10, IMAGES / "toy-vae")


def draw_wide(model: Any) -> None:
    """Ten pictures of each world, and what the autoencoder makes of them in the row below."""
    rows = {}
    for name, paint_world in WORLDS.items():
        rows[name] = paint_world("eval", SEED, range(10))
        rows[f"{name},\ndecoded"] = model.decode(model.encode(rows[name]))
    labelled(rows, IMAGES / "toy-vae-wide.png")


def draw_t2i(model: Any) -> None:
    """The first 24 captions of the split, one picture each, none left out; prints the captions."""
    captions = [sample_scene("small", split="eval", seed=SEED, index=index).caption for index in range(24)]
    save_grid(sample_pictures(model, captions, range(SEED, SEED + 24)), 8, IMAGES / "toy-t2i")
    sys.stdout.write("\n".join(f"{number // 8 + 1}.{number % 8 + 1} {caption}" for number, caption in enumerate(captions)) + "\n")


def draw_i2v(model: Any) -> None:
    """The first 8 clips of the split, none left out: the truth above the sample."""
    scenes = [sample_scene("small", split="eval", seed=SEED, index=index, num_frames=8) for index in range(8)]
    truth = paint(scenes, num_frames=8)
    made = sample_clips(model, truth[:, 0], scenes, count(SEED))
    save_clips(_interleave(truth, made), 4, IMAGES / "toy-i2v")
    save_grid(torch.stack([truth, made], dim=1).flatten(0, 2), 8, IMAGES / "toy-i2v", scale=1)


def _interleave(truth: Tensor, made: Tensor, columns: int = 4) -> Tensor:
    """Rows of true clips with the rows of their samples below."""
    parts = zip(truth.split(columns), made.split(columns), strict=True)
    return torch.cat([clip for pair in parts for clip in pair])


DRAW = {"toy-vae": draw_vae, "toy-vae-wide": draw_wide, "toy-t2i": draw_t2i, "toy-i2v": draw_i2v}

if __name__ == "__main__":
    for name in sys.argv[1:] or DRAW:
        DRAW[name](load(name, device="cpu", dtype="float32"))
