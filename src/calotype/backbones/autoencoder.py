"""The latent space: pixels in [0, 1] to scaled latents and back, in chunks and a safe precision; the role of a bare AutoencoderKL."""

from __future__ import annotations

import inspect
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.components import Components
from calotype.backbones.source import CheckpointSource
from calotype.core.offload import in_precision
from calotype.errors import ShapeError

PIXELS_PER_CHUNK = 8 * 576 * 1024
"""Pixels that are decoded at once unless a chunk size is given: 8 frames at SVD's size, every frame of a small clip."""


class LatentSpace:
    """An AutoencoderKL, AutoencoderKLTemporalDecoder or VQModel with its scaling. Latents are scaled, as the network sees them, and of a
    VQModel not yet rounded to its codes."""

    def __init__(self, vae: nn.Module, device: torch.device) -> None:
        self.vae = vae
        self.device = device
        config = cast(Any, vae).config
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        """Pixels per latent position along one axis."""
        self.channels: int = config.latent_channels
        self.scaling_factor: float = config.scaling_factor
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        self._mean = torch.tensor(mean).view(-1, 1, 1) if mean is not None and std is not None else torch.zeros(())
        self._std = torch.tensor(std).view(-1, 1, 1) if mean is not None and std is not None else torch.ones(())
        self._temporal = "num_frames" in inspect.signature(vae.forward).parameters

    @property
    def _dtype(self) -> torch.dtype:
        """Precision to run in: float16 overflows in most autoencoders of this family, which their config says."""
        own = next(self.vae.parameters()).dtype
        return torch.float32 if own == torch.float16 and cast(Any, self.vae).config.force_upcast else own

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ShapeError unless height and width are multiples of the factor."""
        if any(side % self.factor or side <= 0 for side in size):
            good = tuple(max(self.factor, round(side / self.factor) * self.factor) for side in size)
            raise ShapeError(
                f"a picture of {size[0]}x{size[1]} (height x width) was given; "
                f"sides must be multiples of {self.factor}, such as {good[0]}x{good[1]}"
            )

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """[C, h, w] of the latents of a picture of that height and width.

        Raises:
            ShapeError: a side is no multiple of the factor.
        """
        self.check_size(size)
        return self.channels, size[0] // self.factor, size[1] // self.factor

    def mode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """The posterior's mode of pixels in [-1, 1] (values outside are allowed: augmentation noise), not scaled, float32."""
        self.check_size((images.shape[-2], images.shape[-1]))
        chunk = max(1, PIXELS_PER_CHUNK // (images.shape[-1] * images.shape[-2]))
        dtype = self._dtype
        vae = cast(Any, in_precision(self.vae, dtype, self.device))
        encoded = [vae.encode(part.to(self.device, dtype)) for part in torch.split(images, chunk)]
        return torch.cat([found.latents if hasattr(found, "latents") else found.latent_dist.mode() for found in encoded]).float()

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """Pixels in [0, 1] to scaled latents (the posterior's mode), float32."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ShapeError(f"pixels of shape {list(images.shape)} were given; expected [batch, 3, height, width] in [0, 1]")
        latents = self.mode(images.float() * 2 - 1)
        return (latents - self._mean.to(latents)) * self.scaling_factor / self._std.to(latents)

    def decode(self, latents: Float[Tensor, "batch channels h w"], chunk_size: int | None = None) -> Float[Tensor, "batch 3 height width"]:
        """Scaled latents to pixels in [0, 1], float32.

        Args:
            latents: a batch of pictures, or the frames of one clip: a temporal decoder joins the frames of one chunk.
            chunk_size: pictures or frames that are decoded at once; None takes as many as `PIXELS_PER_CHUNK` allows.
        """
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise ShapeError(f"latents of shape {list(latents.shape)} were given; expected [batch, {self.channels}, h, w]")
        pixels = latents.shape[-1] * latents.shape[-2] * self.factor**2
        chunk = chunk_size or max(1, PIXELS_PER_CHUNK // pixels)
        raw = latents.float().to(self.device)
        raw = raw * self._std.to(raw) / self.scaling_factor + self._mean.to(raw)
        dtype = self._dtype
        vae = cast(Any, in_precision(self.vae, dtype, self.device))
        parts = []
        for part in torch.split(raw, chunk):
            extra = {"num_frames": part.shape[0]} if self._temporal else {}
            parts.append(vae.decode(part.to(dtype), **extra).sample.float())
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


class PictureLatents:
    """`calotype.core.roles.HasLatents` of an adapter that has a latent space and a size of its own."""

    latent_space: LatentSpace
    size: tuple[int, int]
    decode_chunk_size: int | None

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """[C, h, w] for a picture of that height and width (default: the size that the checkpoint was trained at).

        Raises:
            ShapeError: a side is no multiple of the autoencoder's factor.
        """
        return self.latent_space.shape(size or self.size)

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """Pixels in [0, 1] to scaled latents, the posterior's mode."""
        with torch.no_grad():
            return self.latent_space.encode(images)

    def decode(self, latents: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Scaled latents to pixels in [0, 1]. A gradient is kept only where the latents ask for one."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and latents.requires_grad):
            return self.latent_space.decode(latents, self.decode_chunk_size)


class Autoencoder(PictureLatents):
    """The role `Autoencoder`: one AutoencoderKL (toy-vae) or VQModel on its own. Latents are [B, C, h, w], scaled."""

    role = "Autoencoder"

    def __init__(self, source: CheckpointSource, vae: nn.Module, device: torch.device, *, decode_chunk_size: int | None = None) -> None:
        self.source = source
        self.name = source.name
        self.modules: dict[str, Any] = {"vae": vae}
        self.device = device
        self.latent_space = LatentSpace(vae, device)
        self.decode_chunk_size = decode_chunk_size
        side: int = cast(Any, vae).config.sample_size
        self.size = (side, side)

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        return cls(found.source, found.modules["vae"], found.device, decode_chunk_size=found.decode_chunk_size)

    @property
    def vae(self) -> Any:
        """The autoencoder, a stock diffusers module."""
        return self.modules["vae"]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        return {"vae": self.modules["vae"]}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return cast(torch.dtype, self.vae.dtype)
