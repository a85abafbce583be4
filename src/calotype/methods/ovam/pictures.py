"""What a run shows: the picture, and each word's map laid over it and mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.imaging.files import file_stems
from calotype.imaging.types import Image, Mask
from calotype.methods.ovam.masks import scaled


def overlay(picture: Float[Tensor, "3 height width"], values: Float[Tensor, "height width"]) -> Image:
    """A map in 0..1 as colours from blue through green to red, laid half over the grey picture."""
    grey = picture.mean(dim=0).expand(3, -1, -1)
    stops = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.6, 1.0], [0.2, 0.9, 0.4], [1.0, 0.9, 0.0], [0.8, 0.0, 0.0]])
    place = values.clamp(0, 1).cpu() * (len(stops) - 1)
    below = place.floor().long().clamp(max=len(stops) - 2)
    share = (place - below)[..., None]
    heat = ((1 - share) * stops[below] + share * stops[below + 1]).permute(2, 0, 1)
    return Image((0.5 * grey + 0.5 * heat).clamp(0, 1).float())


def shown(
    picture: Float[Tensor, "3 height width"],
    words: Sequence[str],
    maps: Float[Tensor, "words height width"],
    masks: Bool[Tensor, "words height width"],
    threshold: float,
    events: Events = SILENT,
) -> dict[str, Image | Mask]:
    """What a run saves of a picture: the picture, and each word's overlay and mask; `events` hears the metric `peak_share WORD`."""
    found: dict[str, Image | Mask] = {"picture": Image(picture)}
    for name, word, one, mask in zip(file_stems(words), words, maps, masks, strict=True):
        events.metric(f"peak_share {word}", float(one.max()))
        if not bool(mask.any()):
            events.note(f"{word}: no pixel is above the threshold {threshold}, so its mask is empty")
        found[f"{name}-map"] = overlay(picture, scaled(one, "minmax"))
        found[f"{name}-mask"] = Mask(mask)
    return found
