"""Prompts to token embeddings with the CLIP text encoders of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from calotype.errors import one_line, refuse_half_characters

logger = logging.getLogger(__name__)


def token_ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids padded to the tokenizer's length, [prompts, length]; a prompt that is too long is cut and a warning logged.

    Returns:
        int64 on the CPU.

    Raises:
        InputError: a prompt is no text.
    """
    for prompt in prompts:
        refuse_half_characters(prompt, "prompt")
    length = tokenizer.model_max_length
    ids = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    for prompt, full in zip(prompts, tokenizer(list(prompts), verbose=False).input_ids, strict=True):
        if len(full) > length:
            lost = one_line(tokenizer.decode(full[length - 1 : -1]), 200)
            shown = one_line(prompt, 80)
            logger.warning("the prompt %r has %d tokens and the text encoder reads %d: %r is left out", shown, len(full), length, lost)
    return torch.as_tensor(ids)


def encode_prompts(tokenizer: Any, encoder: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """The encoder's last hidden state, [prompts, length, width] (SD 1.x, SD 2.x, toy models)."""
    ids = token_ids(tokenizer, prompts)
    mask = None
    if getattr(encoder.config, "use_attention_mask", False):
        length = tokenizer.model_max_length
        mask = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").attention_mask.to(
            device
        )
    with torch.no_grad():
        states: Tensor = encoder(ids.to(device), attention_mask=mask)[0]
    return states


def encode_prompts_penultimate(tokenizer: Any, encoder: Any, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """The last but one hidden state, [prompts, length, width], and the encoder's first output, which is the pooled projection
    [prompts, width] for an encoder that has one (SDXL)."""
    with torch.no_grad():
        output = encoder(token_ids(tokenizer, prompts).to(device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]
