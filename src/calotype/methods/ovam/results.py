"""What a run saves: the picture, and each word's map laid over it and mask."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from calotype.attention.overlays import RAINBOW, overlay
from calotype.core.events import SILENT, Events
from calotype.imaging.files import file_stems
from calotype.imaging.types import Image, Mask
from calotype.methods.ovam.masks import scaled


def shown(
    picture: Float[Tensor, "3 height width"],
    words: Sequence[str],
    maps: Float[Tensor, "words height width"],
    masks: Bool[Tensor, "words height width"],
    threshold: float,
    events: Events = SILENT,
) -> dict[str, Image | Mask]:
    """The picture, and each word's overlay and mask; `events` hears the metric `peak_share WORD`, and which mask is empty."""
    found: dict[str, Image | Mask] = {"picture": Image(picture)}
    for name, word, one, mask in zip(file_stems(words), words, maps, masks, strict=True):
        events.metric(f"peak_share {word}", float(one.max()))
        if not bool(mask.any()):
            events.note(f"{word}: no pixel is above the threshold {threshold}, so its mask is empty")
        found[f"{name}-map"] = Image(overlay(picture, scaled(one, "minmax"), RAINBOW, strength=0.5))
        found[f"{name}-mask"] = Mask(mask)
    return found
