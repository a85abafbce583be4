"""Draw the pictures of docs/methods/stylecinegan.md: `python scripts/draw_cinemagraphs.py [MODEL] [PHOTOGRAPH]`.

The photograph is scikit-learn's `china.jpg` unless another one is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

import calotype
from calotype.backbones.landscape_generator import LandscapeGenerator
from calotype.data import as_image, resize_pixels
from calotype.evaluation.landscape_cases import Case, CrossFadeLoop, ForwardLoop, as_kind, landscape_cases, of_picture
from calotype.imaging.types import Image, Video
from calotype.methods.stylecinegan import StyleCineGAN

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SEED, MADE, COMPARED = 3, 6, (1, 4)
MOMENTS = (0, 3, 6, 12, 18, 23)
SCALE, TOP, LEFT, GAP = 2, 18, 120, 2
PHOTO_WIDTH, PHOTO_MOTION = 256, "arrows:152,24-192,26"


def flows(model: LandscapeGenerator, cases: Sequence[Case]) -> list[Tensor]:
    """A loop of each landscape with the model's own mask and motion."""
    return [StyleCineGAN.toy()(model, case.image).video.frames for case in cases]


def labelled(rows: Sequence[tuple[str, Sequence[Tensor]]], columns: Sequence[str]) -> PILImage.Image:
    """Pictures in a table with names above and on the left."""
    height, width = (SCALE * side for side in rows[0][1][0].shape[1:])
    page = PILImage.new("RGB", (LEFT + len(columns) * (width + GAP), TOP + len(rows) * (height + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, name in enumerate(columns):
        pen.text((LEFT + (number + 0.5) * (width + GAP), TOP / 2), name, fill="black", font=font, anchor="mm")
    for row, (name, pictures) in enumerate(rows):
        pen.text((4, TOP + (row + 0.5) * (height + GAP)), name, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            shown = Image(picture).to_pil().resize((width, height), PILImage.Resampling.BICUBIC)
            page.paste(shown, (LEFT + column * (width + GAP), TOP + row * (height + GAP)))
    return page


def compared(model: LandscapeGenerator, case: Case) -> list[tuple[str, list[Tensor]]]:
    """Frames of the method and of what it is compared with, with the true mask and motion."""
    method = replace(StyleCineGAN.toy(), num_frames=24)
    loop = method.loop(model, case.image, case.moving, case.motion)
    kinds = (
        ("symmetric", loop), ("forward only", as_kind(loop, ForwardLoop)), ("cross-fade", as_kind(loop, CrossFadeLoop)),
        ("of the photograph", of_picture(loop, case.image.pixels[None] * 2 - 1)),
    )  # fmt: skip
    return [(name, [one.frame(t) for t in MOMENTS]) for name, one in kinds]


def photograph() -> Path:
    """scikit-learn's picture of a pagoda by danielbuechele, CC BY 2.0."""
    from importlib.resources import files

    return Path(str(files("sklearn.datasets") / "images" / "china.jpg"))


def main(model_name: str = "toy-landscape", photo: str = "") -> None:
    """All of them."""
    model = calotype.load(model_name, device="cpu")
    cases = landscape_cases("tune", SEED, MADE)
    clips = flows(model, cases)
    half = len(clips) // 2
    wide = torch.cat([torch.cat(clips[first : first + half], 3) for first in (0, half)], 2)
    Video(functional.interpolate(wide, scale_factor=2, mode="bicubic").clamp(0, 1), 12).save(IMAGES / "stylecinegan.gif", overwrite=True)

    rows = [row for number in COMPARED for row in compared(model, cases[number])]
    labelled(rows, [f"frame {t}" for t in MOMENTS]).save(IMAGES / "stylecinegan-frames.png", optimize=True)

    picture = as_image(photo or photograph())
    height = round(picture.size[0] * PHOTO_WIDTH / picture.size[1])
    small = Image(resize_pixels(picture.pixels, (height, PHOTO_WIDTH)))
    made = StyleCineGAN.toy()(model, small, mask="word:sky", motion=PHOTO_MOTION)
    made.sheet.save(IMAGES / "stylecinegan-photo.png", overwrite=True)
    both = torch.cat([small.pixels.expand_as(made.video.frames), made.video.frames], 3)
    Video(both, 12).save(IMAGES / "stylecinegan-photo.gif", overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
