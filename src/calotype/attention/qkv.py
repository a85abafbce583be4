"""Queries, keys and values on their way through the rules, and the attention that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.errors import ShapeError

Rows = str | Sequence[str] | None
"""Roles that a rule acts on: one, several, or all (None)."""
Part = Literal["q", "k", "v"]
Heads = Float[Tensor, "rows heads tokens dim"]


@dataclass(frozen=True)
class Keys:
    """What the rows of one role attend to where that isn't simply their rows of the keys and values."""

    k: Heads
    v: Heads
    bias: Tensor | None
    """Added to the scores; broadcasts against [rows, heads, queries, keys]."""


@dataclass(frozen=True)
class AttentionInputs:
    """Queries, keys, values and the bias on the scores. Rules return a changed copy and never write into the tensors."""

    q: Float[Tensor, "rows heads queries dim"]
    k: Float[Tensor, "rows heads keys dim"]
    v: Float[Tensor, "rows heads keys dim"]
    bias: Tensor | None = None
    """The network's own attention mask, [rows, heads or 1, queries or 1, keys]."""
    own: tuple[tuple[slice, Keys], ...] = ()
    """Rows with keys, values or a bias of their own: they attend apart from the others, which stay as they are to the bit."""

    def keys_of(self, rows: slice) -> Keys:
        """The keys, values and bias of these rows.

        Raises:
            ShapeError: some of the rows have keys of their own and others don't (controls with other roles were nested).
        """
        for held, keys in self.own:
            if held.start <= rows.start and rows.stop <= held.stop:
                return _part(keys, slice(rows.start - held.start, rows.stop - held.start))
            if held.start < rows.stop and rows.start < held.stop:
                raise ShapeError(
                    f"rows {rows.start} to {rows.stop} and {held.start} to {held.stop} overlap; nested controls must share roles"
                )
        return _part(Keys(self.k, self.v, self.bias), rows)

    def with_part(self, name: Part, tensor: Tensor) -> AttentionInputs:
        """A copy with other queries, keys or values."""
        if name == "q":
            return replace(self, q=tensor)
        return replace(self, k=tensor) if name == "k" else replace(self, v=tensor)

    def with_keys(self, rows: slice, keys: Keys) -> AttentionInputs:
        """A copy in which these rows attend to these keys."""
        self.keys_of(rows)
        kept = tuple((held, old) for held, old in self.own if held != rows)
        return replace(self, own=tuple(sorted((*kept, (rows, keys)), key=lambda entry: entry[0].start)))


def _part(keys: Keys, rows: slice) -> Keys:
    bias = keys.bias
    return Keys(keys.k[rows], keys.v[rows], bias if bias is None or bias.shape[0] == 1 else bias[rows])


def write(tensor: Tensor, slices: Sequence[slice], values: Sequence[Tensor]) -> Tensor:
    """A copy of the tensor with these rows replaced."""
    changed = tensor.clone()
    for rows, value in zip(slices, values, strict=True):
        changed[rows] = value
    return changed


def attend(states: AttentionInputs) -> Heads:
    """Scaled dot-product attention, each row with the keys that the rules gave it."""
    if not states.own:
        return functional.scaled_dot_product_attention(states.q, states.k, states.v, attn_mask=states.bias)
    parts, done = [], 0
    for rows, keys in (*states.own, (slice(states.q.shape[0], states.q.shape[0]), None)):
        if rows.start > done:
            between = slice(done, rows.start)
            plain = _part(Keys(states.k, states.v, states.bias), between)
            parts.append(functional.scaled_dot_product_attention(states.q[between], plain.k, plain.v, attn_mask=plain.bias))
        if keys is not None:
            bias = None if keys.bias is None else keys.bias.to(states.q.dtype)
            parts.append(functional.scaled_dot_product_attention(states.q[rows], keys.k, keys.v, attn_mask=bias))
        done = rows.stop
    return torch.cat(parts)


def project(attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None, attention_mask: Tensor | None) -> AttentionInputs:
    """Queries, keys and values of tokens [rows, tokens, channels], as diffusers' `AttnProcessor2_0` makes them."""
    source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    rows = source.shape[0]
    bias = None
    if attention_mask is not None:
        bias = attn.prepare_attention_mask(attention_mask, source.shape[1], rows)
        bias = bias.view(rows, attn.heads, -1, bias.shape[-1])
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    query = attn.to_q(hidden_states)
    if encoder_hidden_states is None:
        encoder_hidden_states = hidden_states
    elif attn.norm_cross:
        encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
    key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
    q, k, v = (part.view(rows, -1, attn.heads, key.shape[-1] // attn.heads).transpose(1, 2) for part in (query, key, value))
    return AttentionInputs(attn.norm_q(q) if attn.norm_q is not None else q, attn.norm_k(k) if attn.norm_k is not None else k, v, bias)


def finish(attn: Any, attended: Heads, dtype: torch.dtype) -> Float[Tensor, "rows tokens channels"]:
    """Heads back to channels, and the output projection."""
    tokens = attended.transpose(1, 2).flatten(2).to(dtype)
    projected: Tensor = attn.to_out[1](attn.to_out[0](tokens))
    return projected
