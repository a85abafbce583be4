"""What a method may ask of a checkpoint: one small protocol per role. `calotype.backbones` implements them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from calotype.core.denoiser import Condition, Denoiser
from calotype.core.guidance import Guidance
from calotype.imaging.types import Image, Video


@runtime_checkable
class CountingDenoiser(Denoiser, Protocol):
    """A denoiser that counts the network's evaluations."""

    @property
    def calls(self) -> int:
        """Samples that the network has evaluated so far: one row of one branch at one noise level is one call."""
        ...


@runtime_checkable
class Model(Protocol):
    """What every diffusion checkpoint offers."""

    name: str
    """The name that it was loaded by."""
    size: tuple[int, int]
    """Height and width in pixels that the checkpoint was trained at."""

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """Noise levels of a sampling run, [num_inference_steps + 1], float64, falling; the last one is 0, or the lowest level where the
        checkpoint says so."""
        ...

    def denoiser(self, conditions: Mapping[str, Condition], guidance: Guidance) -> CountingDenoiser:
        """A denoiser over the labelled branches. Each branch's condition has as many rows as the tensors to come."""
        ...


@runtime_checkable
class TextToImage(Model, Protocol):
    """Prompt to picture: SD 1.x, SD 2.x, SDXL, toy-t2i. Latents are [B, C, h, w], scaled."""

    max_rows: int | None
    """How many rows the network evaluates at once; None is all of them."""

    def with_max_rows(self, max_rows: int | None) -> TextToImage:
        """The same model (same weights) with another bound on its rows."""
        ...

    def init_noise_sigma(self, sigmas: Tensor) -> float:
        """What standard normal noise is multiplied by to start a run over these noise levels."""
        ...

    def unconditional(self, condition: Condition) -> Condition:
        """As many rows of the model's own empty prompt."""
        ...

    def condition(self, prompt: str | Sequence[str], *, size: tuple[int, int] | None = None) -> Condition:
        """One row per prompt."""
        ...

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
class SubjectToImage(TextToImage, Protocol):
    """Subject picture and prompt to picture: BLIP-Diffusion, toy-subject. Visual rows enter the text encoder among the words."""

    begin: int
    """Row of the conditioning at which the visual rows begin."""
    subject_word: str
    """What the subject is called where the user doesn't say; "" asks for a word."""
    plain_ground: tuple[float, float, float] | None
    """The sRGB ground that subject pictures must lie on; None takes any picture."""
    prompt_repetitions: int
    """How often the prompt is repeated, as the checkpoint was made for."""
    num_visual_rows: int
    """Of one subject."""
    text_length: int
    """Rows of a whole conditioning, the visual ones included."""
    special_ids: tuple[int, int, int]
    """Token ids of start, end and padding."""

    def subject_rows(self, subject: Image, word: str) -> Tensor:
        """The visual rows [1, num_visual_rows, width] of a subject that is called `word`."""
        ...

    def piece_ids(self, pieces: Sequence[str]) -> list[list[int]]:
        """The token ids of each word or mark, without start and end."""
        ...

    def word_rows(self, ids: Tensor) -> Tensor:
        """Word embeddings [B, n, width] of token ids [B, n], before the text encoder."""
        ...

    def encode_rows(self, ids: Tensor, rows: Tensor | None) -> Tensor:
        """Token ids [B, n], with visual rows among them, to what the cross attention reads: [B, text_length, width]."""
        ...


@runtime_checkable
class ImageToVideo(Model, Protocol):
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
class PictureEditor(Model, Protocol):
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


@runtime_checkable
class VolumePrior(Protocol):
    """An unconditional model of volumes, trained on windows of them: toy-qsm. Windows are [B, 1, *window], in units of `scale`."""

    name: str
    """The name that it was loaded by."""
    window: tuple[int, int, int]
    """Voxels that the network sees at once."""
    spacing: tuple[float, float, float]
    """Voxel size in mm that it was trained at."""
    scale: float
    """What is 1 for the network, in `unit`."""
    limit: float
    """Largest absolute value that its maps have, in `unit`."""
    unit: str
    """Of the volumes, such as "ppm"."""
    max_rows: int
    """Windows that the network evaluates at once."""

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """Noise levels of a sampling run, [num_inference_steps + 1], float64, falling, the last one 0; in units of `scale`."""
        ...

    def denoiser(self) -> CountingDenoiser:
        """A denoiser of windows."""
        ...
