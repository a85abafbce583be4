"""The role `LayoutStyleToImage`: a layout and style pictures to a picture, latents through any autoencoder (style-extracting diffusion).

model_index.json    `_class_name` is `LayoutStylePipeline`, with the facts of the training's pictures (`PictureFacts`)
unet, conditioner   diffusers' UNet2DModel and `calotype.backbones.style_network`
vae                 an AutoencoderKL or VQModel
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.backbones.autoencoder import PictureLatents
from calotype.backbones.base import DiffusionModel
from calotype.backbones.components import Components
from calotype.backbones.quantized import save_quantized
from calotype.backbones.segmenter_network import AGAIN, PictureFacts
from calotype.backbones.style_network import NULL_STYLE, StyleConditioner, run_unet
from calotype.core.denoiser import Condition
from calotype.core.roles import Denoises
from calotype.data.raw import Intensity
from calotype.errors import InputError, ShapeError

PIPELINE = "LayoutStylePipeline"


@runtime_checkable
class LayoutStyleToImage(Denoises, Protocol):
    """Layout and style pictures to picture."""

    num_classes: int
    """Of the layouts, with the background."""
    class_values: tuple[int, ...]
    """Each class's value in the masks of the training."""
    size: tuple[int, int]
    """Height and width that it was trained at."""
    intensity: Intensity
    """How the training's files became [0, 1]."""

    def condition(self, layouts: Tensor, styles: Tensor | None) -> Condition:
        """Class numbers [B, H, W] and style pictures [B, K, 3, h, w] in [0, 1]; None is no style."""
        ...

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """[C, h, w] of the latents of a picture of that height and width."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels in [0, 1]."""
        ...


class LayoutStyleDiffusion(PictureLatents, DiffusionModel):
    """A `LayoutStylePipeline` folder. See `LayoutStyleToImage`."""

    role = "LayoutStyleToImage"

    def __init__(self, *arguments: Any, facts: PictureFacts, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if facts.spatial_dims != 2:
            raise InputError(f"model_index.json says window {list(facts.window)}; height and width are expected: {AGAIN}")
        self.size = (facts.window[0], facts.window[1])
        self.class_values, self.num_classes = facts.class_values, facts.num_classes
        self.intensity = Intensity.of_json(facts.intensity) if facts.intensity else Intensity(8, 0, 255)

    @classmethod
    def extra_arguments(cls, found: Components) -> dict[str, Any]:
        return {"facts": PictureFacts.of_index(found.index)}

    @property
    def conditioner(self) -> StyleConditioner:
        """Makes layout channels and style vectors."""
        conditioner: StyleConditioner = self.modules["conditioner"]
        return conditioner

    def condition(
        self, layouts: Int[Tensor, "batch height width"], styles: Float[Tensor, "batch count 3 side_0 side_1"] | None
    ) -> Condition:
        """What the network is given of layouts (class numbers) and of style pictures in [0, 1]; None is no style.

        Raises:
            ShapeError: shapes that don't fit, or a class that the model doesn't know.
        """
        if layouts.ndim != 3 or int(layouts.max()) >= self.num_classes or int(layouts.min()) < 0:
            wanted = f"[batch, height, width] of 0 to {self.num_classes - 1}"
            raise ShapeError(f"layouts are {list(layouts.shape)} with values up to {int(layouts.max())}; {wanted} is expected")
        if styles is not None and len(styles) != len(layouts):
            raise ShapeError(f"there are {len(layouts)} layouts and {len(styles)} sets of style pictures; give as many")
        kept = self.conditioner
        pictures = torch.full((len(layouts), kept.config.num_styles, 3, 32, 32), NULL_STYLE) if styles is None else styles.float() * 2 - 1
        with torch.no_grad():
            channels = kept.layout_channels(one_hot(layouts, self.num_classes).to(self.device, kept.dtype))
            style = kept(pictures.to(self.device, kept.dtype))
        return Condition({"layout": channels, "style": style})

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        sample = torch.cat([model_input.to(self.dtype), tensors["layout"].to(self.dtype)], 1)
        return run_unet(self.unet, self.conditioner, sample, timestep, tensors["style"].to(self.dtype)).float()


def one_hot(layouts: Int[Tensor, "batch height width"], num_classes: int) -> Float[Tensor, "batch classes height width"]:
    """A channel for each class; class number -1, the unknown, is 0 in all.

    Example:
        >>> one_hot(torch.tensor([[[0, 1, -1]]]), 2)[0, :, 0].tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    found = functional.one_hot(layouts.clamp(min=0).long(), num_classes).movedim(-1, 1).float()
    return found * (layouts >= 0)[:, None]


def save_parts(
    folder: Path, *, unet: Any, conditioner: StyleConditioner, vae: Any, scheduler: Any, facts: PictureFacts,
    rounded: bool = False,
) -> None:  # fmt: skip
    """Write the folder; `scheduler` is a diffusers scheduler. `rounded` stores the weights in 8 bits, otherwise float16."""
    from calotype.backbones.folder import ROUNDED

    folder.mkdir(parents=True, exist_ok=True)
    for name, network in (("unet", unet), ("conditioner", conditioner), ("vae", vae)):
        if rounded:
            network.save_config(folder / name)
            save_quantized(network.state_dict(), folder / name / ROUNDED)
        else:
            # diffusers' own `to` warns of modules to keep in float32, of which there are none.
            torch.nn.Module.to(network, torch.float16)
            network.save_pretrained(folder / name, safe_serialization=True)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": PIPELINE,
        **facts.entries(),
        "conditioner": ["calotype", "StyleConditioner"],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", type(vae).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
