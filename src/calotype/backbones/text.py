"""Prompts to token embeddings with the CLIP text encoders of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from calotype.errors import one_line, refuse_half_characters

logger = logging.getLogger(__name__)


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids padded to the tokenizer's length, and which of them are the prompt's. What is too long is cut, and a warning logged.

    The tokenizer cuts and pads by a state of its own, which calls from two threads change under each other; so that is done here.

    Returns:
        Two tensors [prompts, length], int64 on the CPU.

    Raises:
        InputError: a prompt is no text.
    """
    for prompt in prompts:
        refuse_half_characters(prompt, "prompt")
    length = tokenizer.model_max_length
    ids = torch.full((len(prompts), length), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, full in enumerate(tokenizer(list(prompts), verbose=False).input_ids):
        if len(full) > length:
            lost = one_line(tokenizer.decode(full[length - 1 : -1]), 200)
            shown = one_line(prompts[row], 80)
            logger.warning("the prompt %r has %d tokens and the text encoder reads %d: %r is left out", shown, len(full), length, lost)
            full = [*full[: length - 1], full[-1]]
        ids[row, : len(full)] = torch.tensor(full)
        mask[row, : len(full)] = 1
    return ids, mask


def encode_prompts(tokenizer: Any, encoder: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """The encoder's last hidden state, [prompts, length, width] (SD 1.x, SD 2.x, toy models)."""
    return encode_tokens(encoder, *tokenize(tokenizer, prompts), device)


def encode_tokens(encoder: Any, ids: Tensor, mask: Tensor, device: torch.device) -> Tensor:
    """The same of what `tokenize` gave."""
    seen = mask.to(device) if getattr(encoder.config, "use_attention_mask", False) else None
    with torch.no_grad():
        states: Tensor = encoder(ids.to(device), attention_mask=seen)[0]
    return states


def encode_prompts_penultimate(tokenizer: Any, encoder: Any, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """The last but one hidden state, [prompts, length, width], and the encoder's first output, which is the pooled projection
    [prompts, width] for an encoder that has one (SDXL)."""
    with torch.no_grad():
        output = encoder(tokenize(tokenizer, prompts)[0].to(device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]
