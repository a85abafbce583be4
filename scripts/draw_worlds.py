"""Draw the pictures of docs/world.md on tissue, portraits, critters and landscapes: `python scripts/draw_worlds.py`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import Tensor

from calotype.imaging.types import Image
from calotype.world import paint
from calotype.world.critters.drawing import sample_critters
from calotype.world.landscapes.drawing import SKY, WATER, paint_landscapes, sample_landscape
from calotype.world.portraits.drawing import paint_portraits, sample_portrait
from calotype.world.scenes.sample_grids import flow_picture, grid
from calotype.world.tissue import paint_tissue, sample_tissue

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SIZE, COLUMNS, MARGIN = 96, 8, 150
CLASSES = torch.tensor([[0.92, 0.92, 0.92], [0.75, 0.25, 0.45], [0.35, 0.5, 0.8]])


def labelled(rows: dict[str, Tensor], path: Path) -> None:
    """Rows of pictures with their names at the left, as PNG."""
    # 6 bits a channel, which no eye sees and PNG packs better.
    pictures = Image((grid(list(rows.values())).pixels * 63.0).round() / 63.0).to_pil()
    sheet = PILImage.new("RGB", (pictures.width + MARGIN, pictures.height), "white")
    sheet.paste(pictures, (MARGIN, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, name in enumerate(rows):
        pen.multiline_text((4, (number + 0.5) * pictures.height / len(rows) - 18), name, fill="black", font=font)
    sheet.save(path, optimize=True)


def tissue() -> dict[str, Tensor]:
    """Two pictures each of four patients, then the other variants."""
    rows: dict[str, Tensor] = {}
    for variant, name in (("tissue", "tissue"), ("big", "big"), ("small", "small")):
        scenes = [sample_tissue(variant, split="tune", seed=1, index=index, pictures_per_patient=2) for index in range(COLUMNS)]
        made = paint_tissue(scenes, SIZE)
        rows[f"{name}:\n2 pictures\na patient"] = made.image
        if variant == "tissue":
            rows["most readers"] = CLASSES[made.mask].permute(0, 3, 1, 2)
        rows[f"{name}:\nboth annotators"] = CLASSES[made.annotators].mean(1).permute(0, 3, 1, 2)
    smooth = [sample_tissue("big", split="tune", seed=1, index=index, pictures_per_patient=2, smooth=True) for index in range(COLUMNS)]
    rows["big, smooth"] = paint_tissue(smooth, SIZE).image
    return rows


def others() -> dict[str, Tensor]:
    """Portraits as photos and as drawings, critters, landscapes with their masks and motion."""
    people = [sample_portrait(split="tune", seed=1, index=index, style="photo") for index in range(COLUMNS)]
    drawn = [sample_portrait(split="tune", seed=1, index=index, style="webtoon") for index in range(COLUMNS)]
    views = paint_landscapes([sample_landscape(split="tune", seed=1, index=index) for index in range(COLUMNS)], SIZE)
    water, sky = ((views.mask == value)[:, None].float() for value in (WATER, SKY))
    return {
        "portraits:\nphoto": paint_portraits(people, SIZE).image,
        "portraits:\nwebtoon": paint_portraits(drawn, SIZE).image,
        "critters": paint([sample_critters(split="tune", seed=1, index=index) for index in range(COLUMNS)], size=SIZE),
        "landscapes": views.image,
        "sky (light),\nwater (dark)": 1.0 - 0.25 * sky - 0.7 * water.expand(-1, 3, -1, -1),
        "motion\n(hue: direction)": torch.stack([flow_picture(motion, most=3.0) for motion in views.motion]),
    }


if __name__ == "__main__":
    labelled(tissue(), IMAGES / "tissue.png")
    labelled(others(), IMAGES / "world-more.png")
