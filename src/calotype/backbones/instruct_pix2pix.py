"""InstructPix2Pix in the role `PictureEditor`, on diffusers' own networks (Brooks et al. 2023, arXiv 2211.09800)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.autoencoder import PictureLatents
from calotype.backbones.base import DiffusionModel
from calotype.backbones.text import encode_prompts
from calotype.core.denoiser import Condition
from calotype.core.roles import Denoises
from calotype.core.schedule import SamplerName, start_scale
from calotype.errors import InputError


@runtime_checkable
class PictureEditor(Denoises, Protocol):
    """Picture and instruction to edited picture: InstructPix2Pix. Latents are [B, C, h, w], scaled."""

    def condition(self, images: Tensor, instruction: str) -> Condition:
        """One row per picture; pixels [B, 3, H, W] in [0, 1]."""
        ...

    def without_picture(self, condition: Condition) -> Condition:
        """The same rows without the picture."""
        ...

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """[C, h, w] for a picture of that height and width."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels [B, 3, H, W] in [0, 1]."""
        ...


class InstructPix2Pix(PictureLatents, DiffusionModel):
    """A picture and an instruction to the edited picture. Conditions hold `text` [B, tokens, width] and `image_latents` [B, C, h, w], not
    scaled, which stand beside the noisy latents."""

    role = "PictureEditor"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        channels = self.latent_space.channels
        if self.unet.config.in_channels != 2 * channels:
            raise InputError(
                f"{self.name} takes {self.unet.config.in_channels} input channels where an instruction checkpoint takes {2 * channels}"
                " (noisy latents beside the picture's); give an InstructPix2Pix checkpoint"
            )

    def condition(self, images: Float[Tensor, "batch 3 height width"], instruction: str) -> Condition:
        """One row per picture, pixels in [0, 1], all with the same instruction.

        Raises:
            ShapeError: a side is no multiple of the autoencoder's factor.
        """
        with torch.no_grad():
            text = encode_prompts(self.modules["tokenizer"], self.modules["text_encoder"], [instruction], self.device)
            latents = self.latent_space.mode(images.float() * 2 - 1)
        return Condition({"text": text.to(self.dtype).expand(len(images), -1, -1), "image_latents": latents.to(self.dtype)})

    def without_picture(self, condition: Condition) -> Condition:
        """The same rows with the picture's latents zeroed."""
        tensors = condition.tensors
        return Condition({**tensors, "image_latents": torch.zeros_like(tensors["image_latents"])})

    def init_noise_sigma(self, sigmas: Tensor, *, sampler: SamplerName = "euler") -> float:
        """The picture's own unit variance is counted in, whatever spacing the config names."""
        return start_scale(float(sigmas[0]), "leading")

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        beside = torch.cat([model_input.to(self.dtype), tensors["image_latents"].to(self.dtype)], dim=1)
        output: Tensor = self.unet(beside, timestep, encoder_hidden_states=tensors["text"].to(self.dtype), return_dict=False)[0]
        return output
