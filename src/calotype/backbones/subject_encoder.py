"""The subject encoder of `toy-subject`: a picture of a subject to a few visual rows as wide as word embeddings."""

from __future__ import annotations

from typing import cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import ShapeError


class SubjectEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Four convolutions down to an eighth of the side, then learnt queries that read the grid, as a Q-Former's do.

    Args:
        size: side of the picture in pixels.
        tokens: how many visual rows.
        width: of the rows.
        channels: of the four convolutions.
        heads: of the reading attention; divides `width`.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, size: int = 64, tokens: int = 4, width: int = 128, channels: tuple[int, ...] = (32, 64, 96, 128), heads: int = 4
    ) -> None:
        super().__init__()
        before = (3, *channels[:-1])
        strides = (2, 2, 2, 1)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=s, padding=1) for i, o, s in zip(before, channels, strides, strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, o), o) for o in channels)
        self.heads = heads
        self.position_embed = nn.Parameter(0.02 * torch.randn((size // 8) ** 2, channels[-1]))
        self.query_embed = nn.Parameter(torch.randn(tokens, width))
        self.to_k, self.to_v = nn.Linear(channels[-1], width), nn.Linear(channels[-1], width)
        self.norm = nn.LayerNorm(width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm_out = nn.LayerNorm(width)
        nn.init.constant_(self.norm_out.weight, 0.3)  # as wide as the toy family's word embeddings

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """Pixels in [0, 1], the subject on a plain ground, to visual rows.

        Raises:
            ShapeError: another size.
        """
        size = self.config.size
        if tuple(pixels.shape[1:]) != (3, size, size):
            raise ShapeError(f"the subject encoder takes [B, 3, {size}, {size}], not {list(pixels.shape)}")
        x = (pixels * 2.0 - 1.0).to(cast(nn.Conv2d, self.convs[0]).weight.dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.silu(norm(conv(x)))
        cells = x.flatten(2).transpose(1, 2) + self.position_embed
        queries = self.query_embed[None].expand(len(x), -1, -1).to(cells.dtype)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, self.to_k(cells), self.to_v(cells)))
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).float().softmax(-1).to(v.dtype)
        read = (scores @ v).transpose(1, 2).flatten(2)
        made = read + self.mlp_out(functional.gelu(self.mlp_in(self.norm(read))))
        rows: Tensor = self.norm_out(made)
        return rows
