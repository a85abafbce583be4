"""From a soft map to a mask: one threshold rule, refinement by self-attention, by the picture's edges, and by a dense random field."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from calotype.errors import InputError
from calotype.methods.ovam.maps import resize

Scaling = Literal["max", "minmax"]
Refinement = Literal["none", "guided", "crf"]
FIELD_SIDE = 48
"""Longest side in pixels at which the random field is solved; its pairs of pixels are then 48^4 numbers at most."""


def scaled(maps: Float[Tensor, "*batch height width"], scaling: Scaling) -> Float[Tensor, "*batch height width"]:
    """Each map over its largest value ("max", the official code) or from its least to its largest value ("minmax"), so that it ends at 1.

    A map that is 0, or without any contrast, becomes 0.

    Example:
        >>> scaled(torch.tensor([[1.0, 2.0, 4.0]]), "max").tolist()
        [[0.25, 0.5, 1.0]]
    """
    low = maps.amin(dim=(-2, -1), keepdim=True) if scaling == "minmax" else torch.zeros_like(maps[..., :1, :1])
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return torch.where(span > 1e-12, (maps - low) / span.clamp(min=1e-12), 0.0)


def received(attention: Float[Tensor, "batch height width"], least: float, size: tuple[int, int]) -> Float[Tensor, "batch height width"]:
    """The factor by which self-attention refines a map: 1 where a pixel is attended to least, `least` where it is most.

    Backgrounds are attended to from everywhere; things mostly from themselves.

    Args:
        attention: column sums of the self-attention, how much all pixels together look at each.
        least: the smallest factor.
        size: height and width to bring it to.
    """
    return least + (1 - least) * resize(scaled(-attention, "minmax")[:, None], size)[:, 0]


def guided_filter(
    values: Float[Tensor, "height width"], picture: Float[Tensor, "3 height width"], radius: int, softness: float
) -> Float[Tensor, "height width"]:
    """The map as a locally linear function of the picture's colours, so that its edges become the picture's (He et al. 2013, eq. 19).

    Args:
        values: the map.
        picture: in [0, 1].
        radius: of the square windows in pixels; they are 2 radius + 1 wide.
        softness: variance of colour, in [0, 1]^2, below which a window counts as flat.
    """
    guide = picture.double().cpu().numpy()
    soft = values.double().cpu().numpy()

    def mean(array: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.asarray(ndimage.uniform_filter(array, 2 * radius + 1, axes=(-2, -1), mode="nearest"))

    centre, level = mean(guide), mean(soft)
    spread = mean(guide[:, None] * guide[None]) - centre[:, None] * centre[None]
    spread[range(3), range(3)] += softness
    together = mean(guide * soft) - centre * level
    slope = np.linalg.solve(spread.transpose(2, 3, 0, 1), together.transpose(1, 2, 0)[..., None])[..., 0].transpose(2, 0, 1)
    offset = level - (slope * centre).sum(axis=0)
    return torch.from_numpy((mean(slope) * guide).sum(axis=0) + mean(offset)).to(values)


def dense_field(
    probability: Float[Tensor, "height width"],
    picture: Float[Tensor, "3 height width"],
    *,
    iterations: int = 5,
    appearance: float = 10.0,
    reach: float = 80.0,
    colour: float = 13.0,
    smoothness: float = 3.0,
    nearness: float = 3.0,
) -> Float[Tensor, "height width"]:
    """Mean-field inference in a fully connected random field (Kraehenbuehl and Koltun 2011) with every pair of pixels, on a small grid.

    The defaults are those of OVAM's experiments: lengths in pixels of a 512 px picture, colours in 0..255. A picture whose longer side is
    over `FIELD_SIDE` is solved small and brought back by the guided filter.

    Args:
        probability: of the object at each pixel, in [0, 1].
        picture: in [0, 1].
        iterations: of the mean field.
        appearance, reach, colour: weight and deviations (place, colour) of the pull between pixels of like colour.
        smoothness, nearness: weight and deviation of the pull between neighbours.

    Returns:
        The probability of the object after the iterations.
    """
    height, width = probability.shape
    shrink = min(1.0, FIELD_SIDE / max(height, width))
    small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    start = resize(probability[None, None].float(), small)[0, 0].cpu().flatten().clamp(1e-4, 1 - 1e-4)
    colours = resize(picture[None].float(), small)[0].cpu().flatten(1).T * 255
    rows, columns = torch.meshgrid(torch.arange(small[0]), torch.arange(small[1]), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1).float() * (512 / max(small))
    apart = torch.cdist(places, places).square()
    alike = torch.exp(-apart / (2 * reach**2) - torch.cdist(colours, colours).square() / (2 * colour**2))
    near = torch.exp(-apart / (2 * nearness**2))
    pull = appearance * _weights(alike) + smoothness * _weights(near)
    evidence = torch.stack([1 - start, start], dim=1).log()
    belief = evidence.softmax(dim=1)
    for _ in range(iterations):
        belief = (evidence + pull @ belief).softmax(dim=1)
    found = belief[:, 1].view(small)
    if small == (height, width):
        return found.to(probability)
    back = resize(found[None, None], (height, width))[0, 0]
    return guided_filter(back, picture, max(1, round(max(height, width) / FIELD_SIDE)), 1e-4).clamp(0, 1).to(probability)


def _weights(kernel: Tensor) -> Tensor:
    """Symmetric normalisation without a pixel's pull on itself, as in the authors' code."""
    kernel = kernel - torch.diag(kernel.diagonal())
    norm = (kernel.sum(dim=1) + 1e-20).rsqrt()
    return norm[:, None] * kernel * norm[None]


def to_mask(
    values: Float[Tensor, "height width"],
    picture: Float[Tensor, "3 height width"] | None = None,
    *,
    threshold: float,
    scaling: Scaling = "minmax",
    refine: Refinement = "none",
) -> Bool[Tensor, "height width"]:
    """Scale, refine, cut.

    Args:
        values: the word's shares, already of the picture's size.
        picture: in [0, 1]; needed to refine.
        threshold: of the scaled map.
        scaling: see `scaled`.
        refine: "guided" filters the scaled map before the cut; "crf" takes the mask as the random field's evidence, as OVAM does.

    Raises:
        InputError: refinement without a picture, or one of another size.

    Example:
        >>> to_mask(torch.tensor([[0.1, 0.2, 0.4]]), threshold=0.5).tolist()
        [[False, False, True]]
    """
    soft = scaled(values, scaling)
    if refine == "none":
        return soft > threshold
    if picture is None or tuple(picture.shape[-2:]) != tuple(values.shape):
        given = "no picture was given" if picture is None else f"the picture is {picture.shape[-1]}x{picture.shape[-2]}"
        raise InputError(f"to refine a map of {values.shape[1]}x{values.shape[0]} px its picture is needed in that size; {given}")
    side = max(values.shape)
    if refine == "guided":
        return scaled(guided_filter(soft, picture, max(1, side // 8), 1e-3), scaling) > threshold
    # The binary mask as 90 % evidence; the official code gives the field 0 and 1, which its logarithm has to clip.
    evidence = torch.where(soft > threshold, 0.9, 0.1)
    return dense_field(evidence, picture) > 0.5


def cut(
    maps: Float[Tensor, "batch words height width"],
    pictures: Float[Tensor, "batch 3 height width"],
    refined: Float[Tensor, "batch words height width"] | None = None,
    *,
    compete: bool = False,
    threshold: float,
    scaling: Scaling = "minmax",
    refine: Refinement = "none",
) -> Bool[Tensor, "batch words height width"]:
    """`to_mask` for all words of all pictures.

    Args:
        maps: the words' shares.
        pictures: of the same size.
        refined: what to cut in the maps' place.
        compete: a pixel also has to prefer its word to all others, and to an even share (1 over words plus one).
        threshold, scaling, refine: see `to_mask`.
    """
    rows = []
    for row, picture in zip(maps if refined is None else refined, pictures, strict=True):
        rows.append(torch.stack([to_mask(one, picture, threshold=threshold, scaling=scaling, refine=refine) for one in row]))
    found = torch.stack(rows)
    if compete and maps.shape[1] > 1:
        found = found & (maps == maps.amax(dim=1, keepdim=True)) & (maps > 1 / (maps.shape[1] + 1))
    return found
