"""The painter's lower half: grounds as sums of plane waves, each a product of a row and a column of sines (one matrix product)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.world.painting.backgrounds import Background, Texture
from calotype.world.painting.motion import Array, Camera


def paint_grounds(
    grounds: Sequence[tuple[Background, Camera]], u: Array, size: int, device: torch.device
) -> Float[Tensor, "pictures channels height width"]:
    """Every ground as its camera sees it at the moments `u`: scene-major, [len(grounds) * len(u), 3, size, size], in 0..1.

    A camera that stands still has its ground painted once.
    """
    frames = len(u)
    which: list[int] = []
    views: list[list[float]] = []
    rows: list[int] = []
    for number, (_, camera) in enumerate(grounds):
        moved = camera.moves and frames > 1
        view = np.stack(np.broadcast_arrays(*camera.view(u if moved else u[:1])), axis=-1)
        rows += list(range(len(views), len(views) + frames)) if moved else [len(views)] * frames
        which += [number] * len(view)
        views += view.tolist()
    painted = _paint([grounds[number][0] for number in which], np.array(views), size, device)
    if len(views) == len(rows):
        return painted
    return painted.index_select(0, torch.tensor(rows, device=device))


def _paint(grounds: Sequence[Background], views: Array, size: int, device: torch.device) -> Tensor:
    steps = (np.arange(size) + 0.5) / size - 0.5
    x = views[:, 0, None] + steps / views[:, 2, None]
    y = views[:, 1, None] + steps / views[:, 2, None]
    ends = on_device(np.array([[ground.top, ground.bottom] for ground in grounds]), device)
    fall = on_device(y, device).clamp(-0.5, 1.5)[:, None, :, None]
    made = (ends[:, 0, :, None, None] + fall * (ends[:, 1] - ends[:, 0])[:, :, None, None]).expand(-1, -1, size, size)
    for layer in range(max(len(ground.textures) for ground in grounds)):
        textures = [ground.textures[layer] if layer < len(ground.textures) else None for ground in grounds]
        share = _share(textures, x, y, size, device)[:, None]
        colours = on_device(np.array([texture.colour if texture else (0.0, 0.0, 0.0) for texture in textures]), device)[:, :, None, None]
        made = torch.lerp(made, colours.expand_as(made), share.expand_as(made))
    return made.clamp(0.0, 1.0)


def _share(textures: Sequence[Texture | None], x: Array, y: Array, size: int, device: torch.device) -> Tensor:
    """How much of each pixel a texture's colour covers, [pictures, size, size]."""
    most = max(1, max(len(texture.waves) if texture else 0 for texture in textures))
    waves = np.zeros((len(textures), most, 4))
    settings = np.zeros((len(textures), 4))
    for row, texture in enumerate(textures):
        if texture is None:
            continue
        if texture.waves:
            waves[row, : len(texture.waves)] = texture.waves
        slope = texture.gain * (size / 64.0 if texture.sharp else 1.0)
        settings[row] = (slope, texture.strength, texture.rise, texture.level)
    # sin(p + q) = sin p cos q + cos p sin q, with p along the row and q down the column.
    across = 2.0 * math.pi * waves[:, :, 0, None] * x[:, None, :]
    down = 2.0 * math.pi * waves[:, :, 1, None] * y[:, None, :] + waves[:, :, 2, None]
    linear = settings[:, 2, None] * (y - settings[:, 3, None])
    columns = np.concatenate([waves[:, :, 3, None] * np.cos(down), waves[:, :, 3, None] * np.sin(down), linear[:, None]], axis=1)
    rows = np.concatenate([np.sin(across), np.cos(across), np.ones_like(across[:, :1])], axis=1)
    field = torch.bmm(on_device(columns, device).transpose(1, 2), on_device(rows, device))
    gain, strength = on_device(settings[:, 0], device)[:, None, None], on_device(settings[:, 1], device)[:, None, None]
    share: Tensor = field.mul_(gain).add_(0.5).clamp_(0.0, 1.0).mul_(strength)
    return share


def on_device(values: Array, device: torch.device) -> Tensor:
    """Numbers as float32 on a device."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
