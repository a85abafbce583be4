"""What the method needs around the look: sizes, overlays, and what is said of a model or a picture that doesn't fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Condition
from calotype.core.errors import InputError
from calotype.core.events import Events
from calotype.core.roles import TextToImage
from calotype.core.types import Image
from calotype.index import MODELS
from calotype.metrics import psnr

FAMILIAR_PSNR_DB = 27.0
"""The toy autoencoder rebuilds pictures of its own world at least this well."""


class Unsaved(Events):
    """Passes everything on but states: a run that goes on from the middle wouldn't have seen the beginning."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def stage(self, name: str, total: int | None = None) -> None:
        """Pass on."""
        self._events.stage(name, total)

    def step(self, advance: int = 1) -> None:
        """Pass on."""
        self._events.step(advance)

    def note(self, message: str) -> None:
        """Pass on."""
        self._events.note(message)

    def check(self) -> None:
        """Pass on."""
        self._events.check()


def working_size(model: TextToImage, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a picture is looked at: about the model's number of pixels, the picture's shape, sides it can take.

    Sides are multiples of twice the autoencoder's factor, at least a quarter of the model's own.
    """
    _, rows, _ = model.latent_shape()
    grain = 2 * model.size[0] // rows
    scale = (model.size[0] * model.size[1] / (size[0] * size[1])) ** 0.5
    least = max(grain, min(model.size) // 4)
    height, width = (max(least, round(side * scale / grain) * grain) for side in size)
    return height, width


def fitted(pictures: Float[Tensor, "batch 3 height width"], size: tuple[int, int]) -> Float[Tensor, "batch 3 h w"]:
    """Resized as a whole, nothing cut off, so that maps can be brought back."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return F.interpolate(pictures, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def overlay(picture: Float[Tensor, "3 height width"], values: Float[Tensor, "height width"]) -> Image:
    """A map in 0..1 as colours from blue through green to red, laid half over the grey picture."""
    grey = picture.mean(dim=0).expand(3, -1, -1)
    stops = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.6, 1.0], [0.2, 0.9, 0.4], [1.0, 0.9, 0.0], [0.8, 0.0, 0.0]])
    place = values.clamp(0, 1).cpu() * (len(stops) - 1)
    below = place.floor().long().clamp(max=len(stops) - 2)
    share = (place - below)[..., None]
    heat = ((1 - share) * stops[below] + share * stops[below + 1]).permute(2, 0, 1)
    return Image((0.5 * grey + 0.5 * heat).clamp(0, 1).float())


def refuse_other_roles(model: object) -> None:
    """Say why a model can't be used, before anything is computed.

    Raises:
        InputError: the model makes no pictures from text with a UNet.
    """
    needed = ("condition", "latent_shape", "encode", "decode", "sigmas", "denoiser", "unet", "modules")
    if all(hasattr(model, name) for name in needed) and "tokenizer" in model.modules and not hasattr(model, "num_frames"):  # type: ignore[attr-defined]
        return
    name = getattr(model, "name", type(model).__name__)
    raise InputError(f"{name} can't be used: ovam reads the cross-attention of a text-to-image UNet; take toy-t2i, SD 1.5, SD 2.1 or SDXL")


def note_unfamiliar(model: TextToImage, images: Sequence[Image], events: Events) -> None:
    """Tell the user of an embedded model when its autoencoder says that the picture is far from what it was trained on."""
    row = MODELS.get(model.name)
    if row is None or row.folder is None:
        return
    pixels = fitted(images[0].pixels[None], working_size(model, images[0].size))
    found = psnr(model.decode(model.encode(pixels)).cpu(), pixels).item()
    if found < FAMILIAR_PSNR_DB:
        public = " or ".join(other for other, known in MODELS.items() if known.role == row.role and known.folder is None)
        events.note(
            f"image: {model.name} was trained on drawn toy scenes and rebuilds this picture with only {found:.1f} dB (its own world:"
            f" {FAMILIAR_PSNR_DB:.0f} or more), so expect poor maps; for photographs take {public}"
        )


def unconditional(model: Any, condition: Condition) -> Condition:
    """The model's own empty prompt."""
    found: Condition = model.unconditional(condition)
    return found


def whole_batch(model: Any, events: Events) -> Any:
    """The model without a bound on its rows, since attention is read from all rows of one call."""
    if getattr(model, "max_rows", None) is None:
        return model
    events.note("max_rows is left aside: attention is read from all rows of one call")
    return model.with_max_rows(None)


def start_scale(model: Any, sigmas: Tensor) -> float:
    """What standard normal noise is multiplied by to start a run."""
    found: float = model.init_noise_sigma(sigmas)
    return found


def model_device(model: Any) -> torch.device:
    """Where the model's networks are."""
    found: torch.device = model.device
    return found
