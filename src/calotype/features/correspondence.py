"""Which place of one picture, or of one scene, is like a place of another: by the cosine of their features.

Features stand on the axis that `dim` says; all other axes are places: a map is [C, h, w], points of a scene are [N, C] with `dim=-1`.
Points of pictures are (x, y) in pixels, x to the right, y down, from the outer corner of the top left pixel: the middle of pixel (0, 0) is
(0.5, 0.5). A map covers its picture: cell (i, j) of [C, h, w] is the j-th of w equal parts across and the i-th of h equal parts down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.core.scene_fields import sample_map
from calotype.errors import InputError, ShapeError

DISC = 0.01
"""Radius of the disc about a click over which its features are averaged, in shares of the picture's longer side."""
CONTRAST_TEMPERATURE = 0.05
_LEAST = 1e-8


def normalized(features: Tensor, dim: int = 0) -> Tensor:
    """The same features with length 1, float32; features that are 0 stay 0."""
    return functional.normalize(features.float(), dim=dim, eps=_LEAST)


def descriptor_at(
    features: Float[Tensor, "channels height width"], point: tuple[float, float], size: tuple[int, int], *, radius: float | None = None
) -> Float[Tensor, " channels"]:
    """What a click is looked for by: the mean of the features in a small disc about it, with length 1.

    Args:
        features: a map that covers the picture.
        point: (x, y) in pixels.
        size: height and width of the picture.
        radius: of the disc in pixels; None takes a hundredth of the longer side. 0 takes the point alone.

    Raises:
        InputError: the point is outside of the picture.

    Example:
        >>> import torch
        >>> descriptor_at(torch.ones(4, 8, 8), (30, 10), (64, 64))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    x, y = float(point[0]), float(point[1])
    height, width = size
    if not (0 <= x <= width and 0 <= y <= height):
        raise InputError(f"the point {x:g},{y:g} is outside of the picture, which has {width}x{height} px (x,y from the top left)")
    reach = DISC * max(size) if radius is None else radius
    steps = torch.linspace(-1.0, 1.0, 5)
    offsets = torch.cartesian_prod(steps, steps)
    offsets = offsets[offsets.square().sum(1) <= 1.0] * reach
    points = (offsets + torch.tensor([x, y])).clamp(min=0.0).minimum(torch.tensor([float(width), float(height)]))
    return normalized(sample_map(features.float(), points, size).mean(0))


def cosine(features: Tensor, target: Float[Tensor, " channels"], *, dim: int = 0) -> Tensor:
    """Cosine between the features of each place and a descriptor, in float32 whatever their type; the axis `dim` is gone.

    Example:
        >>> import torch
        >>> cosine(torch.eye(3).reshape(3, 1, 3), torch.tensor([0.0, 2.0, 0.0]))
        tensor([[0., 1., 0.]])
    """
    if features.shape[dim] != target.shape[0]:
        raise ShapeError(f"features with {features.shape[dim]} channels and a descriptor with {target.shape[0]} can't be compared")
    found: Tensor = normalized(features, dim).movedim(dim, -1) @ normalized(target).to(features.device)
    return found


def contrasted(
    scores: Float[Tensor, "*places"], against: Sequence[Float[Tensor, "*places"]], temperature: float = CONTRAST_TEMPERATURE
) -> Tensor:
    """The share of a click among itself and negative clicks: softmax of their cosines over the temperature, in (0, 1).

    Example:
        >>> import torch
        >>> contrasted(torch.tensor([0.9, 0.5]), [torch.tensor([0.9, 0.9])])
        tensor([5.0000e-01, 3.3535e-04])
    """
    return (torch.stack([scores, *against]).float() / temperature).softmax(0)[0]


def standardized(scores: Float[Tensor, "*places"], where: Bool[Tensor, "*places"] | None = None) -> Float[Tensor, "*places"]:
    """z-scores: what is left after the mean over the places `where` is true, in standard deviations of these places."""
    chosen = scores if where is None else scores[where]
    if not chosen.numel():
        raise InputError("there is no place to compare over: the region is empty")
    return (scores - chosen.mean()) / chosen.std(correction=0).clamp(min=_LEAST)


def soft_argmax(scores: Float[Tensor, "rows columns"], *, window: int = 5, temperature: float = 0.05) -> tuple[float, float]:
    """Where a map is highest, between the cells: the softmax-weighted mean of places in a window about the highest cell.

    A window keeps a second, lower peak from pulling the place to where nothing is (Zhang et al. 2024, arXiv 2311.17034, section 4.3).

    Args:
        scores: cosines, or anything for which a difference of `temperature` is a clear one.
        window: cells along each side, odd.
        temperature: of the softmax; small values give the highest cell.

    Returns:
        (x, y) in cells: the middle of the cell (0, 0) is (0.5, 0.5).

    Example:
        >>> import torch
        >>> scores = torch.zeros(6, 6)
        >>> scores[2, 3:5] = 1.0
        >>> x, y = soft_argmax(scores, window=3, temperature=0.01)
        >>> round(x, 2), round(y, 2)
        (4.0, 2.5)
    """
    if window < 1 or window % 2 == 0:
        raise InputError(f"window is {window}; it must be odd, such as 5")
    rows, columns = scores.shape
    best = int(scores.argmax())
    row, column = divmod(best, columns)
    down = slice(max(0, row - window // 2), min(rows, row + window // 2 + 1))
    across = slice(max(0, column - window // 2), min(columns, column + window // 2 + 1))
    weights = (scores[down, across].float() / temperature).flatten().softmax(0).reshape(down.stop - down.start, across.stop - across.start)
    y = (weights.sum(1) * (torch.arange(down.start, down.stop, device=scores.device) + 0.5)).sum()
    x = (weights.sum(0) * (torch.arange(across.start, across.stop, device=scores.device) + 0.5)).sum()
    return float(x), float(y)


@dataclass(frozen=True)
class Peak:
    """A place whose score is the highest within some distance."""

    index: int
    """Of the place."""
    score: float


def cell_positions(grid: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "cells 2"]:
    """(x, y) in pixels of the middles of a map's cells, row by row.

    Example:
        >>> cell_positions((1, 2), (8, 32))
        tensor([[ 8.,  4.],
                [24.,  4.]])
    """
    rows, columns = ((torch.arange(cells) + 0.5) * (side / cells) for cells, side in zip(grid, size, strict=True))
    return torch.stack([columns.expand(grid[0], -1), rows[:, None].expand(-1, grid[1])], -1).reshape(-1, 2)


def relative_margin(scores: Float[Tensor, " places"], found: Sequence[Peak]) -> float:
    """How far the highest peak is above the second one, in shares of how far it is above the mean place: 0 is a tie, 1 no runner-up.

    Example:
        >>> import torch
        >>> scores = torch.tensor([1.0, 0.75, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0])
        >>> round(relative_margin(scores, [Peak(0, 1.0), Peak(1, 0.75)]), 3)
        0.333
    """
    if len(found) < 2:
        return 1.0
    above = found[0].score - float(scores.float().mean())
    return min(1.0, max(0.0, (found[0].score - found[1].score) / max(above, _LEAST)))


def best_buddies(first: Float[Tensor, "places channels"], second: Float[Tensor, "others channels"]) -> Int[Tensor, "pairs 2"]:
    """Pairs of places each of which is the other's nearest by cosine (Dekel et al. 2015), in the order of the first.

    Example:
        >>> import torch
        >>> best_buddies(torch.tensor([[1.0, 0.0], [0.9, 0.1]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        tensor([[0, 1]])
    """
    scores = normalized(first, 1) @ normalized(second, 1).T
    there, back = scores.argmax(1), scores.argmax(0)
    here = torch.arange(len(first), device=first.device)
    mutual = back[there] == here
    return torch.stack([here[mutual], there[mutual]], 1)


def joint_pca(maps: Sequence[Float[Tensor, "channels _rows _columns"]], components: int) -> list[Tensor]:
    """Maps in the principal components of all of them together: a basis of each map's own would make cosines between them meaningless.

    Args:
        maps: of the same channels; grids may differ.
        components: channels to keep; all are kept where there are no more.

    Returns:
        [components, h, w] each, the common mean taken off; each component's largest weight is positive, so that the result is repeatable.
    """
    if not maps or len({found.shape[0] for found in maps}) != 1:
        raise ShapeError("joint PCA needs maps of the same number of channels: compute all of them with one model")
    total = sum(found.shape[1] * found.shape[2] for found in maps)
    mean = torch.stack([found.double().flatten(1).sum(1) for found in maps]).sum(0)[:, None] / total
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for found in maps:  # one after the other: together they may take gigabytes
        centred = found.double().flatten(1) - mean
        covariance += centred @ centred.T / total
    _, vectors = torch.linalg.eigh(covariance)
    basis = vectors[:, -min(components, vectors.shape[1]) :].flip(1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * largest.sign()
    return [(basis.T @ (found.double().flatten(1) - mean)).float().unflatten(1, found.shape[1:]) for found in maps]
