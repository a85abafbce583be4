"""Draw the pictures of the page on harmonized customization.

python scripts/draw_customization.py              creatures.png, customization.png and examples/creature.png
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from calotype.errors import MissingError
from calotype.imaging.types import Image
from calotype.train.sample_grids import save_grid
from calotype.world import paint
from calotype.world.creatures.drawing import POSES, on_plain_ground, sample_creature

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SEED = 5
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"eta": 0.0, "swap": "off"},
    "projection": {"swap": "off"},
    "swap": {"eta": 0.0},
    "method": {},
}


def draw_creatures() -> None:
    """Four identities in six poses; the first one's subject picture for the examples."""
    scenes = [sample_creature(split="tune", seed=SEED, index=index, pose=pose) for index in range(4) for pose in POSES]
    save_grid(paint(scenes), len(POSES), IMAGES / "creatures")
    subject = paint([on_plain_ground(sample_creature(split="eval", seed=SEED, index=0))], size=256)[0]
    Image(subject).save(IMAGES.parents[1] / "examples" / "creature.png", overwrite=True)


def draw_customization() -> None:
    """A row for each of six unseen creatures: subject picture, plain model, projection, swap, both; the poses asked for go round."""
    import calotype

    model, method = calotype.load("toy-subject"), calotype.HarmonizedCustomization.toy()
    scenes = [sample_creature(split="eval", seed=SEED, index=index) for index in range(6)]
    subjects = [Image(paint([on_plain_ground(scene)])[0]) for scene in scenes]
    wanted = [POSES[(POSES.index(scene.creature.pose) + 1 + index % 5) % 6] for index, scene in enumerate(scenes)]
    prompts = [
        f"{pose} {scene.caption.removeprefix('a creature ' + scene.creature.pose + ' ')}"
        for pose, scene in zip(wanted, scenes, strict=True)
    ]
    columns = [torch.stack([subject.pixels for subject in subjects])]
    for changes in VARIANTS.values():
        changed = dataclasses.replace(method, **changes)
        columns.append(changed.generate(model, subjects, prompts, word="creature", seed=SEED).cpu())
    save_grid(torch.stack(columns, 1).flatten(0, 1), len(columns), IMAGES / "customization")
    sys.stdout.write("\n".join(["rows:", *prompts, "columns: subject", *VARIANTS]) + "\n")


if __name__ == "__main__":
    draw_creatures()
    try:
        draw_customization()
    except MissingError as error:
        sys.stdout.write(f"{error}\n")
