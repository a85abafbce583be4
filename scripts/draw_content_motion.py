"""Draw the pictures of docs/methods/cmd.md on the embedded model: `python scripts/draw_content_motion.py [MODEL]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import Tensor

import calotype
from calotype.evaluation.cmd_reconstruction import crossed, reconstructed
from calotype.evaluation.moving_clips import FRAMES, MovingClip, moving_clips
from calotype.imaging.types import Image, Video
from calotype.methods.cmd import CMD
from calotype.world.moving import VARIANTS

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SEED, FPS, SCALE, GAP, LINE = 3, 6, 2, 10, 18
CAPTIONS = (
    "a red ball on grass moving left", "a blue star on snow moving up", "an orange rocket at night moving right",
    "a purple house on sand moving down", "a green tree on snow moving right", "a yellow mushroom on grass moving up",
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """A picture or a clip, [F, 3, H, W] with F of 1 or more, and what stands above it."""

    clip: Tensor
    label: str


def still(picture: Tensor, label: str) -> Panel:
    """A panel of one picture."""
    return Panel(picture[None], label)


def page(rows: Sequence[Sequence[Panel]], frame: int) -> PILImage.Image:
    """One frame of all panels, enlarged, each under its label."""
    side = rows[0][0].clip.shape[-1] * SCALE
    font = ImageFont.load_default(12)
    sheet = PILImage.new("RGB", (max(map(len, rows)) * (side + GAP) + GAP, len(rows) * (side + LINE + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        for place, panel in enumerate(row):
            left, top = GAP + place * (side + GAP), GAP + number * (side + LINE + GAP)
            pen.text((left, top), panel.label, fill="black", font=font)
            picture = Image(panel.clip[min(frame, len(panel.clip) - 1)].clamp(0, 1)).to_pil()
            sheet.paste(picture.resize((side, side), PILImage.Resampling.NEAREST), (left, top + LINE))
    return sheet


def animate(rows: Sequence[Sequence[Panel]], name: str) -> None:
    """All panels as one GIF."""
    pages = [torch.from_numpy(np.asarray(page(rows, frame)).copy()).permute(2, 0, 1) / 255 for frame in range(FRAMES)]
    Video(torch.stack(pages), FPS).save(IMAGES / name, overwrite=True)


def codes(model: Any) -> None:
    """What the autoencoder makes of clips: the first, middle and last frame, the content frame, and the rebuilt frames."""
    rows = []
    items = [moving_clips("tune", SEED, 4, variant)[number] for number, variant in enumerate(VARIANTS)]
    for item in items:
        latents = model.encode_clips(item.frames[None])
        content = model.decode_clips(model.split(latents).content[:, None])[0, 0]
        rebuilt = model.decode_clips(reconstructed(model, latents))[0]
        shown = (0, FRAMES // 2, FRAMES - 1)
        rows.append(
            [
                *(still(item.frames[frame], f"frame {frame + 1}") for frame in shown),
                still(content, "content frame"),
                *(still(rebuilt[frame], f"rebuilt {frame + 1}") for frame in shown),
            ]
        )
    page(rows, 0).save(IMAGES / "cmd-codes.png", optimize=True)


def prompts(model: Any, method: CMD) -> None:
    """Clips from captions, beside their content frames."""
    content = method.content(model, CAPTIONS, seed=SEED)
    clips = model.decode_clips(model.join(content, method.motions(model, CAPTIONS, content, seed=SEED)))
    pictures = model.decode_clips(content[:, None])[:, 0]
    cells = [(still(picture, caption), Panel(clip, "")) for picture, clip, caption in zip(pictures, clips, CAPTIONS, strict=True)]
    animate([[panel for cell in cells[first : first + 2] for panel in cell] for first in range(0, len(cells), 2)], "cmd-prompts.gif")


def motions(model: Any, method: CMD) -> None:
    """Several motions of one content frame: of a true clip, by its own caption and by others."""
    item = moving_clips("tune", SEED, 8)[0]
    content = model.split(model.encode_clips(item.frames[None])).content
    own = item.scene.caption.rpartition(" ")[0]
    rows = []
    for words in (item.scene.caption, *(f"{own} {way}" for way in ("left", "right", "up", "down") if way != item.scene.direction)):
        twice = content.expand(2, -1, -1, -1)
        clips = model.decode_clips(model.join(twice, method.motions(model, [words] * 2, twice, seed=SEED)))
        rows.append([Panel(clip, f"asked for {words.rpartition(' ')[2]}") for clip in clips])
    picture = model.decode_clips(content[:, None])[0]
    first = [Panel(item.frames, f"true, {item.scene.direction}"), Panel(picture, "its content frame")]
    animate([[*first, *rows[0]], [*rows[1], *rows[2]], rows[3]], "cmd-motions.gif")


def cross(model: Any) -> None:
    """The content frame of one clip with the motion of another."""
    items = moving_clips("tune", SEED, 12)
    pairs: list[tuple[MovingClip, MovingClip]] = [(item, item.redirected()) for item in (items[0], items[4])] + [(items[7], items[8])]
    rows = []
    for content, motion in pairs:
        latents = [model.encode_clips(item.frames[None]) for item in (content, motion)]
        made = model.decode_clips(crossed(model, *latents))[0]
        shown = model.decode_clips(model.split(latents[0]).content[:, None])[0]
        names = ("content of", "motion of", "content frame", "both")
        rows.append([Panel(clip, name) for clip, name in zip((content.frames, motion.frames, shown, made), names, strict=True)])
    animate(rows, "cmd-cross.gif")


def main(model_name: str = "toy-cmd") -> None:
    """Make the pictures anew."""
    model, method = calotype.load(model_name, device="cpu"), CMD.toy()
    with torch.inference_mode():
        codes(model)
        cross(model)
        prompts(model, method)
        motions(model, replace(method, motion_guidance_scale=max(1.0, method.motion_guidance_scale)))


if __name__ == "__main__":
    main(*sys.argv[1:])
