"""What the adapters of clips share, Stable Video Diffusion's and I2VGen-XL's: latents of clips, and the vision encoder's normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.base import DiffusionModel
from calotype.backbones.clip_image import CLIP_MEAN, CLIP_STD
from calotype.backbones.components import Components
from calotype.errors import ShapeError
from calotype.imaging.types import Video


class VideoDiffusion(DiffusionModel):
    """What models of clips share: latents [B, F, C, h, w], and a vision encoder's normalisation."""

    role = "ImageToVideo"
    num_frames: int
    """Frames that the checkpoint was trained for."""

    def __init__(self, *arguments: Any, image_processor: Mapping[str, Any] | None = None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        processor = image_processor or {}
        self._clip_mean = tuple(processor.get("image_mean") or CLIP_MEAN)
        self._clip_std = tuple(processor.get("image_std") or CLIP_STD)

    @classmethod
    def extra_arguments(cls, found: Components) -> dict[str, Any]:
        """How the vision encoder's pictures are normalised."""
        return {"image_processor": found.image_processor}

    def latent_shape(self, num_frames: int | None = None, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        """[F, C, h, w] for a clip of that length, height and width (default: what the checkpoint was trained for).

        Raises:
            ShapeError: a side is no multiple of the autoencoder's factor, or there are no frames.
        """
        shape = self.latent_space.shape(size or self.size)
        frames = self.num_frames if num_frames is None else num_frames
        if frames < 1:
            raise ShapeError(f"num_frames is {frames}; it must be at least 1")
        return (frames, *shape)

    def encode(self, frames: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "1 frames channels h w"]:
        """Pixels in [0, 1] to scaled latents, the posterior's mode."""
        with torch.no_grad():
            return self.latent_space.encode(frames)[None]

    def decode(self, latents: Float[Tensor, "1 frames channels h w"], fps: float) -> Video:
        """Scaled latents to a clip.

        A temporal decoder sees only the frames of one chunk at a time, so `with_decode_chunk_size` changes the seams slightly.

        Raises:
            ShapeError: more than one clip, or latents of another shape.
        """
        if latents.ndim != 5 or latents.shape[0] != 1:
            raise ShapeError(f"latents of shape {list(latents.shape)} were given; expected [1, frames, {self.latent_space.channels}, h, w]")
        with torch.no_grad():
            return Video(self.latent_space.decode(latents[0], self.decode_chunk_size).cpu(), fps)
