"""Sample sheets of the world, as the documentation shows them: `write_sample_grids("docs/images")`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.imaging.files import atomic_path
from calotype.imaging.types import Image
from calotype.world.painting.motion import FAMILIES, Camera
from calotype.world.painting.painter import paint
from calotype.world.scenes import edits
from calotype.world.scenes.sampling import Scene, sample_scene
from calotype.world.scenes.truth import ground_truth

GAP = 3
"""White pixels between the pictures of a sheet."""


def grid(rows: Sequence[Float[Tensor, "columns 3 height width"]]) -> Image:
    """Rows of equally many pictures of one size, on white."""
    _, _, height, width = rows[0].shape
    across = max(len(row) for row in rows)
    sample_grid = torch.ones((3, len(rows) * (height + GAP) - GAP, across * (width + GAP) - GAP))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sample_grid[:, y * (height + GAP) : y * (height + GAP) + height, x * (width + GAP) : x * (width + GAP) + width] = picture
    return Image(sample_grid)


def presets_sheet(preset: str, *, size: int = 88) -> Image:
    """Three rows of ten pictures of a preset."""
    pictures = paint([sample_scene(preset, split="tune", seed=1, index=index) for index in range(30)], size=size)
    return grid([pictures[start : start + 10] for start in range(0, 30, 10)])


def motion_sheet(*, size: int = 88) -> Image:
    """A clip of each motion family, then a pan and a zoom: eight frames a row."""
    clips = [_lively(motion=family, objects=1, camera="still") for family in FAMILIES]
    clips += [_lively(motion="still", camera=camera) for camera in ("pan", "zoom")]
    return grid(list(paint(clips, size=size, num_frames=8)))


def _lively(**wanted: Any) -> Scene:
    """The next scene whose motion is well seen, in the order of the stream; each kind of motion starts elsewhere in it."""
    first = 40 * (len(str(wanted["motion"])) + len(str(wanted["camera"])))
    for index in range(first, first + 1000):
        scene = sample_scene("full", split="tune", seed=4, index=index, num_frames=8, **wanted)
        if scene.motion_bucket_id >= (30 if scene.camera == Camera() else 12):
            break
    return scene


def truth_sheet(*, size: int = 88) -> Image:
    """For three scenes: painting, clean ground, two layers on grey, depth, parts, flow to the next frame."""
    rows = []
    for index in (2, 5, 9):
        truth = ground_truth(sample_scene("full", split="tune", seed=2, index=index, num_frames=8, objects=2), size)
        layers = [0.85 * (1.0 - layer[3:]) + layer[:3] * layer[3:] for layer in truth.layers[0]]
        depth = truth.depth[0].float()[None].expand(3, -1, -1) / 2.0
        parts = _labels(truth.parts[0].sum(0).long())
        rows.append(torch.stack([truth.frames[0], truth.background[0], *layers, depth, parts, flow_picture(truth.flow[0])]))
    return grid(rows)


def edits_sheet(*, size: int = 88) -> Image:
    """For three scenes: as it is; an object gone, moved, enlarged, flipped, recoloured, replaced; restyled, zoomed, on other ground."""
    rows = []
    for index in (14, 0, 12):
        scene = sample_scene("full", split="tune", seed=3, index=index, objects=2)
        rows.append(paint([scene, *_edited(scene)], size=size))
    return grid(rows)


def _edited(scene: Scene) -> list[Scene]:
    first = scene.objects[0]
    return [
        edits.without(scene, 0),
        edits.moved(scene, 0, 0.2 if first.x < 0.5 else -0.2, 0.0),
        edits.resized(scene, 0, 1.35),
        edits.flipped(scene, 0),
        edits.recoloured(scene, 0, "cyan" if first.colour != "cyan" else "red"),
        edits.replaced(scene, 0, "flower" if first.category != "flower" else "cup"),
        edits.restyled(scene, "outlined" if scene.style != "outlined" else "flat"),
        edits.camera_zoomed(scene, 1.4),
        edits.with_background(scene, "grass" if scene.background.name != "grass" else "brick"),
    ]


def flow_picture(flow: Float[Tensor, "2 height width"], most: float = 6.0) -> Float[Tensor, "3 height width"]:
    """Direction as hue, length as saturation (full at `most` pixels); white is at rest."""
    hue = torch.atan2(flow[1], flow[0])
    length = (flow.square().sum(0).sqrt() / most).clamp(0.0, 1.0)
    colour = torch.stack([0.5 + 0.5 * torch.cos(hue - shift) for shift in (0.0, 2.094, 4.189)])
    return 1.0 - length * (1.0 - colour)


def _labels(ids: Tensor) -> Tensor:
    """A colour for each id; 0 is black."""
    colours = torch.stack([0.25 + 0.75 * ((ids * step) % 7) / 7.0 for step in (2, 3, 5)])
    return torch.where(ids > 0, colours, 0.0)


def _few_bits(sample_grid: Image) -> Image:
    """Rounded to 6 bits a channel, which no eye sees and PNG packs far better."""
    return Image((sample_grid.pixels * 63.0).round() / 63.0)


def write_sample_grids(directory: str | os.PathLike[str]) -> list[Path]:
    """Write `world-small.png`, `world-full.png`, `world-motion.png`, `world-truth.png` and `world-edits.png`.

    Files of these names are overwritten.
    """
    sample_grids = {
        "small": presets_sheet("small"),
        "full": presets_sheet("full"),
        "motion": motion_sheet(),
        "truth": truth_sheet(),
        "edits": edits_sheet(),
    }
    written = []
    for name, sample_grid in sample_grids.items():
        path = Path(directory) / f"world-{name}.png"
        with atomic_path(path, overwrite=True) as temporary:
            _few_bits(sample_grid).to_pil().save(temporary, optimize=True)
        written.append(path)
    return written
