"""Attention for training spatio-temporal UNets on short sequences: the same function as the stock processor, much cheaper on a CPU.

In the temporal blocks every place of the picture attends to the same caption; the stock layout repeats the caption's keys for each of the
hundreds of places. Here the places of a clip are queries of one attention instead. Only training uses it; nothing of it is saved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

EXPLICIT_KEYS = 300
"""Up to so many keys the scores are formed explicitly on the CPU: its fused kernels are slow backwards on small heads."""


class FastAttention:
    """A processor for diffusers' `Attention` without masks, norms or added projections."""

    def __init__(self, clips: list[int] | None) -> None:
        self.clips = clips
        """[number of clips of the current batch] for a temporal cross attention, else None."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        rows, length, _ = hidden_states.shape
        states, context = hidden_states, hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.clips is not None:
            count = self.clips[0]
            context = context.view(count, rows // count, *context.shape[1:])[:, 0]
            states = states.reshape(count, -1, states.shape[-1])
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (attn.to_q(states), attn.to_k(context), attn.to_v(context))
        )
        if key.device.type == "cpu" and key.shape[2] <= EXPLICIT_KEYS:
            scores = torch.matmul(query * attn.scale, key.transpose(-1, -2))
            output = torch.matmul(scores.float().softmax(-1).to(value.dtype), value)
        else:
            output = functional.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        output = output.transpose(1, 2).flatten(2).reshape(rows, length, -1)
        result: Tensor = attn.to_out[0](output)
        return result


def use_fast_attention(unet: Any) -> list[int]:
    """Put `FastAttention` everywhere in a `UNetSpatioTemporalConditionModel`; write the number of clips into the list before each call."""
    clips = [1]
    processors = {
        name: FastAttention(clips if "temporal_transformer_blocks" in name and ".attn2." in name else None) for name in unet.attn_processors
    }
    unet.set_attn_processor(processors)
    return clips
