"""Draw the picture of docs/methods/style-extracting-diffusion.md: `python scripts/draw_style_extraction.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import Tensor

import calotype
from calotype.core.events import SILENT
from calotype.evaluation.style_extracting_diffusion import LABELLED_HUES, Asked, asked, make
from calotype.imaging.types import Image
from calotype.methods.style_extracting_diffusion import StyleExtractingDiffusion
from calotype.world.scenes.sample_grids import grid

OUT = Path(__file__).parent.parent / "docs" / "images" / "style-extracting-diffusion.png"
SEED, STYLES, LAYOUTS, MARGIN, TOP, SCALE = 3, 7, 4, 130, 40, 1.5
CLASSES = torch.tensor([[0.92, 0.92, 0.92], [0.75, 0.25, 0.45], [0.35, 0.5, 0.8]])


def rows(model_name: str) -> tuple[list[Tensor], list[str]]:
    """Rows of pictures, and what stands above the columns: a layout, then it in each style, then without one."""
    model, method = calotype.load(model_name), StyleExtractingDiffusion.toy()
    some = sorted(asked("tune", SEED, STYLES, method.num_styles), key=lambda item: item.scene.style.hue)
    blank = torch.ones(1, *some[0].styles.shape[1:])
    found = [torch.cat([blank, torch.stack([item.styles[0] for item in some]), blank])]
    for item in some[:LAYOUTS]:
        batch = [Asked(0, item.layout, other.styles, other.scene) for other in some]
        made = make(method, model, SEED, batch, SILENT)
        plain = make(method, model, SEED, batch[:1], SILENT, style=False)
        found.append(torch.cat([CLASSES[item.layout].permute(2, 0, 1)[None], made.cpu(), plain.cpu()]))
    names = [f"hue {item.scene.style.hue:.2f}{'' if item.scene.style.hue > LABELLED_HUES[1] else ' *'}" for item in some]
    return found, ["layout", *names, "no style"]


def main(model_name: str = "toy-tissue") -> None:
    """The sheet, with names above and beside it."""
    pictures, columns = rows(model_name)
    sheet = Image((grid(pictures).pixels * 63.0).round() / 63.0).to_pil()
    sheet = sheet.resize((round(sheet.width * SCALE), round(sheet.height * SCALE)), PILImage.Resampling.LANCZOS)
    page = PILImage.new("RGB", (sheet.width + MARGIN, sheet.height + TOP), "white")
    page.paste(sheet, (MARGIN, TOP))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for number, name in enumerate(columns):
        pen.text((MARGIN + (number + 0.5) * sheet.width / len(columns), TOP / 2), name, fill="black", font=font, anchor="mm")
    for number, name in enumerate(["style picture of\nan unseen patient", *["made"] * LAYOUTS]):
        pen.multiline_text((6, TOP + (number + 0.4) * sheet.height / len(pictures)), name, fill="black", font=font)
    page.save(OUT, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
