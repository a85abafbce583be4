"""Motion fields: where everything in a still picture flows. [2, h, w], x to the right, then y down, in pixels a frame of its own size.

A. Holynski, B. Curless, S. Seitz, R. Szeliski: "Animating Pictures with Eulerian Motion Fields", CVPR 2021: one field M that doesn't change
with time moves everything, so that the way of a pixel is found by following it,

    y(0) = x,   y(i + 1) = y(i) + M(y(i)),   F(0 -> t)(x) = y(t) - x,

and the way back from the loop's end by following -M.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError, ShapeError

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
"""Unit vectors, x to the right, y down."""
OUTLIER = 3.0
"""Vectors whose length lies farther than that many standard deviations from the mean are outliers (official advice: 3)."""


def resize_field(field: Float[Tensor, "*batch 2 height width"], size: tuple[int, int]) -> Float[Tensor, "*batch 2 new_height new_width"]:
    """A field or displacements at another size: the vectors become as much longer as the sides do, each axis by its own.

    Args:
        field: in pixels of its own size.
        size: new (height, width).

    Returns:
        In pixels of the new size; bilinear, averaged where it shrinks.

    Example:
        >>> resize_field(torch.ones(2, 8, 8), (4, 16))[:, 0, 0].tolist()
        [2.0, 0.5]
    """
    height, width = field.shape[-2:]
    if (height, width) == tuple(size):
        return field
    stacked = field.reshape(-1, 2, height, width)
    resized = functional.interpolate(stacked, size=tuple(size), mode="bilinear", antialias=True)
    longer = resized.new_tensor([size[1] / width, size[0] / height]).view(1, 2, 1, 1)
    return (resized * longer).reshape(*field.shape[:-2], *size)


def integrate(field: Float[Tensor, "batch 2 height width"], steps: int) -> list[Float[Tensor, "batch 2 height width"]]:
    """How far each pixel has come after 0, 1, ..., `steps` frames (Euler's method; the field is looked up bilinearly).

    Args:
        field: the motion; give its negative for the way back in time. What leaves the picture goes on as the border moves.
        steps: 0 or more.

    Returns:
        `steps` + 1 displacements in pixels, the first of which is 0.

    Raises:
        InputError: a negative number of steps, or a field with values that are no numbers.

    Example:
        >>> [float(way[0, 0, 2, 2]) for way in integrate(torch.full((1, 2, 5, 5), 0.5), 3)]
        [0.0, 0.5, 1.0, 1.5]
    """
    if steps < 0:
        raise InputError(f"steps is {steps}; it must be 0 or more")
    if not bool(field.isfinite().all()):
        raise InputError("the motion field has values that are NaN or infinite; replace them first")
    height, width = field.shape[2:]
    places = torch.stack(
        torch.meshgrid(torch.arange(width, device=field.device), torch.arange(height, device=field.device), indexing="xy")
    ).to(field)
    # Sides of one pixel have one place only, whatever the coordinate is.
    half = field.new_tensor([max(width - 1, 1), max(height - 1, 1)]).view(1, 2, 1, 1) / 2
    ways = [torch.zeros_like(field)]
    for _ in range(steps):
        grid = ((places + ways[-1]) / half - 1).permute(0, 2, 3, 1)
        step = functional.grid_sample(field, grid, mode="bilinear", padding_mode="border", align_corners=True)
        ways.append(ways[-1] + step)
    return ways


def uniform_field(direction: str, speed: float, size: tuple[int, int]) -> Float[Tensor, "2 height width"]:
    """The same motion everywhere.

    Args:
        direction: left, right, up, down, or degrees from the right counter-clockwise, as in "30".
        speed: pixels a frame.
        size: (height, width).

    Raises:
        InputError: another direction, or a speed that is negative or no number.

    Example:
        >>> uniform_field("left", 0.5, (1, 2)).flatten().tolist()
        [-0.5, -0.5, 0.0, 0.0]
    """
    if direction in DIRECTIONS:
        x, y = DIRECTIONS[direction]
    else:
        try:
            angle = math.radians(float(direction))
            x, y = math.cos(angle), -math.sin(angle)
        except ValueError:
            raise InputError(f"{direction!r} is no direction; give {', '.join(DIRECTIONS)}, or degrees from the right") from None
    if not (math.isfinite(x) and 0 <= speed < math.inf):
        raise InputError(f"the direction {direction} at {speed} pixels a frame is no motion; give a speed of 0 or more")
    return torch.tensor([x * speed, y * speed]).view(2, 1, 1).expand(2, *size).contiguous()


def spread(
    vectors: Float[Tensor, "2 height width"], known: Bool[Tensor, "height width"], region: Bool[Tensor, "height width"]
) -> Float[Tensor, "2 height width"]:
    """A smooth field in a region of which some pixels' vectors are known: the others are the mean of their neighbours (Laplace's equation).

    Nothing flows across the region's rim, so one known vector gives the same everywhere. Outside of the region, and in parts of it without
    a known vector, the field is 0.

    Args:
        vectors: read where `known`.
        known: some pixels.
        region: where things move.

    Raises:
        ShapeError: different sizes.

    Example:
        >>> known = torch.tensor([[True, False, False, True]])
        >>> spread(torch.tensor([[[0.0, 9.0, 9.0, 3.0]], [[0.0] * 4]]), known, torch.ones_like(known))[0].tolist()
        [[0.0, 1.0, 2.0, 3.0]]
    """
    from scipy import ndimage, sparse
    from scipy.sparse import linalg

    if vectors.shape[1:] != known.shape or known.shape != region.shape:
        raise ShapeError(f"vectors {list(vectors.shape)}, known {list(known.shape)} and region {list(region.shape)} differ in size")
    inside, given = region.cpu().numpy(), (known & region).cpu().numpy()
    parts, _ = ndimage.label(inside)
    free = np.isin(parts, np.unique(parts[given])) & inside & ~given
    field = np.where(given, vectors.detach().cpu().double().numpy(), 0.0)
    if free.any():
        number = np.full(inside.shape, -1)
        number[free] = np.arange(free.sum())
        neighbours = np.zeros(int(free.sum()))
        known_sums = np.zeros((2, int(free.sum())))
        rows, columns = [], []
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            shifted, linked = np.roll(number, step, axis), np.roll(free | given, step, axis)
            edge = [slice(None)] * 2
            edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
            linked[tuple(edge)] = False
            neighbours += linked[free]
            both = linked & free & (shifted >= 0)
            rows.append(number[both])
            columns.append(shifted[both])
            fixed = (linked & (shifted < 0))[free]
            known_sums += np.roll(field, step, axis + 1)[:, free] * fixed
        places = np.concatenate(rows), np.concatenate(columns)
        links = sparse.coo_matrix((np.ones(len(places[0])), places), shape=(len(neighbours), len(neighbours)))
        solved = linalg.splu((sparse.diags(neighbours) - links).tocsc()).solve(known_sums.T)
        field[:, free] = solved.T
    return torch.from_numpy(field).to(vectors)


def without_outliers(
    field: Float[Tensor, "2 height width"], region: Bool[Tensor, "height width"] | None = None, *, limit: float = OUTLIER
) -> Float[Tensor, "2 height width"]:
    """The field with vectors of unusual length replaced by what their neighbours say.

    Args:
        field: any; from optical flow, say.
        region: where things move, over which lengths are compared; outside of it the field is 0. Everywhere by default.
        limit: how many standard deviations from the mean are usual.

    Example:
        >>> field = torch.ones(2, 16, 16)
        >>> field[:, 3, 3] = 50.0
        >>> float(without_outliers(field).max())
        1.0
    """
    inside = torch.ones(field.shape[1:], dtype=torch.bool, device=field.device) if region is None else region
    lengths = field.square().sum(0).sqrt()
    if not bool(inside.any()):
        return torch.zeros_like(field)
    mean, deviation = lengths[inside].mean(), lengths[inside].std(correction=0)
    usual = inside & ((lengths - mean).abs() <= limit * deviation)
    return spread(field, usual, inside)
