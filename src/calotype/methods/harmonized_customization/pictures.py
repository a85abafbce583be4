"""The subject's picture: on the plain ground that the model's encoder knows, cut out by a mask or by its own plain ground."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask

PLAIN_SHARE, PLAIN_DISTANCE = 0.85, 0.06
"""A ground is plain where this share of the picture's border is within this distance of its middle colour, per channel in 0..1."""


def prepare_subject(
    image: Image, ground: tuple[float, float, float] | None, mask: Mask | None = None, *, name: str = "subject", events: Events = SILENT
) -> Image:
    """The subject on the ground that the model asks for; transparent pictures come on white, which is plain.

    Args:
        image: the picture.
        ground: sRGB in 0..1; None leaves the picture as it is, unless there is a mask, which then puts it on white.
        mask: where the subject is, of the picture's size or of another, which is resized.
        name: what messages call it.
        events: hears what was done.

    Raises:
        InputError: the model needs a plain ground, the picture has none, and there is no mask; or the mask is empty.
    """
    if mask is None and ground is None:
        return image
    colour = torch.tensor(ground or (1.0, 1.0, 1.0))[:, None, None]
    if mask is not None:
        inside = _resized(mask.values, image.size)
        if not bool(inside.any()):
            raise InputError(f"{name}: the mask is empty; give one that is white where the subject is")
        return Image(torch.where(inside, image.pixels, colour))
    middle = _plain_ground(image.pixels)
    if middle is None:
        raise InputError(
            f"{name}: the picture has no plain or transparent ground, and this model needs to know what is the subject; give --mask FILE, "
            "white where the subject is"
        )
    if bool(((middle - colour[:, 0, 0]).abs() < 0.01).all()):
        return image
    # The step between ground and subject is a pixel or two wide: its share of the ground's colour is replaced by the new ground's.
    distance = (image.pixels - middle[:, None, None]).abs().amax(0)
    share = ((distance - PLAIN_DISTANCE / 2) / PLAIN_DISTANCE).clamp(0, 1)
    events.note(f"{name}: its plain ground was replaced by the one that the model knows")
    return Image(torch.lerp(colour.expand_as(image.pixels), image.pixels, share))


def _plain_ground(pixels: Float[Tensor, "3 height width"]) -> Float[Tensor, " 3"] | None:
    """The ground's colour, None where the border isn't of one colour."""
    border = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], dim=1)
    middle = border.median(dim=1).values
    near = (border - middle[:, None]).abs().amax(0) <= PLAIN_DISTANCE
    return middle if float(near.float().mean()) >= PLAIN_SHARE else None


def _resized(mask: Bool[Tensor, "h w"], size: tuple[int, int]) -> Bool[Tensor, "height width"]:
    if tuple(mask.shape) == tuple(size):
        return mask
    return functional.interpolate(mask[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0] >= 0.5
