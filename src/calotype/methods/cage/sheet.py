"""A picture of what was asked of CAGE beside what came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as Pillow
from PIL import ImageDraw
from torch import Tensor

from calotype.imaging.types import Image
from calotype.methods.cage.commands import Command, Grid

SIDE, GAP, TITLE, MOST = 192, 6, 16, 5
"""Pixels of a panel's shorter side, between panels and above them; frames that are shown."""
COLOURS = ((230, 60, 60), (40, 120, 230), (30, 160, 70), (230, 140, 0), (150, 70, 200), (0, 160, 170))
INK, LINES = (20, 20, 20), (128, 128, 128)


def sheet(
    first: Float[Tensor, "3 height width"] | None, made: Float[Tensor, "frames 3 height width"], commands: Sequence[tuple[Command, Tensor]],
    grid: Grid,
) -> Image:  # fmt: skip
    """Two rows: the pictures whose cells were taken, the first frame with arrows to where they go, then for some frames the cells that were
    asked for; below, the frames that came, with a cross where each command's middle was asked for.

    Args:
        first: the frame that was continued, in [0, 1]; None for an empty canvas.
        made: the frames.
        commands: each with the picture that its cells are of; each has a colour.
        grid: rows and columns of cells.
    """
    height, width = made.shape[-2:]
    scale = SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    sources = [] if first is None else [first]
    for _, picture in commands:
        if not any(torch.equal(picture, other) for other in sources):
            sources.append(picture)
    numbers = sorted({round(place) for place in np.linspace(1, len(made), min(MOST, len(made)))})
    step = (size[0] + GAP, size[1] + GAP + TITLE)
    canvas = Pillow.new("RGB", (GAP + step[0] * (len(sources) + len(numbers)), GAP + 2 * step[1]), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)

    def panel(column: int, row: int, title: str, pixels: Tensor | None) -> tuple[int, int]:
        corner = GAP + column * step[0], GAP + row * step[1] + TITLE
        draw.text((corner[0], corner[1] - TITLE), title, fill=INK)
        canvas.paste(_panel(pixels, size), corner)
        _grid(draw, corner, size, grid)
        return corner

    for column, picture in enumerate(sources):
        begun = first is not None and column == 0
        corner = panel(column, 0, "first frame" if begun else "part of", picture)
        if begun:
            panel(column, 1, "first frame", picture)
        for number, (command, own) in enumerate(commands):
            if torch.equal(own, picture):
                _cells(draw, corner, size, grid, command.cells, COLOURS[number % len(COLOURS)])
                if begun:
                    _arrow(draw, corner, size, grid, command, COLOURS[number % len(COLOURS)])
    for place, frame in enumerate(numbers):
        asked = panel(len(sources) + place, 0, f"asked, frame {frame}", None)
        came = panel(len(sources) + place, 1, f"came, frame {frame}", made[frame - 1])
        for number, (command, _) in enumerate(commands):
            colour = COLOURS[number % len(COLOURS)]
            _cells(draw, asked, size, grid, [target for _, target in command.at(frame, grid)], colour)
            if frame in command.path:
                x, y = _middle(came, size, grid, command.path[frame])
                draw.line([x - 5, y, x + 5, y], fill=colour, width=2)
                draw.line([x, y - 5, x, y + 5], fill=colour, width=2)
    return Image(torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float() / 255.0)


def _panel(pixels: Tensor | None, size: tuple[int, int]) -> Pillow.Image:
    if pixels is None:
        return Pillow.new("RGB", size, (245, 245, 245))
    array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Pillow.fromarray(array).resize(size, Pillow.Resampling.BICUBIC)


def _corner(origin: tuple[int, int], size: tuple[int, int], grid: Grid, cell: tuple[float, float]) -> tuple[float, float]:
    return origin[0] + cell[1] * size[0] / grid[1], origin[1] + cell[0] * size[1] / grid[0]


def _middle(origin: tuple[int, int], size: tuple[int, int], grid: Grid, cell: tuple[int, int]) -> tuple[float, float]:
    return _corner(origin, size, grid, (cell[0] + 0.5, cell[1] + 0.5))


def _grid(draw: ImageDraw.ImageDraw, origin: tuple[int, int], size: tuple[int, int], grid: Grid) -> None:
    draw.rectangle([*origin, origin[0] + size[0] - 1, origin[1] + size[1] - 1], outline=LINES)
    for row in range(1, grid[0]):
        x, y = _corner(origin, size, grid, (row, 0))
        draw.line([x, y, x + 4, y], fill=LINES)
    for column in range(1, grid[1]):
        x, y = _corner(origin, size, grid, (0, column))
        draw.line([x, y, x, y + 4], fill=LINES)


def _cells(
    draw: ImageDraw.ImageDraw, origin: tuple[int, int], size: tuple[int, int], grid: Grid, cells: Sequence[tuple[int, int]],
    colour: tuple[int, int, int],
) -> None:  # fmt: skip
    for row, column in cells:
        start, end = _corner(origin, size, grid, (row, column)), _corner(origin, size, grid, (row + 1, column + 1))
        draw.rectangle([start[0] + 1, start[1] + 1, end[0] - 1, end[1] - 1], outline=colour, width=2)


def _arrow(
    draw: ImageDraw.ImageDraw, origin: tuple[int, int], size: tuple[int, int], grid: Grid, command: Command, colour: tuple[int, int, int]
) -> None:
    """From the middle of the source along the path; a dot where nothing moves."""
    points = [_middle(origin, size, grid, cell) for cell in (command.middle, *(command.path[frame] for frame in sorted(command.path)))]
    draw.line(points, fill=colour, width=3)
    x, y = points[-1]
    draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=colour)
