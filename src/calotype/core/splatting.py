"""Splatting: every pixel of a picture or feature map is thrown to where it goes, and shared among the four pixels about that place.

S. Niklaus, F. Liu: "Softmax Splatting for Video Frame Interpolation", CVPR 2020 (forward splatting), and A. Holynski et al.: "Animating
Pictures with Eulerian Motion Fields", CVPR 2021 (symmetric splatting), as StyleCineGAN uses it (Choi et al. 2024): without importance.

With p a pixel, F(p) its displacement and k the bilinear kernel,

    sum(x) = sum_p k(x - p - F(p)) f(p),   weight(x) = sum_p k(x - p - F(p))

    W(f)(x) = [(1 - a) sum_future(x) + a sum_past(x)] / [(1 - a) weight_future(x) + a weight_past(x)]

W is linear in f and the same for every channel, so that it commutes with any 1x1 convolution: W(A f) = A W(f). Where nothing arrives there
is a hole, which is filled from its neighbours; that is linear, too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError, ShapeError

EMPTY = 1e-6
"""A pixel that less than this weight arrives at is a hole: rounding leaves weights of about 1e-8."""
HOLE_WINDOW = 7
"""Side of the window, in pixels, whose mean fills a hole (official code: 7)."""
BORDER = 3 / 8
"""Most of a side that is mirrored beyond the border (official code: 3/8)."""


class Splatted(NamedTuple):
    """Maps after splatting."""

    values: Float[Tensor, "batch channels height width"]
    """Holes are filled."""
    holes: Bool[Tensor, "batch 1 height width"]
    """Where nothing arrived."""


def splat(
    values: Float[Tensor, "batch channels height width"], displacement: Float[Tensor, "batch 2 height width"]
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch 1 height width"]]:
    """The sums of what arrives at each pixel, and of the weights that it arrives with; what leaves the picture is lost.

    Args:
        values: maps of any number of channels.
        displacement: how far each pixel goes, in pixels, x to the right, then y down.

    Returns:
        Sums and weights, accumulated in float32 (float64 where that is given), in the same order every time on the CPU; on a GPU
        PyTorch's deterministic algorithms must be on for that, as they are in a run.

    Raises:
        ShapeError: maps and displacements of different sizes.

    Example:
        >>> picture, right = torch.tensor([[[[1.0, 2.0, 4.0]]]]), torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> sums, weights = splat(picture, right)
        >>> sums.flatten().tolist(), weights.flatten().tolist()
        ([0.5, 1.5, 3.0], [0.5, 1.0, 1.0])
    """
    if values.shape[0] != displacement.shape[0] or values.shape[2:] != displacement.shape[2:]:
        raise ShapeError(f"maps of shape {list(values.shape)} can't be splatted by displacements of shape {list(displacement.shape)}")
    batch, channels, height, width = values.shape
    kind = torch.promote_types(values.dtype, torch.float32)
    source = torch.cat([values.to(kind), values.new_ones(batch, 1, height, width, dtype=kind)], 1).flatten(2)
    # Whole and fractional part of the displacement, and not of the place: far from the corner float32 knows places less well.
    whole = displacement.floor()
    part = (displacement - whole).to(kind)
    columns = torch.arange(width, device=values.device) + whole[:, 0].long()
    rows = torch.arange(height, device=values.device)[:, None] + whole[:, 1].long()
    total = source.new_zeros(batch, channels + 1, height * width)
    for right in (0, 1):
        for down in (0, 1):
            weight = (part[:, 0] if right else 1 - part[:, 0]) * (part[:, 1] if down else 1 - part[:, 1])
            x, y = columns + right, rows + down
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            place = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)[:, None].expand(-1, channels + 1, -1)
            total.scatter_add_(2, place, source * (weight * inside).flatten(1)[:, None])
    total = total.view(batch, channels + 1, height, width)
    return total[:, :-1], total[:, -1:]


def forward_splat(
    values: Float[Tensor, "batch channels height width"], displacement: Float[Tensor, "batch 2 height width"], *, fill: bool = True
) -> Splatted:
    """Splatting by one displacement, over the weights: the picture as it is later, with holes where it came from.

    Args:
        values, displacement: see `splat`.
        fill: whether holes are filled; else they are 0.
    """
    return _normalised(*splat(values, displacement), fill=fill, dtype=values.dtype)


def symmetric_splat(
    values: Float[Tensor, "batch channels height width"], future: Float[Tensor, "batch 2 height width"],
    past: Float[Tensor, "batch 2 height width"], share: float, *, fill: bool = True,
) -> Splatted:  # fmt: skip
    """Splatting by two displacements that lead to the same moment, one from the loop's start and one from its end.

    What one leaves empty the other fills, and where both arrive the one that came the shorter way counts for more. With `share` 0 and a
    future of 0 the maps come back as they are, and with `share` 1 and a past of 0.

    Args:
        values: maps; beyond the border they and their displacements are mirrored, so that something flows in.
        future: displacements from the start of the loop to this moment, in pixels.
        past: displacements from its end back to this moment.
        share: which part of the loop is over, 0 to 1: the weight of `past`.
        fill: whether holes are filled; else they are 0.

    Raises:
        InputError: a share outside of 0 to 1.
        ShapeError: see `splat`.

    Example:
        >>> picture, zero = torch.arange(48.0).view(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)
        >>> bool((symmetric_splat(picture, zero, zero + 1.3, 0.0).values == picture).all())
        True
    """
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}; it must lie between 0 and 1")
    edge = _border(future, past)
    mirrored = _mirror(values, edge)
    parts = [(displacement, part) for displacement, part in ((future, 1.0 - share), (past, share)) if part]
    arrived = [(part, *splat(mirrored, _mirror(displacement, edge))) for displacement, part in parts]
    sums = torch.stack([part * total for part, total, _ in arrived]).sum(0)
    weights = torch.stack([part * weight for part, _, weight in arrived]).sum(0)
    rows, columns = (slice(side, side + length) for side, length in zip(edge, values.shape[2:], strict=True))
    return _normalised(sums[..., rows, columns], weights[..., rows, columns], fill=fill, dtype=values.dtype)


def fill_holes(
    values: Float[Tensor, "batch channels height width"], holes: Bool[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch channels height width"]:
    """Fill holes with the mean of what is known in a window about each pixel, from their rim inwards; a map that is one hole is left.

    Example:
        >>> picture, holes = torch.tensor([[[[1.0, 0.0, 3.0]]]]), torch.tensor([[[[False, True, False]]]])
        >>> fill_holes(picture, holes).flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    open_to = (~holes).flatten(1).any(1).view(-1, 1, 1, 1)
    known, kind = (~holes).to(values.dtype), values.dtype
    while bool((missing := (known == 0) & open_to).any()):
        sums = functional.avg_pool2d(values * known, HOLE_WINDOW, 1, HOLE_WINDOW // 2)
        weights = functional.avg_pool2d(known, HOLE_WINDOW, 1, HOLE_WINDOW // 2)
        reached = missing & (weights > 0)
        values = torch.where(reached, sums / weights.clamp_min(torch.finfo(kind).tiny), values)
        known = known.masked_fill(reached, 1.0)
    return values


def _normalised(sums: Tensor, weights: Tensor, *, fill: bool, dtype: torch.dtype) -> Splatted:
    holes = weights < EMPTY
    values = torch.where(holes, 0.0, sums / weights.clamp_min(EMPTY))
    return Splatted((fill_holes(values, holes) if fill else values).to(dtype), holes)


def _border(*displacements: Tensor) -> tuple[int, int]:
    """How many rows and columns beyond the border can reach into the picture."""
    farthest = [max(float(each[:, axis].abs().max()) for each in displacements) for axis in (1, 0)]
    sides = displacements[0].shape[2:]
    down, right = (min(math.ceil(far) + 1 if far else 0, int(side * BORDER)) for far, side in zip(farthest, sides, strict=True))
    return down, right


def _mirror(maps: Tensor, edge: tuple[int, int]) -> Tensor:
    down, right = edge
    return functional.pad(maps, (right, right, down, down), mode="reflect") if down or right else maps
