"""Pictures of what Click to Grasp found: where each view shows the part, and the hand in the scene."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image as Pillow
from PIL import ImageDraw
from torch import Tensor

from calotype.core.grippers import Gripper
from calotype.imaging.rgbd import RGBDView
from calotype.imaging.types import Image
from calotype.methods.click_to_grasp.grounding import Grounding, heat_of_view
from calotype.methods.click_to_grasp.results import Grasp, heat_colours

SIDE, GAP, TITLE, MOST = 320, 8, 16, 4
"""Pixels of a panel's longer side, between panels and above them; panels of a row."""
CLICKED, REFUSED, FOUND, BEHIND = (255, 60, 200), (40, 40, 40), (255, 255, 255), (120, 120, 120)
FINGERS, PALM = ((255, 70, 70), (70, 130, 255)), (250, 190, 40)


def heat_sheet(
    picture: Image, click: tuple[float, float], negatives: Sequence[tuple[float, float]], views: Sequence[RGBDView], grounding: Grounding
) -> Image:
    """The reference picture with its clicks, then every view with the score of the object's points over it and a cross at the contact.

    Args:
        picture: that was clicked on.
        click: (x, y) in its pixels from its corner.
        negatives: places that are not meant.
        views: of the scene.
        grounding: of the click in the scene.
    """
    panels = [("reference and click", panel(picture.pixels))]
    draw = ImageDraw.Draw(panels[0][1])
    scale = panel_scale(picture.size)
    for place, colour in [(click, CLICKED), *((each, REFUSED) for each in negatives)]:
        cross(draw, (place[0] * scale, place[1] * scale), colour)
    for number, view in enumerate(views):
        heat, on = heat_of_view(grounding, view)
        grey = view.rgb.mean(0, keepdim=True).expand(3, -1, -1) * 0.6
        coloured = heat_colours(heat / max(grounding.parts[0].score, 1e-6)).permute(2, 0, 1)
        drawn = panel(torch.where(on, 0.25 * view.rgb + 0.75 * coloured, grey))
        _point(ImageDraw.Draw(drawn), view, grounding.parts[0].point)
        panels.append((f"view {number}", drawn))
    return arranged(panels)


def hand_sheet(views: Sequence[RGBDView], grasp: Grasp, gripper: Gripper) -> Image:
    """Every view with the outline of the hand's boxes in the best pose: fingers red (+y) and blue, the palm yellow, grey where hidden.

    Args:
        views: of the scene.
        grasp: its pose and opening.
        gripper: its sizes.
    """
    middles, halves = gripper.boxes(min(grasp.width, gripper.max_width))
    panels = []
    for number, view in enumerate(views):
        drawn = panel(view.rgb)
        draw = ImageDraw.Draw(drawn)
        for middle, half, colour in zip(middles, halves, (*FINGERS, PALM), strict=True):
            for start, end in _edges(middle, half):
                line = start + torch.linspace(0, 1, 33)[:, None] * (end - start)
                _line(draw, view, line.double() @ grasp.pose[:3, :3].T + grasp.pose[:3, 3], colour)
        _point(draw, view, grasp.point)
        panels.append((f"view {number}: opens {1000 * grasp.width:.0f} mm", drawn))
    return arranged(panels)


def _edges(middle: Tensor, half: Tensor) -> list[tuple[Tensor, Tensor]]:
    corners = middle + torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) * half
    pairs = [(first, first | bit) for first in range(8) for bit in (1, 2, 4) if not first & bit]
    return [(corners[first], corners[second]) for first, second in pairs]


def _line(draw: ImageDraw.ImageDraw, view: RGBDView, points: Float[Tensor, "n 3"], colour: tuple[int, int, int]) -> None:
    pixels, z = view.project(points)
    scale, (height, width) = panel_scale(view.size), view.size
    for place in range(len(points) - 1):
        if float(z[place : place + 2].min()) <= 0.01:
            continue
        x, y = pixels[place].tolist()
        hidden = 0 <= x < width and 0 <= y < height and 0 < float(view.depth[int(y), int(x)]) < float(z[place]) - 0.004
        ends = (pixels[place : place + 2] * scale).flatten().tolist()
        draw.line(ends, fill=BEHIND if hidden else colour, width=1 if hidden else 2)


def _point(draw: ImageDraw.ImageDraw, view: RGBDView, point: Float[Tensor, 3]) -> None:
    pixels, z = view.project(point[None].double())
    if float(z[0]) <= 0:
        return
    x, y = pixels[0].tolist()
    inside = 0 <= x < view.size[1] and 0 <= y < view.size[0]
    # The point lies inside of the part, so that 3 cm of it may be before it.
    hidden = inside and 0 < float(view.depth[int(y), int(x)]) < float(z[0]) - 0.03
    cross(draw, (x * panel_scale(view.size), y * panel_scale(view.size)), BEHIND if hidden else FOUND)


def cross(draw: ImageDraw.ImageDraw, place: tuple[float, ...], colour: tuple[int, int, int]) -> None:
    """A cross with a dark rim at a place (x, y) of a panel."""
    x, y = place
    for width, ink in ((5, (0, 0, 0)), (2, colour)):
        draw.line([x - 8, y, x + 8, y], fill=ink, width=width)
        draw.line([x, y - 8, x, y + 8], fill=ink, width=width)


def panel_scale(size: tuple[int, int]) -> float:
    """Pixels of a panel per pixel of a picture of that height and width."""
    return SIDE / max(size)


def panel(pixels: Float[Tensor, "3 height width"]) -> Pillow.Image:
    """A picture in [0, 1] at the size of a panel."""
    height, width = pixels.shape[1:]
    scale = panel_scale((height, width))
    return Image(pixels.float().contiguous()).to_pil().resize((round(width * scale), round(height * scale)), Pillow.Resampling.BICUBIC)


def arranged(panels: Sequence[tuple[str, Pillow.Image]], most: int = MOST) -> Image:
    """Panels in rows, each under its title."""
    columns = min(most, len(panels))
    step = SIDE + GAP, max(drawn.height for _, drawn in panels) + GAP + TITLE
    canvas = Pillow.new("RGB", (GAP + columns * step[0], GAP + -(-len(panels) // columns) * step[1]), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for place, (title, drawn) in enumerate(panels):
        corner = GAP + place % columns * step[0], GAP + place // columns * step[1]
        draw.text(corner, title, fill=(20, 20, 20))
        canvas.paste(drawn, (corner[0], corner[1] + TITLE))
    return Image.from_pil(canvas)
