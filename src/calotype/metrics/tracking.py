"""Following one object of known colours through a clip whose background is known.

A pixel p over the background b that shows the object's colour c with opacity a is p = b + a (c - b). Solving for a by least squares says
where the object is, and also where it is a half-transparent ghost, as in a cross-fade.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

VISIBLE = 0.25
"""Opacity from which a pixel counts as the object. A cross-fade's two copies are both above it in the middle half of the clip."""
FAITHFUL = 0.2
"""Largest RGB distance, in [0, 1] units, of a pixel from the line between background and object colour."""
CONTRAST = 0.2
"""Smallest RGB distance between a colour and the background at which that colour can be told from it."""
SMALLEST_PART = 0.15
"""Components below this share of the true area are noise, not a part of the object."""
AREA_RANGE = (0.65, 1.35)
"""Area over true area of a picture with exactly one whole object."""


@dataclass(frozen=True)
class Track:
    """What was found in each frame of a clip."""

    centroids: NDArray[np.float64]
    """[frames, 2], x then y in pixels from the left upper corner; NaN where the object isn't found."""
    components: NDArray[np.int64]
    """[frames], number of separate parts of notable size."""
    areas: NDArray[np.float64]
    """[frames], pixels that show the object, weighted with nothing."""
    side: float
    """Half of it is the error of a frame in which the object isn't found, in pixels."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """[frames], whether there is an object."""
        return np.asarray(np.isfinite(self.centroids).all(axis=1))

    def steps(self) -> NDArray[np.float64]:
        """[frames - 1, 2], displacements between consecutive frames in pixels; NaN where either end isn't found."""
        return np.diff(self.centroids, axis=0)


def opacity(
    frames: Float[Tensor, "frames 3 height width"], background: Float[Tensor, "#frames 3 height width"], colours: Float[Tensor, "colours 3"]
) -> Float[Tensor, "frames height width"]:
    """How opaque the object is at each pixel, in [0, 1].

    Of the colours the one that explains the pixel best is taken. A pixel that none explains within `FAITHFUL`, or whose background
    is within `CONTRAST` of every colour, has opacity 0.

    Args:
        frames: the clip, pixels in [0, 1].
        background: the clean background behind the object in each frame (one frame, for all).
        colours: the colours that the renderer paints this object with.
    """
    difference = frames - background
    line = colours[:, None, :, None, None] - background[None]
    length = line.square().sum(dim=2).sqrt()
    amount = ((difference[None] * line).sum(dim=2) / length.clamp(min=1e-6).square()).clamp(0.0, 1.0)
    residual = (difference[None] - amount[:, :, None] * line).square().sum(dim=2).sqrt()
    residual = torch.where(length < CONTRAST, torch.inf, residual)
    best, index = residual.min(dim=0)
    return torch.where(best <= FAITHFUL, amount.gather(0, index[None])[0], 0.0)


def track(
    frames: Float[Tensor, "frames 3 height width"],
    background: Float[Tensor, "#frames 3 height width"],
    colours: Float[Tensor, "colours 3"],
    true_area: float,
) -> Track:
    """Follow the object through a clip.

    Args:
        frames: the clip, pixels in [0, 1].
        background: the clean background of each frame (or one for all), same range.
        colours: the object's colours by the renderer's palette.
        true_area: pixels that the whole object covers.

    Example:
        >>> import torch
        >>> frames = torch.zeros(2, 3, 8, 8)
        >>> frames[0, 0, 2:4, 2:4] = 1.0
        >>> frames[1, 0, 2:4, 4:6] = 1.0
        >>> found = track(frames, torch.zeros(1, 3, 8, 8), torch.tensor([[1.0, 0.0, 0.0]]), true_area=4)
        >>> found.steps().tolist()
        [[2.0, 0.0]]
    """
    shown = (opacity(frames, background, colours) >= VISIBLE).cpu().numpy()
    count, height, width = shown.shape
    centroids = np.full((count, 2), np.nan)
    components = np.zeros(count, dtype=np.int64)
    areas = np.zeros(count)
    for i, mask in enumerate(shown):
        labels, number = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
        notable = np.flatnonzero(sizes >= SMALLEST_PART * true_area)
        components[i] = len(notable)
        areas[i] = sizes[notable].sum()
        if len(notable):
            y, x = np.nonzero(labels == 1 + np.argmax(sizes))
            centroids[i] = x.mean(), y.mean()
    return Track(centroids, components, areas, float(max(height, width)))


def centroid_error(found: Track, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in pixels between the found and the true centroid of each frame; half the side where nothing is found.

    Args:
        found: the track of the clip.
        truth: [frames, 2], true centroids (x, y) in pixels.
    """
    return np.where(found.found, np.linalg.norm(found.centroids - truth, axis=1), found.side / 2)


def ghost_share(found: Track, true_area: float) -> float:
    """Share of the inner frames that don't show exactly one whole object: it is missing, doubled, torn or smeared.

    Args:
        found: the track of the clip.
        true_area: pixels that the whole object covers.
    """
    ratio = found.areas / true_area
    whole = (found.components == 1) & (ratio >= AREA_RANGE[0]) & (ratio <= AREA_RANGE[1])
    return float(1.0 - whole[1:-1].mean()) if len(whole) > 2 else float("nan")


def jump_ratio(found: Track) -> float:
    """The largest step of the centroid over its mean step: 1 for even motion, frames - 1 for a cut; NaN where nothing moves.

    A step from or to a frame without the object counts as half the side.
    """
    steps = found.steps()
    lengths = np.where(np.isfinite(steps).all(axis=1), np.linalg.norm(steps, axis=1), found.side / 2)
    mean = lengths.mean()
    return float(lengths.max() / mean) if mean > 0 else float("nan")


def monotonicity(found: Track, direction: NDArray[np.float64]) -> float:
    """Share of the steps that go forward, that is have a positive product with `direction`; a step that can't be seen doesn't.

    Args:
        found: the track of the clip.
        direction: [2], from the true first to the true last centroid.
    """
    with np.errstate(invalid="ignore"):
        return float((found.steps() @ direction > 0).mean())
