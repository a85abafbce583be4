"""Draw the pictures of the page on UMed.

python scripts/draw_protection.py            docs/images/protection.png: pictures of the tissue world, protected, and what was added
python scripts/draw_protection.py FOLDER     the same of the first pictures of a data folder, as protection-folder.png in the working folder
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image as Pillow
from PIL import ImageDraw
from torch import Tensor

from calotype.data.sample_grids import rows_sheet
from calotype.data.segmentation_folder import SegmentationFolder
from calotype.evaluation.umed import SIZE, SMOOTH
from calotype.evaluation.umed_victims import Pairs, folder_pairs, levels, tissue_pairs
from calotype.imaging.types import Image
from calotype.methods.umed import UMed
from calotype.methods.umed.baselines import BASELINES

ROOT = Path(__file__).parent.parent
SEED, PICTURES, SHOWN = 5, 96, 3
HEIGHT, LABEL = 160, 18
"""Of a panel and of the line of labels above, in pixels."""
COLUMNS = ("picture", "mask", "protected", "what was added, x 32", "random signs, x 32")


def draw(pairs: Pairs, out: Path) -> None:
    """Three pictures with their masks, before and after, and two perturbations with the whole budget as black and white."""
    method = UMed()
    drawn = method.perturbation(pairs.images, pairs.masks, seed=SEED)
    signs = BASELINES["random-signs"](pairs.images, pairs.masks, method.epsilon / 255, seed=SEED)
    protected = levels(pairs.images + drawn)
    rows = []
    for number in range(SHOWN):
        picture = pairs.images[number]
        low, high = float(picture.min()), float(picture.max())
        panels = [
            (picture - low) / (high - low), (pairs.masks[number] > 0).float()[None], (protected[number] - low) / (high - low),
            0.5 + 32 * (protected[number] - picture), 0.5 + 32 * signs[number],
        ]  # fmt: skip
        rows.append([shown(panel) for panel in panels])
    sheet = rows_sheet(rows, height=HEIGHT).to_pil()
    labelled = Pillow.new("RGB", (sheet.width, sheet.height + LABEL), "white")
    labelled.paste(sheet, (0, LABEL))
    pen = ImageDraw.Draw(labelled)
    for column, name in enumerate(COLUMNS):
        pen.text((column * sheet.width / len(COLUMNS) + 4, 3), name, fill="black")
    Image.from_pil(labelled).save(out, overwrite=True)
    sys.stdout.write(f"{out}\n")


def shown(panel: Tensor) -> Image:
    """A panel of one channel or three, in whole pixels five times as large."""
    whole = panel.clamp(0, 1).expand(3, -1, -1)
    return Image(torch.nn.functional.interpolate(whole[None], scale_factor=5.0, mode="nearest")[0].contiguous())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        draw(folder_pairs(SegmentationFolder.open(sys.argv[1])), Path("protection-folder.png"))
    else:
        made = tissue_pairs(PICTURES, split="tune", seed=SEED, noise=SMOOTH, size=SIZE)
        draw(made, ROOT / "docs" / "images" / "protection.png")
