"""What the method needs around the look: overlays, and runs that are watched whole."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import Events
from calotype.core.roles import TextToImage
from calotype.imaging.types import Image


def overlay(picture: Float[Tensor, "3 height width"], values: Float[Tensor, "height width"]) -> Image:
    """A map in 0..1 as colours from blue through green to red, laid half over the grey picture."""
    grey = picture.mean(dim=0).expand(3, -1, -1)
    stops = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.6, 1.0], [0.2, 0.9, 0.4], [1.0, 0.9, 0.0], [0.8, 0.0, 0.0]])
    place = values.clamp(0, 1).cpu() * (len(stops) - 1)
    below = place.floor().long().clamp(max=len(stops) - 2)
    share = (place - below)[..., None]
    heat = ((1 - share) * stops[below] + share * stops[below + 1]).permute(2, 0, 1)
    return Image((0.5 * grey + 0.5 * heat).clamp(0, 1).float())


def whole_batch(model: TextToImage, events: Events) -> TextToImage:
    """The model without a bound on its rows, since attention is read from all rows of one call."""
    if model.max_rows is None:
        return model
    events.note("max_rows is left aside: attention is read from all rows of one call")
    return model.with_max_rows(None)
