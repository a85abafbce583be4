"""Clips of bouncing sprites, painted fast: each sprite is drawn once at every quarter of a pixel, and pasted from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError
from calotype.world.collisions.sampling import GROUNDS, IDENTITIES, RADII, SIDE, BouncingScene
from calotype.world.painting.backgrounds import Background
from calotype.world.painting.painter import paint
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.sampling import Scene, sample_scene

SIZE = int(SIDE)
FINE = 4
"""Parts of a pixel at which sprites are drawn."""
WINDOW = 24
"""Pixels of a sprite's square, which holds the largest one."""
_GROUND_SCENES = (0, 7, 22, 3, 11, 18)
"""Scenes of the preset `small` whose grounds these are: snow, snow, snow, night, night, night."""
_GROUND_SEED = 77
_ROWS = 512


@dataclass(frozen=True, eq=False)
class Sprites:
    """Every sprite at every radius and quarter of a pixel, and the grounds."""

    stamps: Float[Tensor, "identities radii fine fine channels window window"]
    """Colours times coverage, and coverage."""
    grounds: Float[Tensor, "grounds channels size size"]


@lru_cache(maxsize=1)
def sprites() -> Sprites:
    """Drawn by the world's painter, at four times the size."""
    stamps = torch.empty(len(IDENTITIES), len(RADII), FINE, FINE, 4, WINDOW, WINDOW)
    shades = [Background(name="snow", top=(value,) * 3, bottom=(value,) * 3) for value in (0.0, 1.0)]
    margin = (SIZE - WINDOW) * FINE // 2
    for number, (category, colour) in enumerate(IDENTITIES):
        for place, radius in enumerate(RADII):
            thing = SceneObject(category=category, colour=colour, x=0.5, y=0.5, radius=radius / SIZE)
            dark, bright = paint([Scene(objects=(thing,), background=shade) for shade in shades], size=SIZE * FINE)
            fine = torch.cat([dark, (1.0 - (bright - dark).mean(0, keepdim=True)).clamp(0, 1)])
            fine = fine[:, margin - FINE : -margin + FINE, margin - FINE : -margin + FINE]
            for down in range(FINE):
                for right in range(FINE):
                    cut = fine[:, FINE - down : FINE - down + WINDOW * FINE, FINE - right : FINE - right + WINDOW * FINE]
                    stamps[number, place, down, right] = functional.avg_pool2d(cut[None], FINE)[0]
    grounds = [sample_scene("small", split="train", seed=_GROUND_SEED, index=index, objects=0) for index in _GROUND_SCENES]
    return Sprites(stamps, paint(grounds[:GROUNDS], size=SIZE))


def paint_bouncing(scenes: Sequence[BouncingScene]) -> Float[Tensor, "batch frames 3 size size"]:
    """Clips at 64 px.

    Args:
        scenes: all with as many frames.

    Returns:
        sRGB in [0, 1], float32.

    Raises:
        InputError: no scenes, or of different lengths.

    Example:
        >>> from calotype.world.collisions.sampling import sample_bouncing
        >>> paint_bouncing([sample_bouncing(index=index, num_frames=4) for index in range(2)]).shape
        torch.Size([2, 4, 3, 64, 64])
    """
    frames = _frames(scenes)
    made = sprites().grounds[torch.tensor([scene.ground for scene in scenes])].repeat_interleave(frames, 0)
    clips: Tensor = _pasted(scenes, made).unflatten(0, (len(scenes), frames))
    return clips


def sprite_masks(scene: BouncingScene) -> Bool[Tensor, "frames sprites size size"]:
    """Which pixels show which sprite: its own coverage is half or more, and no later sprite's is."""
    covers = []
    for place in range(len(scene.sprites)):
        alone = BouncingScene(sprites=scene.sprites[place : place + 1], ground=scene.ground, num_frames=scene.num_frames)
        covers.append(_pasted([alone], torch.zeros(scene.num_frames, 4, SIZE, SIZE), paths=scene.paths()[None, :, place : place + 1])[:, 3])
    shown = torch.stack(covers, 1) >= 0.5
    later = shown.flip(1).cumsum(1).flip(1) - shown.long()
    return shown & (later == 0)


def _frames(scenes: Sequence[BouncingScene]) -> int:
    lengths = {scene.num_frames for scene in scenes}
    if len(lengths) != 1:
        raise InputError(f"scenes of {sorted(lengths) or 'no'} frames were given; give one or more scenes of one length")
    return lengths.pop()


def _pasted(scenes: Sequence[BouncingScene], canvas: Tensor, paths: np.ndarray | None = None) -> Tensor:
    """Pictures [scenes * frames, C, size, size] with the sprites over them, the first one undermost."""
    stamps, channels, frames = sprites().stamps, canvas.shape[1], len(canvas) // len(scenes)
    most = max(len(scene.sprites) for scene in scenes)
    made = functional.pad(canvas, (WINDOW,) * 4)
    wide = made.shape[-1]
    within = (torch.arange(WINDOW)[:, None] * wide + torch.arange(WINDOW)).flatten()
    places = paths if paths is not None else np.full((len(scenes), frames, most, 2), np.nan)
    if paths is None:
        for row, scene in enumerate(scenes):
            places[row, :, : len(scene.sprites)] = scene.paths()
    flat = made.flatten(2)
    for number in range(most):
        rows = [row for row, scene in enumerate(scenes) if number < len(scene.sprites)]
        who = torch.tensor([scenes[row].sprites[number].identity for row in rows]).repeat_interleave(frames)
        size = torch.tensor([RADII.index(scenes[row].sprites[number].radius) for row in rows]).repeat_interleave(frames)
        quarters = np.round(places[rows, :, number].reshape(-1, 2) * FINE).astype(int) - WINDOW * FINE // 2
        whole = np.floor_divide(quarters, FINE)
        part = torch.from_numpy(quarters - FINE * whole)
        corner = torch.from_numpy(np.clip(whole, -WINDOW, SIZE))
        rank = (torch.tensor(rows)[:, None] * frames + torch.arange(frames)).flatten()
        for some in torch.arange(len(rank)).split(_ROWS):
            stamp = stamps[who[some], size[some], part[some, 1], part[some, 0]].flatten(2)
            where = ((corner[some, 1] + WINDOW) * wide + corner[some, 0] + WINDOW)[:, None] + within
            index = where[:, None].expand(-1, channels, -1)
            below = flat[rank[some]]
            over = below.gather(2, index) * (1.0 - stamp[:, 3:]) + stamp[:, :channels]
            flat[rank[some]] = below.scatter(2, index, over)
    pictures: Tensor = flat.unflatten(2, (wide, wide))[:, :, WINDOW:-WINDOW, WINDOW:-WINDOW].clamp(0, 1)
    return pictures
