"""I2VGen-XL in the role `ImageToVideo`, on diffusers' `I2VGenXLUNet` (Zhang et al. 2023, arXiv 2311.04145); its pipeline isn't used.

The network keeps channels before frames; this adapter keeps the role's layout, [B, F, C, h, w], everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.backbones.text import encode_prompts
from calotype.backbones.video_diffusion import VideoDiffusion
from calotype.core.denoiser import Condition
from calotype.errors import InputError
from calotype.imaging.types import Image

NUM_FRAMES = 16
PUBLIC_SAMPLE_SIZE = 32
"""What diffusers' conversion writes into the public config; AnyV2V runs the checkpoint at 512 px."""


class I2VGenXL(VideoDiffusion):
    """I2VGen-XL: guided by a prompt, v-prediction, a schedule that ends in pure noise.

    Conditions hold `text` [B, tokens, width]; `image_embeddings` [B, 1, width], the picture's; `image_latents` [B, C, h, w], scaled; and
    `fps` [B].
    """

    needs_prompt = True
    """An empty prompt leaves guidance without a direction."""
    has_text = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        config = self.unet.config
        self.num_frames = NUM_FRAMES
        if config.sample_size == PUBLIC_SAMPLE_SIZE and self.latent_space.factor == 8:
            self.size = (512, 512)
        if config.in_channels != self.latent_space.channels:
            raise InputError(
                f"{self.name} takes {config.in_channels} input channels where I2VGen-XL's network takes {self.latent_space.channels};"
                " its config.json and its autoencoder don't belong together"
            )

    def condition(
        self,
        image: Image,
        *,
        prompt: str = "",
        fps: int = 8,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.0,
        seed: int = 0,
    ) -> Condition:
        """One row: what the clip starts from and what it shows.

        Args:
            image: at the size that is sampled at; sides are multiples of the autoencoder's factor.
            prompt: what the clip shows.
            fps: frames per second, 1 or more.
            motion_bucket_id, noise_aug_strength, seed: not known to this checkpoint.

        Raises:
            ShapeError: the size doesn't fit the autoencoder.
        """
        pixels = image.pixels.float()[None]
        self.latent_space.check_size((pixels.shape[-2], pixels.shape[-1]))
        with torch.no_grad():
            tensors = {
                "text": encode_prompts(self.modules["tokenizer"], self.modules["text_encoder"], [prompt], self.device).to(self.dtype),
                "image_embeddings": self.image_embedding(pixels).to(self.dtype),
                "image_latents": self.latent_space.encode(pixels).to(self.dtype),
                "fps": torch.tensor([fps], dtype=torch.float32, device=self.device),
            }
        return Condition(tensors)

    def image_embedding(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 width"]:
        """The vision encoder's projected embedding of the middle square of pixels in [0, 1], as one token."""
        encoder = self.modules["image_encoder"]
        side, short = encoder.config.image_size, min(pixels.shape[-2:])
        top, left = (pixels.shape[-2] - short) // 2, (pixels.shape[-1] - short) // 2
        square = pixels.float().cpu()[..., top : top + short, left : left + short]
        resized = functional.interpolate(square, size=(side, side), mode="bilinear", antialias=True)
        shift, scale = (torch.tensor(tuple(values)).view(1, 3, 1, 1) for values in (self._clip_mean, self._clip_std))
        embedding: Tensor = encoder(((resized - shift) / scale).to(self.device, encoder.dtype)).image_embeds
        return embedding[:, None]

    def unconditional(self, condition: Condition) -> Condition:
        """The same rows with the picture's embedding zeroed; text (the negative prompt's) and image latents stay."""
        tensors = condition.tensors
        return Condition({**tensors, "image_embeddings": torch.zeros_like(tensors["image_embeddings"])})

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = self.unet(
            model_input.transpose(1, 2).to(self.dtype),
            timestep,
            fps=tensors["fps"],
            image_latents=positioned(tensors["image_latents"], model_input.shape[1]).to(self.dtype),
            image_embeddings=tensors["image_embeddings"].to(self.dtype),
            encoder_hidden_states=tensors["text"].to(self.dtype),
            return_dict=False,
        )[0]
        return output.transpose(1, 2)


def positioned(latents: Float[Tensor, "batch channels h w"], frames: int) -> Float[Tensor, "batch channels frames h w"]:
    """The picture's latents as frame 0, and for every later frame a plane that says where in the clip it is: i / (frames - 1).

    Example:
        >>> import torch
        >>> positioned(torch.full((1, 1, 1, 1), 7.0), 3).flatten().tolist()
        [7.0, 0.5, 1.0]
    """
    places = torch.arange(1, frames, device=latents.device) / max(1, frames - 1)
    later = places.to(latents).view(1, 1, -1, 1, 1).expand(*latents.shape[:2], -1, *latents.shape[2:])
    return torch.cat([latents[:, :, None], later], dim=2)
