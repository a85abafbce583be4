"""The role `TextToImage`: Stable Diffusion 1.x and 2.x, Stable Diffusion XL, and the toy model, on diffusers' own networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from calotype.backbones.autoencoder import PictureLatents
from calotype.backbones.base import DiffusionModel
from calotype.backbones.components import Components
from calotype.backbones.layouts import other_channels
from calotype.backbones.text import encode_prompts, encode_prompts_penultimate
from calotype.core.denoiser import Condition
from calotype.errors import InputError


class StableDiffusion(PictureLatents, DiffusionModel):
    """SD 1.x and 2.x: one text encoder, its last hidden state. Conditions hold `text` [B, tokens, width]."""

    role = "TextToImage"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        config = self.unet.config
        if config.in_channels != self.latent_space.channels:
            raise InputError(f"{self.name} {other_channels(config.in_channels, self.latent_space.channels)}")
        if getattr(config, "time_cond_proj_dim", None) is not None:
            raise InputError(f"{self.name} is a guidance-distilled (LCM) checkpoint, which isn't supported; give the base checkpoint")

    def condition(self, prompt: str | Sequence[str], *, size: tuple[int, int] | None = None) -> Condition:
        """One row per prompt. `size` (height, width) matters to SDXL only."""
        return Condition({"text": self._text(_listed(prompt)).to(self.dtype)})

    def unconditional(self, condition: Condition) -> Condition:
        """As many rows of the empty prompt, which is what classifier-free guidance subtracts unless a negative prompt is given."""
        return Condition({"text": self._text([""]).to(self.dtype).expand(condition.rows, -1, -1)})

    def _text(self, prompts: Sequence[str]) -> Tensor:
        return encode_prompts(self.modules["tokenizer"], self.modules["text_encoder"], prompts, self.device)

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = self.unet(
            model_input.to(self.dtype), timestep, encoder_hidden_states=tensors["text"].to(self.dtype), return_dict=False
        )[0]
        return output


class StableDiffusionXL(StableDiffusion):
    """SDXL: two text encoders side by side, the second one's pooled text, and sizes.

    Conditions hold `text` [B, tokens, width], `pooled` [B, width] and `time_ids` [B, 6].
    """

    def __init__(self, *arguments: Any, force_zeros_for_empty_prompt: bool = True, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt

    @classmethod
    def extra_arguments(cls, found: Components) -> dict[str, Any]:
        """What the empty prompt is."""
        return {"force_zeros_for_empty_prompt": bool(found.index.get("force_zeros_for_empty_prompt", True))}

    def condition(
        self,
        prompt: str | Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
    ) -> Condition:
        """One row per prompt.

        Args:
            prompt: for both encoders.
            size: height and width of the picture to come (default: the size that the checkpoint was trained at).
            original_size, crops_coords_top_left, target_size: SDXL's micro-conditioning, (height, width) in pixels; by default `size`, no
                crop, `size`.
        """
        prompts = _listed(prompt)
        states, pooled = [], torch.empty(0)
        for suffix in ("", "_2"):
            state, pooled = encode_prompts_penultimate(
                self.modules["tokenizer" + suffix], self.modules["text_encoder" + suffix], prompts, self.device
            )
            states.append(state)
        size = size or self.size
        ids = [*(original_size or size), *crops_coords_top_left, *(target_size or size)]
        time_ids = torch.tensor([ids], dtype=torch.float32, device=self.device).expand(len(prompts), -1)
        return Condition({"text": torch.cat(states, dim=-1).to(self.dtype), "pooled": pooled.to(self.dtype), "time_ids": time_ids})

    def unconditional(self, condition: Condition) -> Condition:
        """What guidance subtracts unless a negative prompt is given: zeros, or the empty prompt if the config says so; same sizes."""
        tensors = condition.tensors
        if self.force_zeros_for_empty_prompt:
            return Condition({**tensors, "text": torch.zeros_like(tensors["text"]), "pooled": torch.zeros_like(tensors["pooled"])})
        return Condition({**self.condition([""] * condition.rows).tensors, "time_ids": tensors["time_ids"]})

    def _network(self, model_input: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = self.unet(
            model_input.to(self.dtype),
            timestep,
            encoder_hidden_states=tensors["text"].to(self.dtype),
            added_cond_kwargs={"text_embeds": tensors["pooled"].to(self.dtype), "time_ids": tensors["time_ids"].to(self.dtype)},
            return_dict=False,
        )[0]
        return output


def _listed(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise InputError("no prompt was given; give a string or a list of strings")
    return prompts
