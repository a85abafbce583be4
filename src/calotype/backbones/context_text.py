"""Visual rows among the words: the text encoder of BLIP-Diffusion and of `toy-subject`, on a stock CLIP text model.

The rows of a subject enter after the start token and "a", before the words, so a causal encoder shows the subject to every later word and
no word to the subject. diffusers' own encoder for it (`ContextCLIPTextModel`) lost its causal mask: it hands the mask to transformers under
a name that transformers 5 ignores. Here the mask is an explicit argument, which `tests/backbones/test_context_text.py` checks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calotype.core.offload import awake

BEGIN = 2
"""Where the visual rows begin: after the start token and "a" (BLIP-Diffusion's `ctx_begin_pos`)."""


def causal_mask(length: int, like: Tensor) -> Float[Tensor, "1 1 length length"]:
    """0 where a row may look (itself and earlier rows), the lowest number of the dtype elsewhere.

    >>> causal_mask(2, torch.zeros(1)).tolist()[0][0][1]
    [0.0, 0.0]
    """
    lowest = torch.full((length, length), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    return lowest.triu(1)[None, None]


def word_embeddings(encoder: Any, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
    """The encoder's word embeddings, without positions."""
    with awake(encoder):
        made: Tensor = _parts(encoder).embeddings.token_embedding(ids)
    return made


def insert_rows(
    words: Float[Tensor, "batch tokens width"], rows: Float[Tensor, "batch rows width"], begin: int = BEGIN
) -> Float[Tensor, "batch longer width"]:
    """The rows put between the words before `begin` and those after it.

    >>> insert_rows(torch.zeros(1, 5, 2), torch.ones(1, 3, 2))[0, :, 0].tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    return torch.cat([words[:, :begin], rows.to(words.dtype), words[:, begin:]], dim=1)


def encode_embeddings(encoder: Any, embeddings: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
    """The last hidden state, after the final norm, of rows that are embeddings already; positions and the causal mask are added here."""
    parts = _parts(encoder)
    length = embeddings.shape[1]
    # The encoder's own `forward` takes token ids only.
    with awake(encoder):
        places = parts.embeddings.position_embedding(torch.arange(length, device=embeddings.device))
        states = embeddings + places.to(embeddings.dtype)
        output = parts.encoder(inputs_embeds=states, attention_mask=causal_mask(length, states))
        made: Tensor = parts.final_layer_norm(output[0])
    return made


def encode_with_rows(
    encoder: Any,
    ids: Int[Tensor, "batch tokens"],
    rows: Float[Tensor, "batch rows width"] | None,
    *,
    begin: int = BEGIN,
    has_rows: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch length width"]:
    """Words with visual rows among them through the encoder.

    Args:
        encoder: a `CLIPTextModel`.
        ids: token ids; with `rows`, as many tokens fewer than the encoder's length as there are rows, or the full length, of which the last
            ones are then cut.
        rows: visual rows at the width of the word embeddings; None is a plain encoding.
        begin: where the rows begin.
        has_rows: which prompts get the rows, where not all do; needs `ids` at the full length.
    """
    words = word_embeddings(encoder, ids)
    if rows is None:
        return encode_embeddings(encoder, words)
    longest = _parts(encoder).embeddings.position_embedding.num_embeddings
    mixed = insert_rows(words, rows, begin)[:, :longest]
    if has_rows is not None:
        mixed = torch.where(has_rows[:, None, None], mixed, words.to(mixed.dtype))
    return encode_embeddings(encoder, mixed)


def _parts(encoder: Any) -> Any:
    """Older transformers keep the encoder's parts one level down."""
    return getattr(encoder, "text_model", encoder)
