"""Draw the pictures of docs/methods/cage.md: `python scripts/draw_composition.py [MODEL]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

import calotype
from calotype.backbones.composable_video import ComposableVideo
from calotype.evaluation.cage import controls_of, without
from calotype.evaluation.cage_cases import Asked, Placed, animations, compositions
from calotype.imaging.types import Video
from calotype.methods.cage import CAGE
from calotype.methods.cage.sheet import sheet
from calotype.world.scenes.sample_grids import grid

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SEED, SHOWN, TOP, SCALE = 3, 6, 26, 1.8
CROSS = torch.tensor([1.0, 0.0, 1.0])[:, None]


def generate(model: ComposableVideo, method: CAGE, cases: Sequence[Asked], *, control: bool = True) -> Tensor:
    """Three frames of each case."""
    controls = controls_of(method, model, cases)
    known = [case.known for case in cases]
    given = None if known[0] is None else torch.stack([frames for frames in known if frames is not None])
    return method.generate(model, given, controls if control else without(controls), seeds=range(len(cases))).clamp(0, 1)


def marked(picture: Tensor, placed: Sequence[Placed], cells: tuple[int, int]) -> Tensor:
    """With a cross where each sprite has to be in the end."""
    picture = picture.clone()
    for x, y in ((round(value) for value in one.goal(cells)) for one in placed):
        picture[:, y, max(0, x - 3) : x + 4] = CROSS
        picture[:, max(0, y - 3) : y + 4, x] = CROSS
    return picture


def labelled(rows: Sequence[Tensor], columns: Sequence[str]) -> PILImage.Image:
    """A sheet with names above its columns."""
    drawn = grid(rows).to_pil()
    drawn = drawn.resize((round(drawn.width * SCALE), round(drawn.height * SCALE)), PILImage.Resampling.BICUBIC)
    page = PILImage.new("RGB", (drawn.width, drawn.height + TOP), "white")
    page.paste(drawn, (0, TOP))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for number, name in enumerate(columns):
        pen.text(((number + 0.5) * drawn.width / len(columns), TOP / 2), name, fill="black", font=font, anchor="mm")
    return page


def main(model_name: str = "toy-cage") -> None:
    """All of them."""
    model, method = calotype.load(model_name, device="cpu"), CAGE.toy()
    moves = animations("tune", SEED, SHOWN, model.grid)
    made, free = generate(model, method, moves), generate(model, method, moves, control=False)
    rows, clips = [], []
    for case, ours, theirs in zip(moves, made, free, strict=True):
        picture = case.placed[0].source.picture
        asked = marked(picture, case.placed, model.grid)
        rows.append(torch.stack([asked, *ours[:-1], marked(ours[-1], case.placed, model.grid), theirs[-1]]))
        clips.append(torch.cat([asked.expand(4, -1, -1, -1), torch.cat([picture[None], ours]), torch.cat([picture[None], theirs])], 3))
    labelled(rows, ["given, x: to", "frame 1", "frame 2", "frame 3", "no control"]).save(IMAGES / "cage-moves.png", optimize=True)
    wide = functional.interpolate(torch.cat([clips[number] for number in (0, 1, 2, 5)], 2), scale_factor=2, mode="bicubic").clamp(0, 1)
    Video(torch.cat([wide, wide[-1:].expand(2, -1, -1, -1)]), 3).save(IMAGES / "cage.gif", overwrite=True)
    first, picture = moves[0], moves[0].placed[0].source.picture
    sheet(picture, made[0], [(first.placed[0].command, picture)], model.grid).save(IMAGES / "cage-sheet.png", overwrite=True)

    parts = compositions("tune", SEED, SHOWN, model.grid, one_ground=True)
    blank = torch.ones(3, *model.size)
    rows = []
    for case, ours in zip(parts, generate(model, method, parts), strict=True):
        sources = [placed.source.picture for placed in case.placed]
        asked = marked(0.9 * blank, case.placed, model.grid)
        rows.append(torch.stack([*sources, *[blank] * (3 - len(sources)), asked, *ours]))
    names = ["source 1", "source 2", "source 3", "x: where", "frame 1", "frame 2", "frame 3"]
    labelled(rows, names).save(IMAGES / "cage-compose.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
