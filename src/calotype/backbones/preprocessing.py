"""How a user's picture and a checkpoint suit each other: the size to work at, and whether the checkpoint knows such pictures at all."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor

from calotype.backbones.instruct_pix2pix import PictureEditor
from calotype.core.events import Events
from calotype.core.roles import ImageToVideo, TextToImage
from calotype.data.fitting import resize_pixels
from calotype.imaging.types import Image
from calotype.index import MODELS
from calotype.metrics import psnr

FAMILIAR_PSNR_DB = 27.0
"""The toy autoencoder rebuilds pictures of its own world at least this well (400 scenes of the tune split: at worst 28.0)."""


def working_size(model: TextToImage | PictureEditor, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a model works on a picture: about its own number of pixels, about the picture's shape, sides it can take.

    A picture of between half and 1.1 times the model's pixels, with sides that the network can halve as often as it does, keeps its size.
    No side gets shorter than a quarter of the model's shorter one, and no picture larger than four times the model's area.
    """
    factor = model.size[0] // model.latent_shape(model.size)[1]
    config = getattr(getattr(model, "unet", None), "config", None)
    multiple = factor * 2 ** (len(getattr(config, "block_out_channels", (1,))) - 1)
    area, own = model.size[0] * model.size[1], size[0] * size[1]
    if all(side % multiple == 0 for side in size) and 0.5 * area <= own <= 1.1 * area:
        return size
    scale = (area / own) ** 0.5
    least = max(1, round(min(model.size) / 4 / multiple))
    height, width = (max(least, round(side * scale / multiple)) * multiple for side in size)
    longest = 4 * area // (min(height, width) * multiple) * multiple
    return min(height, longest), min(width, longest)


def is_embedded(model: object) -> bool:
    """Whether a model is one of the small ones that come with the package."""
    row = MODELS.get(getattr(model, "name", ""))
    return row is not None and row.folder is not None


def note_unfamiliar(model: TextToImage | ImageToVideo, image: Image, events: Events, *, name: str, expect: str) -> None:
    """Tell the user of an embedded model when its autoencoder says that a picture is far from what it was trained on.

    Args:
        model: any model; nothing is computed for one that isn't embedded.
        image: the picture; a text-to-image model sees it at its `working_size`, an image-to-video model as it is.
        events: hears the note.
        name: what the note calls the picture.
        expect: what the user has to expect, such as "a poor clip".
    """
    if not is_embedded(model):
        return
    pixels = image.pixels[None]
    if model.role == "ImageToVideo":
        clips = cast(ImageToVideo, model)
        rebuilt: Float[Tensor, "1 3 height width"] = clips.decode(clips.encode(pixels), 1.0).frames
    else:
        pictures = cast(TextToImage, model)
        pixels = resize_pixels(pixels, working_size(pictures, image.size))
        rebuilt = pictures.decode(pictures.encode(pixels))
    found = psnr(rebuilt.cpu(), pixels.cpu()).item()
    if found < FAMILIAR_PSNR_DB:
        role = MODELS[model.name].role
        public = " or ".join(other for other, row in MODELS.items() if row.role == role and row.folder is None and not row.removed)
        events.note(
            f"{name}: {model.name} was trained on drawn toy scenes and rebuilds this picture with only {found:.1f} dB (its own world:"
            f" {FAMILIAR_PSNR_DB:.0f} or more), so expect {expect}; for photographs take {public}"
        )
