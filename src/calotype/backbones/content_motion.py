"""The role `ContentMotionVideo`: a caption to a content frame, and a content frame to motion, which together are a clip (CMD).

model_index.json    `_class_name` is `ContentMotionPipeline`; the facts of the clips (`ClipFacts`)
unet, text_encoder, tokenizer, scheduler    the content model: a Stable Diffusion whose pictures are content frames
vae                 an AutoencoderKL, frame by frame
autoencoder, motion_network    `calotype.backbones.content_motion_network`
motion_scheduler    the motion network's noise levels, a scheduler's config

The three networks of the clip (unet, autoencoder, motion_network) can be replaced one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calotype.backbones.base import DiffusionModel
from calotype.backbones.components import Components
from calotype.backbones.content_motion_network import ContentMotion, ContentMotionAutoencoder, Motion, MotionDiT
from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.quantized import save_quantized
from calotype.backbones.text import encode_tokens, tokenize
from calotype.backbones.text_to_image import StableDiffusion
from calotype.core.denoiser import Condition
from calotype.core.roles import TextToImage
from calotype.errors import InputError

PIPELINE = "ContentMotionPipeline"
AGAIN = "train the checkpoint again, or fetch it again"


@dataclass(frozen=True)
class ClipFacts:
    """What model_index.json says of the clips that a checkpoint was trained on, and of their motion.

    Raises:
        InputError: an impossible value.
    """

    num_frames: int
    """F."""
    fps: float
    """Frames per second of the training's excerpts."""
    motion_mean: tuple[float, ...]
    """Of each of the motion's channels over the training's clips."""
    motion_std: tuple[float, ...]
    trained: tuple[str, ...] = ("autoencoder", "content", "motion")
    """Which networks were trained; the others make noise."""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.fps <= 0 or len(self.motion_mean) != len(self.motion_std) or not all(s > 0 for s in self.motion_std):
            raise InputError(
                f"model_index.json says {asdict(self)}; frames, a rate and a mean and deviation a channel are expected: {AGAIN}"
            )

    @classmethod
    def of_index(cls, index: Mapping[str, Any]) -> Self:
        """From model_index.json."""
        try:
            found = {field.name: index[field.name] for field in fields(cls) if field.name != "trained"}
            return cls(
                int(found["num_frames"]),
                float(found["fps"]),
                tuple(map(float, found["motion_mean"])),
                tuple(map(float, found["motion_std"])),
                *([tuple(map(str, index["trained"]))] if "trained" in index else []),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"model_index.json lacks facts of the clips, or they are no numbers ({error}): {AGAIN}") from None


@runtime_checkable
class ContentMotionVideo(TextToImage, Protocol):
    """A text-to-image model of content frames, and what makes clips of them."""

    device: torch.device
    """Where it computes."""
    facts: ClipFacts
    """Of the training's clips."""
    autoencoder: ContentMotionAutoencoder
    """Clips to content frames and motion, and back."""
    motion: MotionDiffusion
    """Makes motion."""

    def encode_clips(self, clips: Tensor) -> Tensor:
        """Pixels [B, F, 3, H, W] in [0, 1] to latents [B, F, C, h, w]."""
        ...

    def decode_clips(self, latents: Tensor) -> Tensor:
        """Latents to pixels."""
        ...

    def split(self, latents: Tensor) -> ContentMotion:
        """Latents of clips to content frames and motion."""
        ...

    def join(self, content: Tensor, motion: Motion) -> Tensor:
        """Content frames and motion to latents of clips."""
        ...


class ContentMotionDiffusion(StableDiffusion):
    """A `ContentMotionPipeline` folder. See `ContentMotionVideo`."""

    role = "ContentMotionVideo"

    def __init__(self, *arguments: Any, facts: ClipFacts, motion_scheduler: Mapping[str, Any], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        height, width = self.modules["motion_network"].config.content_size
        # The image model's own size is that of its pictures, and it may have been trained on content frames of another.
        self.size = (height * self.latent_space.factor, width * self.latent_space.factor)
        self.facts = facts
        self.motion = MotionDiffusion(self, motion_scheduler)

    @classmethod
    def extra_arguments(cls, found: Components) -> dict[str, Any]:
        scheduler = found.index.get("motion_scheduler")
        if not isinstance(scheduler, Mapping) or not isinstance(scheduler.get("_class_name"), str):
            raise InputError(f"model_index.json names no scheduler of the motion: {AGAIN}")
        return {"facts": ClipFacts.of_index(found.index), "motion_scheduler": scheduler}

    @property
    def autoencoder(self) -> ContentMotionAutoencoder:
        """Clips to content frames and motion, and back."""
        network: ContentMotionAutoencoder = self.modules["autoencoder"]
        return network

    @torch.no_grad()
    def encode_clips(self, clips: Float[Tensor, "batch frames 3 height width"]) -> Float[Tensor, "batch frames channels h w"]:
        """Pixels in [0, 1] to scaled latents, frame by frame."""
        latents = self.latent_space.encode(clips.flatten(0, 1))
        return latents.view(*clips.shape[:2], *latents.shape[1:])

    @torch.no_grad()
    def decode_clips(self, latents: Float[Tensor, "batch frames channels h w"]) -> Float[Tensor, "batch frames 3 height width"]:
        """Scaled latents to pixels in [0, 1], frame by frame."""
        pixels = self.latent_space.decode(latents.flatten(0, 1), self.decode_chunk_size)
        return pixels.view(*latents.shape[:2], *pixels.shape[1:])

    @torch.no_grad()
    def split(self, latents: Float[Tensor, "batch frames channels h w"]) -> ContentMotion:
        """Latents of clips to content frames and motion, float32."""
        found = self.autoencoder.encode(latents.to(self.device, self.autoencoder.dtype))
        return ContentMotion(found.content.float(), Motion(*(half.float() for half in found.motion)), found.weights)

    @torch.no_grad()
    def join(self, content: Float[Tensor, "batch channels h w"], motion: Motion) -> Float[Tensor, "batch frames channels h w"]:
        """Content frames and motion to latents of clips, float32."""
        device, dtype = self.device, self.autoencoder.dtype
        return self.autoencoder.decode(content.to(device, dtype), Motion(*(half.to(device, dtype) for half in motion))).float()


class MotionDiffusion(DiffusionModel):
    """The motion half of a `ContentMotionDiffusion`: samples are `packed` motion, [B, D, F, rows + columns].

    Conditions hold `content` [B, C, h, w], its noise level as a timestep in `level` [B], and the caption's feature in `text` [B, width].
    """

    role = "ContentMotionVideo"

    def __init__(self, whole: ContentMotionDiffusion, scheduler: Mapping[str, Any]) -> None:
        self.whole, self.name, self.device, self.max_rows = whole, whole.name, whole.device, whole.max_rows
        self.model_sampling = ModelSampling(
            {key: value for key, value in scheduler.items() if key != "_class_name"}, scheduler["_class_name"]
        )
        config = self.network.config
        if len(whole.facts.motion_mean) != config.motion_channels:
            raise InputError(
                f"{self.name}: means of {len(whole.facts.motion_mean)} channels for a motion of {config.motion_channels}: {AGAIN}"
            )
        self.shape: tuple[int, int, int] = (config.motion_channels, config.num_frames, config.rows + config.columns)
        """[D, F, rows + columns] of a sample."""

    @property
    def network(self) -> MotionDiT:
        """The transformer."""
        network: MotionDiT = self.whole.modules["motion_network"]
        return network

    @property
    def unet(self) -> Any:
        """The transformer, under the name that all denoising networks have."""
        return self.network

    def condition(self, prompts: Sequence[str], content: Float[Tensor, "batch channels h w"], level: float = 0.0) -> Condition:
        """One row per content frame; `level` is the timestep of the noise that lies on it."""
        return Condition(
            {
                "text": self._text(prompts),
                "content": content.to(self.device),
                "level": torch.full((len(content),), level, device=self.device),
            }
        )

    def unconditional(self, condition: Condition) -> Condition:
        """The same content frames without a caption (paper: the null branch keeps the content frame)."""
        return Condition({**condition.tensors, "text": self._text([""]).expand(condition.rows, -1)})

    def packed(self, motion: Motion) -> Float[Tensor, "batch numbers frames places"]:
        """Both halves side by side, with mean 0 and deviation 1 over the training's clips."""
        mean, std = self._moments(motion.rows)
        return (torch.cat(list(motion), dim=-1) - mean) / std

    def unpacked(self, sample: Float[Tensor, "batch numbers frames places"]) -> Motion:
        """The reverse of `packed`."""
        mean, std = self._moments(sample)
        return Motion(*(sample * std + mean).split([self.network.config.rows, self.network.config.columns], dim=-1))

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values).view(-1, 1, 1).to(like) for values in (self.whole.facts.motion_mean, self.whole.facts.motion_std))
        return mean, std

    def _text(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """The state at each caption's last token, which has seen all others."""
        modules = self.whole.modules
        return text_states(modules["text_encoder"], *tokenize(modules["tokenizer"], prompts), self.device)[1]

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        dtype, config = self.network.dtype, self.network.config
        noisy = Motion(*model_input.to(dtype).split([config.rows, config.columns], dim=-1))
        made = self.network(
            noisy, timestep.expand(len(model_input)), tensors["content"].to(dtype), tensors["text"].to(dtype), tensors["level"]
        )
        return torch.cat(list(made), dim=-1)


def text_states(
    encoder: Any, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"], device: torch.device
) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch width"]]:
    """Of tokenized prompts the last hidden states, which the content model reads, and the one at each prompt's end, which the motion model
    reads."""
    states = encode_tokens(encoder, ids, mask, device)
    return states, states[torch.arange(len(states)), mask.sum(1) - 1]


def save_parts(folder: Path, parts: Mapping[str, Any], *, motion_scheduler: Any, facts: ClipFacts, rounded: bool = False) -> None:
    """Write the folder.

    Args:
        folder: to make or to write into.
        parts: unet, text_encoder, tokenizer, vae, scheduler, autoencoder and motion_network.
        motion_scheduler: a diffusers scheduler.
        facts: of the clips.
        rounded: weights in 8 bits, otherwise float16.
    """
    from calotype.backbones.folder import ROUNDED

    folder.mkdir(parents=True, exist_ok=True)
    libraries = {"autoencoder": "calotype", "motion_network": "calotype", "text_encoder": "transformers", "tokenizer": "transformers"}
    for name, part in parts.items():
        kept: Any = part
        network = isinstance(part, nn.Module)
        if network and rounded:
            (kept.config.save_pretrained if name == "text_encoder" else kept.save_config)(folder / name)
            save_quantized(kept.state_dict(), folder / name / ROUNDED)
            continue
        if network:
            # diffusers' own `to` warns of modules to keep in float32, of which there are none.
            nn.Module.to(kept, torch.float16)
        kept.save_pretrained(folder / name)
    config = {key: value for key, value in motion_scheduler.config.items() if not key.startswith("_")}
    index = {
        "_class_name": PIPELINE,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(facts).items()},
        "motion_scheduler": {"_class_name": type(motion_scheduler).__name__, **config},
        **{name: [libraries.get(name, "diffusers"), type(part).__name__] for name, part in parts.items()},
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
