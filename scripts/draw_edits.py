"""Rng the pictures of the page on DesignEdit, on the embedded model, into docs/images/, and paints examples/two-*.png.

python scripts/draw_edits.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from calotype import load
from calotype.evaluation.edit_cases import cases
from calotype.imaging.types import Image, Mask
from calotype.methods.design_edit import DesignEdit

ROOT = Path(__file__).parent.parent
CASE = 1
"""Of the tune split's cases with seed 31: a blue mushroom and a purple tree on sand."""


def main() -> None:
    """Make the pictures anew."""
    case = cases("small", "tune", 31, 6)[CASE]
    image, masks = Image(case.picture), [Mask(case.mask), Mask(case.other)]
    examples = ROOT / "examples"
    image.save(examples / "two.png", overwrite=True)
    masks[0].save(examples / "two-upper.png", overwrite=True)
    masks[1].save(examples / "two-lower.png", overwrite=True)
    upper, lower = str(examples / "two-upper.png"), str(examples / "two-lower.png")

    model, method, picture = load("toy-t2i", device="cpu"), DesignEdit.toy(), examples / "two.png"
    made = [
        image,
        method(model, picture, remove=(upper,), refine=(lower,)),
        method(model, picture, move=lower, refine=(upper,), dx=0.4, scale=0.8, flip="h"),
        method(model, picture, swap=(upper, lower)),
        method(model, picture, pan=(0.2, 0.0)),
        method(model, picture, zoom_out=1.25),
    ]
    white = torch.ones(3, 64, 2)
    row = torch.cat([part for each in made for part in (each.pixels, white)][:-1], dim=2)
    Image(functional.interpolate(row[None], scale_factor=2)[0]).save(ROOT / "docs" / "images" / "design-edit.png", overwrite=True)


if __name__ == "__main__":
    main()
