"""The role `ImageToVideo`: Stable Video Diffusion and the toy model of its shape, on diffusers' own networks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.clip_image import clip_pixels
from calotype.backbones.text import encode_prompts
from calotype.backbones.video_diffusion import VideoDiffusion
from calotype.core.denoiser import Condition
from calotype.core.noise import AUGMENTATION, noise
from calotype.errors import InputError
from calotype.imaging.types import Image

logger = logging.getLogger(__name__)

SVD_SAMPLE_SIZE = 96
"""What both public SVD configs say, although the models were trained at 576x1024."""


class StableVideoDiffusion(VideoDiffusion):
    """SVD, SVD-XT, toy-i2v.

    Conditions hold `context` [B, 1 + caption tokens, width], the picture's embedding followed by the caption's tokens where the folder has
    a text encoder; `image_latents` [B, C, h, w], not scaled, for every frame; and `added_time_ids` [B, 3]: fps - 1, motion bucket, strength
    of the augmentation noise.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        config = self.unet.config
        self.num_frames: int = config.num_frames
        if config.sample_size == SVD_SAMPLE_SIZE and self.latent_space.factor == 8:
            self.size = (576, 1024)
        if config.in_channels != 2 * self.latent_space.channels:
            raise InputError(
                f"{self.name} takes {config.in_channels} input channels where image-to-video takes {2 * self.latent_space.channels} "
                "(noisy latents beside the picture's); give an SVD checkpoint"
            )
        expected, given = self.unet.add_embedding.linear_1.in_features, 3 * config.addition_time_embed_dim
        if expected != given:
            raise InputError(
                f"{self.name}: projection_class_embeddings_input_dim is {expected}, but 3 x addition_time_embed_dim is {given}"
            )

    @property
    def has_text(self) -> bool:
        """Whether the checkpoint takes a prompt."""
        return "text_encoder" in self.modules

    def condition(
        self,
        image: Image,
        *,
        prompt: str = "",
        fps: int = 7,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.02,
        seed: int = 0,
    ) -> Condition:
        """One row: what the clip starts from.

        Args:
            image: at the size that is sampled at; sides are multiples of the autoencoder's factor.
            prompt: caption, for a checkpoint with a text encoder; others ignore it and log a warning.
            fps: frames per second, 1 or more.
            motion_bucket_id: amount of motion, 0 to 255.
            noise_aug_strength: standard deviation of the noise that is added to the picture's pixels in [-1, 1].
            seed: makes that noise.

        Raises:
            ShapeError: the size doesn't fit the autoencoder.
        """
        pixels = image.pixels.float()[None]
        self.latent_space.check_size((pixels.shape[-2], pixels.shape[-1]))
        with torch.no_grad():
            context = self.image_embedding(pixels)
            if self.has_text:
                text = encode_prompts(self.modules["tokenizer"], self.modules["text_encoder"], [prompt], self.device)
                context = torch.cat([context, text.to(context.dtype)], dim=1)
            elif prompt:
                logger.warning("%s has no text encoder: the prompt %r is ignored", self.name, prompt)
            disturbed = pixels.cpu() * 2 - 1 + noise_aug_strength * noise(pixels.shape[1:], seed, stream=AUGMENTATION)
            latents = self.latent_space.mode(disturbed)
        time_ids = torch.tensor([[fps - 1, motion_bucket_id, noise_aug_strength]], dtype=torch.float32, device=self.device)
        return Condition({"context": context.to(self.dtype), "image_latents": latents.to(self.dtype), "added_time_ids": time_ids})

    def image_embedding(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 width"]:
        """The vision encoder's projected embedding of pixels in [0, 1], as one token."""
        encoder = self.modules["image_encoder"]
        side = encoder.config.image_size
        prepared = clip_pixels(pixels.float().cpu(), (side, side), self._clip_mean, self._clip_std)
        embedding: Tensor = encoder(prepared.to(self.device, encoder.dtype)).image_embeds
        return embedding[:, None]

    def unconditional(self, condition: Condition) -> Condition:
        """The same rows with the picture's embedding and latents zeroed; the caption's tokens and the time ids stay."""
        context = condition.tensors["context"].clone()
        context[:, 0] = 0
        return Condition({**condition.tensors, "context": context, "image_latents": torch.zeros_like(condition.tensors["image_latents"])})

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        frames = model_input.shape[1]
        image_latents = tensors["image_latents"].to(self.dtype)[:, None].expand(-1, frames, -1, -1, -1)
        output: Tensor = self.unet(
            torch.cat([model_input.to(self.dtype), image_latents], dim=2),
            timestep,
            encoder_hidden_states=tensors["context"].to(self.dtype),
            added_time_ids=tensors["added_time_ids"].to(self.dtype),
            return_dict=False,
        )[0]
        return output
