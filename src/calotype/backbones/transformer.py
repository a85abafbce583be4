"""Transformer blocks of the video models: rotary positions, adaLN-zero blocks, and blocks that attend in time, then in space.

Diffusers' transformers have these inside of fixed models, with the positions of one grid. Here positions are an argument, since tokens are
left out in training and models differ in which axes they have.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import ShapeError

HIGHEST, LOWEST = 1.5, 0.04
"""Frequencies in radians a position between which a head's are spread: for axes of up to some dozen positions."""


def rotary_angles(positions: Tensor, head_width: int) -> Float[Tensor, "... half"]:
    """Angles by which the pairs of a head's numbers are turned (Su et al. 2021, arXiv 2104.09864, section 3.2), several axes side by side.

    Args:
        positions: [..., axes], where a token lies along each axis; any numbers.
        head_width: numbers of a head; each axis gets as many pairs, so it is a multiple of twice the axes.

    Returns:
        [..., head_width / 2], float32.

    Raises:
        ShapeError: the axes don't share a head's pairs evenly.

    Example:
        >>> rotary_angles(torch.tensor([[0.0], [1.0]]), 4)
        tensor([[0.0000, 0.0000],
                [1.5000, 0.0400]])
    """
    axes = positions.shape[-1]
    if head_width % (2 * axes):
        raise ShapeError(f"a head has {head_width} numbers; with {axes} axes a multiple of {2 * axes} is needed")
    pairs = head_width // 2 // axes
    spread = torch.linspace(0.0, 1.0, pairs, device=positions.device) if pairs > 1 else torch.zeros(1, device=positions.device)
    frequencies = HIGHEST * (LOWEST / HIGHEST) ** spread
    return (positions.float()[..., None] * frequencies).flatten(-2)


def rotate(heads: Float[Tensor, "... tokens width"], angles: Float[Tensor, "... tokens half"]) -> Float[Tensor, "... tokens width"]:
    """Turn each pair of neighbouring numbers by its angle.

    Example:
        >>> rotate(torch.tensor([[1.0, 0.0]]), torch.tensor([[torch.pi / 2]])).round(decimals=3).abs()
        tensor([[0., 1.]])
    """
    first, second = heads.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


class RotaryAttention(nn.Module):
    """Self-attention whose queries and keys are turned by where their tokens lie.

    Args:
        width: numbers of a token.
        heads: of width / heads numbers each.

    Raises:
        ShapeError: the heads don't share the width evenly.

    Example:
        >>> RotaryAttention(16, 2)(torch.zeros(3, 5, 16), rotary_angles(torch.arange(5.0)[:, None], 8)).shape
        torch.Size([3, 5, 16])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ShapeError(f"the width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)

    def forward(
        self, states: Float[Tensor, "batch tokens width"], angles: Float[Tensor, "*batch tokens half"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """`angles` are the same for all heads, and may be for all rows."""
        query, key, value = self.to_qkv(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if angles is not None:
            turned = angles[:, None] if angles.ndim == 3 else angles
            query, key = rotate(query, turned), rotate(key, turned)
        made: Tensor = self.to_out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return made


class AdaptiveBlock(nn.Module):
    """A block of a diffusion transformer (Peebles and Xie 2023, arXiv 2212.09748, section 3.2, adaLN-zero): attention and an MLP, whose
    normalised input is scaled and shifted, and whose output is scaled, by an embedding; nothing but the residual at first.

    Args:
        width: numbers of a token.
        heads: of the attention.

    Example:
        >>> block, states = AdaptiveBlock(16, 2), torch.randn(1, 3, 4, 16)
        >>> bool((block(states, torch.randn(1, 3, 1, 16)) == states).all())
        True
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = RotaryAttention(width, heads)
        self.mlp = FeedForward(width, mult=4, activation_fn="gelu-approximate")
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, states: Float[Tensor, "batch *places width"], embedding: Float[Tensor, "batch *broadcast width"], angles: Tensor | None = None
    ) -> Float[Tensor, "batch *places width"]:
        """All places of a row attend to each other.

        Args:
            states: any number of axes of places.
            embedding: of what the block is told, such as the time; as many axes as `states`, of 1 where it is the same for all places.
            angles: of the flattened places; see `RotaryAttention`.
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(functional.silu(embedding)).chunk(6, dim=-1)
        entering = (normalised(states) * (1.0 + scale) + shift).flatten(1, -2)
        states = states + gate * self.attention(entering, angles).view(states.shape)
        changed: Tensor = states + mlp_gate * self.mlp(normalised(states) * (1.0 + mlp_scale) + mlp_shift)
        return changed


class AdaptiveHead(nn.Module):
    """The end of a diffusion transformer: normalised, scaled and shifted by the embedding, and brought to `out` numbers; 0 at first."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, out)
        for part in (self.modulation, self.out):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self, states: Float[Tensor, "batch *places width"], embedding: Float[Tensor, "batch *broadcast width"]
    ) -> Float[Tensor, "batch *places out"]:
        """See `AdaptiveBlock.forward`."""
        shift, scale = self.modulation(functional.silu(embedding)).chunk(2, dim=-1)
        made: Tensor = self.out(normalised(states) * (1.0 + scale) + shift)
        return made


class SpaceTimeBlock(nn.Module):
    """A block of TimeSformer's divided attention (Bertasius et al. 2021, arXiv 2102.05095, section 3), with rotary positions: each place
    attends to itself in all frames, each frame's places attend to each other, then a feed-forward network with GEGLU.

    Args:
        width: numbers of a token.
        heads: of both attentions; the width of a head is a multiple of 4.

    Example:
        >>> SpaceTimeBlock(16, 2)(torch.zeros(1, 3, 4, 5, 16)).shape
        torch.Size([1, 3, 4, 5, 16])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.time_norm, self.space_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.time, self.space = RotaryAttention(width, heads), RotaryAttention(width, heads)
        self.mlp = FeedForward(width, mult=4, activation_fn="geglu")

    def forward(self, states: Float[Tensor, "batch frames height width channels"]) -> Float[Tensor, "batch frames height width channels"]:
        """Tokens of all frames to tokens of the same shape."""
        batch, frames, height, width, channels = states.shape
        head = channels // self.time.heads
        moments = rotary_angles(torch.arange(frames, device=states.device)[:, None], head)
        places = rotary_angles(grid_positions(height, width, states.device), head)
        tracks = self.time_norm(states).permute(0, 2, 3, 1, 4).reshape(-1, frames, channels)
        states = states + self.time(tracks, moments).view(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4)
        pictures = self.space_norm(states).view(batch * frames, height * width, channels)
        states = states + self.space(pictures, places).view(states.shape)
        changed: Tensor = states + self.mlp(self.mlp_norm(states))
        return changed


def grid_positions(height: int, width: int, device: torch.device | str = "cpu") -> Float[Tensor, "places 2"]:
    """(row, column) of each place of a grid, row by row.

    Example:
        >>> grid_positions(1, 2).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    rows, columns = (torch.arange(side, dtype=torch.float32, device=device) for side in (height, width))
    return torch.cartesian_prod(rows, columns)


def normalised(states: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    """Each token with mean 0 and variance 1."""
    return functional.layer_norm(states, states.shape[-1:])


def patches(pictures: Float[Tensor, "*lead channels height width"], side: int) -> Float[Tensor, "*lead rows columns numbers"]:
    """Squares of `side` x `side` cells as tokens of channels * side^2 numbers.

    Example:
        >>> patches(torch.zeros(2, 4, 6, 8), 2).shape, unpatched(torch.zeros(2, 3, 4, 16), 2).shape
        (torch.Size([2, 3, 4, 16]), torch.Size([2, 4, 6, 8]))
    """
    *lead, channels, height, width = pictures.shape
    cut = pictures.reshape(-1, channels, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(*lead, height // side, width // side, channels * side * side)


def unpatched(tokens: Float[Tensor, "*lead rows columns numbers"], side: int) -> Float[Tensor, "*lead channels height width"]:
    """The pictures whose `patches` these are."""
    *lead, rows, columns, numbers = tokens.shape
    cut = tokens.reshape(-1, rows, columns, numbers // side**2, side, side).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(*lead, numbers // side**2, rows * side, columns * side)
