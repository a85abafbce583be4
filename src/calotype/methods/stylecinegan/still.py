"""What stays of the picture: the size of the frames, and how what moves is laid over what doesn't."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from calotype.core.events import Events
from calotype.data import resize_pixels
from calotype.data.films import MAX_PIXELS
from calotype.imaging.types import Image, Mask


def fitting(picture: Image, frames: int, events: Events) -> Image:
    """The picture, made smaller where a clip of so many frames of it would be too large to be kept."""
    height, width = picture.size
    shrink = (MAX_PIXELS / (frames * height * width)) ** 0.5
    if shrink >= 1:
        return picture
    size = max(16, int(height * shrink)), max(16, int(width * shrink))
    events.note(
        f"image: {frames} frames of {width}x{height} px are more than {MAX_PIXELS // 1_000_000} million pixels; they get"
        f" {size[1]}x{size[0]} px"
    )
    return Image(resize_pixels(picture.pixels, size))


def blend_weights(moving: Mask, composite: str, feather: float) -> Float[Tensor, "height width"]:
    """How much of each pixel moves: 0 outside of the mask, 1 inside, with a ramp within the mask's rim for `soft`.

    Args:
        moving: what moves.
        composite: "soft", "hard" or "none", which is 1 everywhere.
        feather: width of the ramp in percent of the longer side. The picture's own border is no rim.

    Example:
        >>> half = Mask(torch.arange(8).expand(4, 8) >= 4)
        >>> blend_weights(half, "soft", 25.0)[0].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.3333333432674408, 0.6666666865348816, 1.0, 1.0]
    """
    inside = moving.values.cpu()
    if composite == "none":
        return torch.ones(moving.size)
    if composite == "hard" or bool(inside.all()):
        return inside.float()
    rim = torch.from_numpy(ndimage.distance_transform_edt(inside.numpy())).float()
    return (rim / (feather / 100 * max(moving.size) + 1)).clamp(0, 1)
