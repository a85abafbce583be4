"""Painting tissue: optical densities of two stains (Beer and Lambert's law), with textures, soft borders and sensor noise, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError
from calotype.world.painting.rng import Rng
from calotype.world.scenes.sampling import SPLITS
from calotype.world.tissue.measuring import hue_angle, light_density, stain_density
from calotype.world.tissue.sampling import READERS, VARIANTS, TissueScene

SENSOR = 83
"""Stream of the noise of one picture."""
DEPTH = 0.30
"""Standard deviation of a texture, in units of the density that it modulates."""
GREY, GREY_DEPTH = 0.55, 0.03
"""Mean brightness of a smooth picture, and its texture's standard deviation."""


@dataclass(frozen=True, eq=False)
class TissuePictures:
    """Painted pictures and everything that is known of them."""

    image: Float[Tensor, "pictures 3 height width"]
    """In [0, 1]."""
    mask: Int[Tensor, "pictures height width"]
    """The class that most readers would name, 0 the background."""
    coverage: Float[Tensor, "pictures classes height width"]
    """The share of readers who name each class; sums to 1."""
    annotators: Int[Tensor, "pictures readers height width"]
    """The classes that two readers named."""


def paint_tissue(scenes: Sequence[TissueScene], size: int = 64, *, device: str | torch.device = "cpu") -> TissuePictures:
    """Paint scenes of one variant.

    Args:
        scenes: one or more, all of one variant.
        size: side in pixels, 16 to 2048.
        device: where to paint.

    Raises:
        InputError: no scenes, several variants, a size out of range.

    Example:
        >>> from calotype.world.tissue.sampling import sample_tissue
        >>> made = paint_tissue([sample_tissue(split="tune", seed=1, index=0)], size=32)
        >>> tuple(made.image.shape), tuple(made.coverage.shape), tuple(made.annotators.shape)
        ((1, 3, 32, 32), (1, 3, 32, 32), (1, 2, 32, 32))
    """
    variants = {scene.layout.variant for scene in scenes}
    if len(variants) != 1:
        raise InputError(f"scenes of one variant are painted together, not {', '.join(sorted(variants)) or 'none at all'}")
    if not 16 <= size <= 2048:
        raise InputError(f"size must be 16 to 2048, not {size}")
    variant = VARIANTS[variants.pop()]
    device = torch.device(device)
    logits, labels, offsets = _outlines(scenes, size, device)
    coverage = _layered(torch.sigmoid(logits), labels, variant.num_classes)
    annotators = []
    for reader in range(READERS):
        counted = (logits + offsets[:, :, reader, None, None] > 0).float()
        annotators.append(_layered(counted, labels, variant.num_classes).argmax(1))
    speckles = _waves([scene.layout.speckles for scene in scenes], scenes, size, device)
    fibres = _waves([scene.layout.fibres for scene in scenes], scenes, size, device)
    stains = torch.tensor(variant.stains, device=device)
    texture = torch.cat([fibres, speckles, fibres], 1)[:, : variant.num_classes]
    grey = torch.tensor([scene.style.grey for scene in scenes], device=device)
    picture = _stained(scenes, coverage, stains, texture, device)
    if bool(grey.any()):
        picture = torch.where(grey[:, None, None, None], _grey(scenes, coverage, speckles, fibres, device), picture)
    picture = (picture + _noise(scenes, size, device)).clamp(0.0, 1.0)
    return TissuePictures(picture, coverage.argmax(1), coverage, torch.stack(annotators, 1))


def _numbers(values: object, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)


def _outlines(scenes: Sequence[TissueScene], size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each blob: distance inside its outline over its softness [N, blobs, H, W], class [N, blobs], readers' offsets [N, blobs, 2]."""
    most = max(len(scene.layout.blobs) for scene in scenes)
    table = np.zeros((len(scenes), most, 10 + READERS + 1))
    table[:, :, 2:4] = (-9.0, 1.0)  # rows without a blob: far outside
    for row, scene in enumerate(scenes):
        for place, blob in enumerate(scene.layout.blobs):
            waves = [part for amplitude, phase in blob.wobble for part in (amplitude * np.cos(phase), amplitude * np.sin(phase))]
            table[row, place] = [blob.x, blob.y, blob.radius, blob.softness, *waves, *blob.readers, blob.label]
    numbers = _numbers(table, device)
    steps = (torch.arange(size, device=device) + 0.5) / size
    part = [numbers[:, :, column, None, None] for column in range(10)]
    dx, dy = steps[None, None, None, :] - part[0], steps[None, None, :, None] - part[1]
    distance = (dx.square() + dy.square()).sqrt().clamp(min=1e-6)
    c, s = dx / distance, dy / distance
    c2, s2 = c * c - s * s, 2 * c * s
    c3, s3 = c2 * c - s2 * s, s2 * c + c2 * s
    c4, s4 = c2 * c2 - s2 * s2, 2 * c2 * s2
    outline = 1 + part[4] * c2 + part[5] * s2 + part[6] * c3 + part[7] * s3 + part[8] * c4 + part[9] * s4
    return (part[2] * outline - distance) / part[3], numbers[:, :, -1].long(), numbers[:, :, 10 : 10 + READERS]


def _layered(inside: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Shares of the classes [N, K, H, W] from shares of the blobs [N, blobs, H, W]: class 1 lies over class 2, which lies over 0."""
    left = torch.ones_like(inside[:, 0])
    shares = []
    for label in range(1, num_classes):
        outside = torch.where((labels == label)[:, :, None, None], 1.0 - inside, 1.0).prod(1)
        shares.append(left * (1.0 - outside))
        left = left * outside
    return torch.stack([left, *shares], 1)


def _waves(waves: Sequence[Sequence[tuple[float, float, float]]], scenes: Sequence[TissueScene], size: int, device: torch.device) -> Tensor:
    """A texture of standard deviation 1, [N, 1, H, W]: plane waves of the style's frequency."""
    table = np.array(waves)
    pulse = 2 * np.pi * table[:, :, 2] * np.array([scene.style.frequency for scene in scenes])[:, None]
    steps = (np.arange(size) + 0.5) / size
    across = (pulse * np.cos(table[:, :, 0]))[:, :, None] * steps
    down = (pulse * np.sin(table[:, :, 0]))[:, :, None] * steps + table[:, :, 1, None]
    # sin(p + q) = sin p cos q + cos p sin q, with p along the row and q down the column.
    columns = _numbers(np.concatenate([np.cos(down), np.sin(down)], 1), device)
    rows = _numbers(np.concatenate([np.sin(across), np.cos(across)], 1), device)
    made: Tensor = torch.bmm(columns.transpose(1, 2), rows)[:, None] * (2.0 / table.shape[1]) ** 0.5
    return made


def _stained(scenes: Sequence[TissueScene], coverage: Tensor, stains: Tensor, texture: Tensor, device: torch.device) -> Tensor:
    """Light that passes through two stains: exp(-(density of the light's colour + density of each stain x its colour))."""
    styles = [scene.style for scene in scenes]
    colours = _numbers(
        [[style.contrast * stain_density(hue_angle(hue)) for hue in (style.hue, style.second_hue)] for style in styles], device
    )
    light = _numbers([light_density(style.tint) for style in styles], device)
    local = coverage * (1.0 + DEPTH * texture.clamp(-2.5, 2.5))
    amounts = torch.einsum("nkhw,ks->nshw", local, stains)
    density = light[:, :, None, None] + torch.einsum("nshw,nsc->nchw", amounts, colours)
    passed: Tensor = torch.exp(-density)
    return passed


def _grey(scenes: Sequence[TissueScene], coverage: Tensor, speckles: Tensor, fibres: Tensor, device: torch.device) -> Tensor:
    """A smooth grey ground, and tissue that is a little darker and finer."""
    contrast = _numbers([[scene.style.contrast] for scene in scenes], device)[:, :, None, None]
    inside = 1.0 - coverage[:, :1]
    # The ground's texture is the fibres' at a third of its frequency: stretched, not drawn again.
    third = max(8, round(fibres.shape[-1] / 3))
    ground = functional.interpolate(fibres[:, :, :third, :third], size=fibres.shape[-2:], mode="bicubic", align_corners=False)
    return (GREY + GREY_DEPTH * ground * (1.0 - inside) + inside * (GREY_DEPTH * 0.6 * speckles - contrast)).expand(-1, 3, -1, -1)


def _noise(scenes: Sequence[TissueScene], size: int, device: torch.device) -> Tensor:
    """The sensor's noise, which belongs to the picture and not to its style; grey pictures have the same in every channel."""
    made = np.zeros((len(scenes), 3, size, size), dtype=np.float32)
    for row, scene in enumerate(scenes):
        if scene.style.noise == 0:
            continue
        layout = scene.layout
        uniform = Rng(SPLITS[layout.split], layout.seed, layout.index, SENSOR).block(2, 3 * size * size // 2 + 1)
        length = np.sqrt(-2.0 * np.log(np.maximum(uniform[0], 1e-12)))
        normal = np.concatenate([length * np.cos(2 * np.pi * uniform[1]), length * np.sin(2 * np.pi * uniform[1])])[: 3 * size * size]
        normal = normal.reshape(3, size, size)
        made[row] = scene.style.noise * (normal[:1] if scene.style.grey else normal)
    return torch.from_numpy(made).to(device)
