"""From the network's queries and any token's keys to maps: which share of its attention each pixel gives to the token.

    S[t, b] = Q[t, b] K[b](E)^T / sqrt(d)      noise level t, layer b, E the tokens that are asked about
    A[b]    = sum over t and heads of softmax over the tokens of S[t, b]
    D       = sum over b of A[b], brought to the finest grid

At each pixel the tokens' values of D sum to (levels x heads x layers), so D over that total is a share. Nothing of the network but its
key projections is needed once the queries are there, and the shares can be differentiated by E.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.errors import InputError

SCORES_AT_ONCE = 1 << 24
"""Attention scores that are held in memory at once (64 MB of float32)."""


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """The queries of one cross-attention layer at every noise level."""

    name: str
    grid: tuple[int, int]
    """Height and width of its pixels."""
    queries: Float[Tensor, "levels batch heads pixels width"]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.queries.shape[2]

    @property
    def megabytes(self) -> float:
        """Memory that the queries take."""
        return self.queries.numel() * self.queries.element_size() / 1e6


@dataclass(frozen=True, eq=False)
class Attended:
    """The attention of one layer to some tokens, summed over noise levels."""

    sums: Float[Tensor, "batch heads tokens height width"]
    levels: int

    @property
    def megabytes(self) -> float:
        """Memory that the sums take."""
        return self.sums.numel() * self.sums.element_size() / 1e6


def attend(
    layer: AttentionLayer, keys: Float[Tensor, "batch heads tokens width"], allowed: Bool[Tensor, "batch tokens"] | None = None
) -> Attended:
    """Softmax over the tokens at each pixel, summed over noise levels, in float32.

    Args:
        layer: its queries.
        keys: of the tokens, with one row per picture or one for all.
        allowed: which tokens take part; all if None.

    Example:
        >>> layer = AttentionLayer("up", (1, 2), torch.zeros(3, 1, 4, 2, 8))
        >>> attend(layer, torch.zeros(1, 4, 2, 8)).sums[0, 0].tolist()
        [[[1.5, 1.5]], [[1.5, 1.5]]]
    """
    levels, batch, heads, pixels, width = layer.queries.shape
    if keys.shape[1] != heads or keys.shape[3] != width:
        raise InputError(
            f"{layer.name}: queries have {heads} heads of width {width}, keys {keys.shape[1]} of {keys.shape[3]}; take the same model"
        )
    turned = keys.float().transpose(-1, -2) * width**-0.5
    at_once = max(1, SCORES_AT_ONCE // (batch * heads * pixels * keys.shape[2]))
    bias = 0.0 if allowed is None else torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)[:, None, None].to(turned.device)
    parts = torch.split(layer.queries, at_once)
    sums = [(part.to(turned.device, torch.float32) @ turned + bias).softmax(dim=-1).sum(dim=0) for part in parts]
    total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(dim=0)
    return Attended(total.transpose(-1, -2).unflatten(-1, layer.grid), levels)


def open_vocabulary(parts: Sequence[Attended]) -> Float[Tensor, "batch tokens height width"]:
    """OVAM's merge: sum of heads and layers, bilinear to the finest grid; as shares, which sum to 1 over the tokens at every pixel."""
    grid = finest(parts)
    total = sum(part.levels * part.sums.shape[1] for part in parts)
    summed = [resize(part.sums.sum(dim=1), grid) for part in parts]
    return torch.stack(summed).sum(dim=0) / total


def in_prompt(parts: Sequence[Attended], grid: tuple[int, int]) -> Float[Tensor, "batch tokens height width"]:
    """DAAM's merge (Tang et al. 2023): each head's map bicubic to the latent's grid, negative values cut off, mean over heads and layers.

    Args:
        parts: of the generation prompt's own tokens, padding included.
        grid: height and width of the latents.
    """
    mean, count = torch.zeros(()), 0
    for part in parts:
        batch, heads, tokens = part.sums.shape[:3]
        resized = F.interpolate((part.sums / part.levels).flatten(0, 1), size=grid, mode="bicubic", align_corners=False).clamp(min=0)
        mean = mean + resized.view(batch, heads, tokens, *grid).sum(dim=1)
        count += heads
    return mean / count


def finest(parts: Sequence[Attended]) -> tuple[int, int]:
    """The grid with the most pixels.

    Raises:
        InputError: there is no layer at all.
    """
    if not parts:
        raise InputError("no cross-attention layer was watched; choose factors that the network has, such as 1, 2 and 4")
    height, width = max((part.sums.shape[-2:] for part in parts), key=lambda grid: grid[0] * grid[1])
    return int(height), int(width)


def resize(maps: Float[Tensor, "batch channels height width"], size: tuple[int, int]) -> Float[Tensor, "batch channels h w"]:
    """Bilinear, pixel middles kept in place; a map that is made smaller is averaged over what it loses."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    smaller = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=smaller)


def key_rows(
    projections: Mapping[str, torch.nn.Module], layers: Sequence[AttentionLayer], embeddings: Float[Tensor, "batch tokens channels"]
) -> list[Float[Tensor, "batch heads tokens width"]]:
    """The keys that each layer makes of token embeddings.

    Args:
        projections: `to_k` of each layer by the layer's name.
        layers: where the queries are from.
        embeddings: what a text encoder returned for the tokens, or a fitted token, on the network's device; its gradient is kept.
    """
    found = []
    for layer in layers:
        project = projections[layer.name]
        keys: Tensor = project(embeddings.to(next(project.parameters()).dtype))
        found.append(keys.view(*keys.shape[:2], layer.heads, -1).transpose(1, 2))
    return found
