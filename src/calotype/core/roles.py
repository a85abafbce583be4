"""What a method may ask of a checkpoint: its role, by name, and what it can do, by small protocols. `calotype.backbones` implements them.

A protocol that only one adapter's role has stands beside that adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from calotype.core.denoiser import Condition, Denoiser
from calotype.core.guidance import Guidance
from calotype.core.stepping import StepContext, StepControl
from calotype.imaging.types import Image, Video


@runtime_checkable
class CountingDenoiser(Denoiser, Protocol):
    """A denoiser that counts the network's evaluations."""

    @property
    def calls(self) -> int:
        """Samples that the network has evaluated so far: one row of one branch at one noise level is one call."""
        ...


@runtime_checkable
class BranchedDenoiser(CountingDenoiser, Protocol):
    """A denoiser over labelled branches that can also be asked for single ones."""

    def at(self, step: StepContext) -> Denoiser:
        """The denoiser in this step."""
        ...

    def estimates(self, inputs: Mapping[str, Tensor], sigma: float, step: StepContext | None = None) -> dict[str, Tensor]:
        """The estimate of x0 of each branch from its own noisy sample, without guidance; the batch holds them in this order."""
        ...


@runtime_checkable
class Denoises(Protocol):
    """What every diffusion checkpoint offers."""

    role: str
    """What it is for."""
    name: str
    """The name that it was loaded by."""
    size: tuple[int, int]
    """Height and width in pixels that the checkpoint was trained at."""

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """Noise levels of a sampling run, [num_inference_steps + 1], float64, falling; the last one is 0, or the lowest level where the
        checkpoint says so."""
        ...

    def init_noise_sigma(self, sigmas: Tensor) -> float:
        """What standard normal noise is multiplied by to start a run over these noise levels."""
        ...

    def denoiser(self, conditions: Mapping[str, Condition], guidance: Guidance, *, control: StepControl | None = None) -> CountingDenoiser:
        """A denoiser over the labelled branches. Each branch's condition has as many rows as the tensors to come. The control, if one is
        given, hears the step and the branches of every call of the network."""
        ...


@runtime_checkable
class HasLatents(Protocol):
    """Pictures have latents [B, C, h, w], scaled."""

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """[C, h, w] for a picture of that height and width."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [0, 1] to latents (the posterior's mode)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels [B, 3, H, W] in [0, 1]."""
        ...


@runtime_checkable
class HasText(Protocol):
    """Texts are read token by token."""

    name: str
    """The name that it was loaded by."""
    modules: dict[str, Any]
    """Networks and tokenizers by their names in model_index.json."""

    def condition(self, prompt: str | Sequence[str], *, size: tuple[int, int] | None = None) -> Condition:
        """One row per prompt; `text` [B, tokens, width] holds the tokens' states."""
        ...


@runtime_checkable
class HasAttention(Protocol):
    """The denoising network's attention can be watched and changed."""

    @property
    def unet(self) -> nn.Module:
        """The network."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...


@runtime_checkable
class TextToImage(Denoises, HasLatents, Protocol):
    """Prompt to picture: SD 1.x, SD 2.x, SDXL, toy-t2i."""

    max_rows: int | None
    """How many rows the network evaluates at once; None is all of them."""

    def with_max_rows(self, max_rows: int | None) -> Self:
        """The same model (same weights) with another bound on its rows."""
        ...

    def denoiser(self, conditions: Mapping[str, Condition], guidance: Guidance, *, control: StepControl | None = None) -> BranchedDenoiser:
        """See `Denoises`; single branches can be asked for, too."""
        ...

    def unconditional(self, condition: Condition) -> Condition:
        """As many rows of the model's own empty prompt."""
        ...

    def condition(self, prompt: str | Sequence[str], *, size: tuple[int, int] | None = None) -> Condition:
        """One row per prompt."""
        ...


@runtime_checkable
class ImageToVideo(Denoises, Protocol):
    """First frame to clip: SVD, SVD-XT, toy-i2v. Latents are [B, F, C, h, w], scaled."""

    num_frames: int
    """Frames that the checkpoint was trained for."""

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
        """One row. The image must already have the size that is sampled at; `seed` makes the augmentation noise.
        A checkpoint without a text encoder ignores `prompt` and says so."""
        ...

    def unconditional(self, condition: Condition) -> Condition:
        """The same rows with the image's embedding and latents zeroed, as classifier-free guidance asks for."""
        ...

    def latent_shape(self, num_frames: int | None = None, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        """[F, C, h, w] for a clip of that length, height and width."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Pixels [F, 3, H, W] in [0, 1] to latents [1, F, C, h, w] (the posterior's mode, scaled)."""
        ...

    def decode(self, latents: Tensor, fps: float) -> Video:
        """Latents [1, F, C, h, w] to a clip."""
        ...


@runtime_checkable
class DescriptorModel(Protocol):
    """Describes every place of a picture in two ways: by a diffusion network, and by a vision transformer."""

    role: str
    name: str
    """The name that it was loaded by."""

    def maps(self, image: Image) -> Mapping[str, Tensor]:
        """Features of a picture, "diffusion" and "vit", each [C, h, w]. A map covers its picture, and its features have any length."""
        ...
