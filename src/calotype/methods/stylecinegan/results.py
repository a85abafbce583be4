"""What a run writes beside the clip: an animated GIF, a folder of frames, and a sheet of what was asked and what came."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as Pillow
from PIL import ImageDraw
from torch import Tensor

from calotype.core.artifacts import DatasetFolder
from calotype.core.motion_fields import resize_field
from calotype.data import read_video, resize_pixels
from calotype.imaging.types import Image, Mask, Video
from calotype.runs.artifact import ArtifactKind, contents

PANEL, GAP, TITLE, SHOWN = 240, 8, 18, 4
"""Pixels of a panel's longer side, between panels and above them; frames that are shown."""
ARROWS, LONGEST = 11, 0.9
"""Arrows along the longer side, and how long the longest one is, in their distance."""
INK, TINT = (20, 20, 20), (255, 60, 60)


@dataclass(frozen=True, eq=False)
class Animation(Video):
    """A clip that is written as an animated GIF."""


def _read(path: Path, **options: Any) -> Animation:
    clip = read_video(path, **options)
    return Animation(clip.frames, clip.fps)


def _write(value: Animation, path: Path, metadata: Mapping[str, str]) -> None:
    value.save(path, metadata=metadata, overwrite=True)


def _digest(value: Animation) -> str:
    total = hashlib.sha256()
    for frame in value.frames:
        total.update(frame.contiguous().numpy().tobytes())
    return total.hexdigest()


ANIMATION = ArtifactKind(
    name="animation", type=Animation, phrase="an animation", suffix=".gif", read=_read, write=_write, digest=_digest,
    metadata=contents(lambda clip: f"{len(clip)} frames, {clip.size[1]}x{clip.size[0]} px"),
)  # fmt: skip


def frames_folder(video: Video) -> DatasetFolder:
    """The frames as 0000.png, 0001.png, ... in a folder."""
    made = DatasetFolder.temporary()
    for number in range(len(video)):
        video[number].save(made.path / f"{number:04d}.png")
    return made


def sheet(picture: Image, moving: Mask, field: Float[Tensor, "2 h w"], reconstruction: Image, video: Video) -> Image:
    """Two rows of panels: the picture, what moves with its motion, the inversion; below, frames of the loop.

    Args:
        picture: of the frames' size.
        moving: what moves.
        field: the motion, of the picture's shape.
        reconstruction: what the generator makes of the picture, of the model's size.
        video: the loop.
    """
    height, width = picture.size
    scale = PANEL / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    tinted = torch.where(moving.values, 0.6 * picture.pixels + 0.4 * torch.tensor(TINT).view(3, 1, 1) / 255, picture.pixels)
    arrows = Pillow.fromarray(_bytes(tinted, size))
    _draw_arrows(ImageDraw.Draw(arrows), resize_field(field, size))
    rows: list[list[tuple[str, np.ndarray]]] = [
        [
            ("picture", _bytes(picture.pixels, size)),
            ("what moves, and where", np.asarray(arrows)),
            ("as the generator knows it", _bytes(reconstruction.pixels, size)),
        ],
        [
            (f"frame {number}", _bytes(video[number].pixels, size))
            for number in (len(video) * part // SHOWN for part in range(min(SHOWN, len(video))))
        ],
    ]
    step = size[1] + GAP, size[0] + TITLE + GAP
    canvas = Pillow.new("RGB", (GAP + step[0] * max(map(len, rows)), GAP + step[1] * len(rows)), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for row, panels in enumerate(rows):
        for column, (title, pixels) in enumerate(panels):
            corner = GAP + column * step[0], GAP + row * step[1]
            draw.text(corner, title, fill=INK)
            canvas.paste(Pillow.fromarray(pixels), (corner[0], corner[1] + TITLE))
    return Image.from_numpy(np.asarray(canvas))


def _bytes(pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
    return Image(resize_pixels(pixels, size)).to_numpy()


def _draw_arrows(draw: ImageDraw.ImageDraw, field: Tensor) -> None:
    """Arrows on a grid, the longest almost as long as they lie apart."""
    fastest = float(field.square().sum(0).sqrt().max())
    if not fastest:
        return
    apart = max(field.shape[1:]) / ARROWS
    for row in np.arange(apart / 2, field.shape[1], apart):
        for column in np.arange(apart / 2, field.shape[2], apart):
            x, y = (float(part) * LONGEST * apart / fastest for part in field[:, int(row), int(column)])
            length = (x * x + y * y) ** 0.5
            if length < 1:
                continue
            start, end = (column - x / 2, row - y / 2), (column + x / 2, row + y / 2)
            draw.line([start, end], fill=INK, width=2)
            along, head = (x / length, y / length), min(6.0, 2 + length / 3)
            for side in (1, -1):
                wing = (end[0] - head * (along[0] + side * 0.6 * along[1]), end[1] - head * (along[1] - side * 0.6 * along[0]))
                draw.line([end, wing], fill=INK, width=2)
