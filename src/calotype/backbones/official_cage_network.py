"""A network in the shape of CAGE's public weights, after its description: spatial, space-time and cross attention by turns.

Davtyan et al. 2024, arXiv 2403.14368. It has the inputs and the output of `calotype.backbones.control_video_network`, so that
`calotype.backbones.composable_video` runs either.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, ShapeError

PLACES = 512
"""Rows and columns that have a learned position."""
FARTHEST = 8
"""Frames between two frames that are told apart."""
PAST = 2
"""Frames before the targets: an earlier one and the reference. One that isn't known is noise."""


class MixingLayer(nn.Module):
    """Attention with a time for each token, then an MLP, each of the normalised state; no projection of what the heads give.

    Args:
        width: numbers of a token.
        heads: of width / heads numbers each; the logits are scaled by the root of the whole width.
        frames: whether tokens of several frames attend to each other, with a term for how far these are apart.
    """

    def __init__(self, width: int, heads: int, *, frames: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.time = nn.Linear(width, 3 * (width // heads), bias=False)
        self.distance = nn.Parameter(0.02 * torch.randn(2 * FARTHEST + 1, width // heads)) if frames else None
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, states: Tensor, waves: Tensor, numbers: Tensor | None = None) -> Tensor:
        """`states` [batch, tokens, width]; `waves` of the time of each token; `numbers` [batch, tokens] of their frames."""
        split = self.qkv(self.norm1(states)).unflatten(-1, (3, self.heads, -1)) + self.time(waves).unflatten(-1, (3, 1, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        bias = None
        scale = states.shape[-1] ** -0.5
        if self.distance is not None and numbers is not None:
            apart = (numbers[:, None, :] - numbers[:, :, None]).clamp(-FARTHEST, FARTHEST) + FARTHEST
            terms = query @ self.distance.T * scale
            bias = terms.gather(3, apart[:, None].expand(-1, self.heads, -1, -1))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
        states = states + mixed.transpose(1, 2).flatten(2)
        changed: Tensor = states + self.mlp(self.norm2(states))
        return changed


class OfficialCageTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Velocity of the last frames of a window, each at a flow time of its own.

    Args:
        latent_channels: C.
        grid: (rows, columns) of tokens of a frame, which are the latents' cells; the features have the same.
        width: numbers of a token.
        depth: blocks; the middle ones, from the third to the third from the end, have cross attention.
        heads: of the attention.
        feature_width: numbers of a control feature.

    Example:
        >>> network = OfficialCageTransformer(grid=(2, 3), width=16, depth=5, heads=2, feature_width=5)
        >>> window, absent = torch.zeros(1, 4, 4, 2, 3), torch.zeros(1, 3, 2, 3)
        >>> network(window, torch.tensor([[0, 1, 2, 3]]), torch.rand(1, 4), torch.zeros(1, 3, 5, 2, 3), absent).shape
        torch.Size([1, 3, 4, 2, 3])
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, latent_channels: int = 4, grid: tuple[int, int] = (16, 16), width: int = 768, depth: int = 9, heads: int = 8,
        feature_width: int = 384,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % (2 * heads):
            raise InputError(f"the width {width} is no multiple of twice {heads} heads")
        self.enter = nn.Linear(latent_channels, width)
        self.rows, self.columns = nn.Embedding(PLACES, width // 2), nn.Embedding(PLACES, width // 2)
        self.feats_project_in = nn.Linear(feature_width, width)
        self.absent = nn.Parameter(torch.randn(feature_width))
        self.spatial = nn.ModuleList(MixingLayer(width, heads, frames=False) for _ in range(depth))
        self.temporal = nn.ModuleList(MixingLayer(width, heads, frames=True) for _ in range(depth))
        self.cross = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, dropout=0.0, norm_first=True, batch_first=True)
            for _ in range(max(0, depth - 4))
        )
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.out = nn.Conv2d(width, latent_channels, 3, padding=1, bias=False)

    def forward(
        self, latents: Float[Tensor, "batch frames channels height width"], offsets: Int[Tensor, "batch frames"],
        times: Float[Tensor, "batch frames"], features: Float[Tensor, "batch targets numbers rows columns"],
        given: Float[Tensor, "batch targets rows columns"],
    ) -> Float[Tensor, "batch targets channels height width"]:  # fmt: skip
        """noise - x0 of the targets; see `ControlledVideoTransformer.forward`.

        An earlier frame or a reference that the window lacks is noise, always the same one, at time 0.

        Raises:
            ShapeError: the latents or the features don't have the grid that the network was made for.
        """
        rows, columns = self.config.grid
        targets = features.shape[1]
        if latents.shape[-2:] != (rows, columns) or features.shape[2:] != (self.config.feature_width, rows, columns):
            wanted = f"[..., {rows}, {columns}] and [..., {self.config.feature_width}, {rows}, {columns}]"
            raise ShapeError(f"latents are {list(latents.shape)} and features {list(features.shape)}; {wanted} are expected")
        lacking = PAST + targets - latents.shape[1]
        if lacking:
            noise = torch.randn(1, lacking, *latents.shape[2:], generator=torch.Generator().manual_seed(0)).to(latents)
            latents = torch.cat([noise.expand(len(latents), -1, -1, -1, -1), latents], 1)
            before = torch.arange(1 - PAST, 1 - PAST + lacking, device=offsets.device).expand(len(offsets), -1)
            offsets, times = torch.cat([before, offsets], 1), functional.pad(times, (lacking, 0))
        batch, frames = latents.shape[:2]
        place = torch.cat(
            [
                self.columns.weight[None, :columns].expand(rows, -1, -1),
                self.rows.weight[:rows, None].expand(-1, columns, -1),
            ],
            2,
        ).flatten(0, 1)
        states = self.enter(latents.permute(0, 1, 3, 4, 2).flatten(2, 3)) + place
        chosen = torch.where(given.flatten(2)[..., None] > 0, features.flatten(3).transpose(2, 3), self.absent)
        told = functional.pad(chosen, (0, 0, 0, 0, frames - targets, 0))
        told[:, : frames - targets] = self.absent
        conditions = (self.feats_project_in(told) + place.detach()).flatten(0, 1)
        waves = get_timestep_embedding(
            200.0 * (1.0 - times.flatten()), self.config.width, flip_sin_to_cos=True, downscale_freq_shift=0.0
        ).to(states.dtype)  # fmt: skip
        cells = rows * columns
        each = waves[:, None].expand(-1, cells, -1)
        every, numbers = each.reshape(batch, frames * cells, -1), offsets.repeat_interleave(cells, 1)
        for number, (spatial, temporal) in enumerate(zip(self.spatial, self.temporal, strict=True)):
            flat = spatial(states.flatten(0, 1), each)
            flat = temporal(flat.reshape(batch, frames * cells, -1), every, numbers).reshape(batch * frames, cells, -1)
            if 2 <= number < 2 + len(self.cross):
                flat = self.cross[number - 2](flat, conditions)
            states = flat.unflatten(0, (batch, frames))
        made = self.head(states[:, -targets:]).transpose(2, 3).unflatten(3, (rows, columns))
        velocity: Tensor = self.out(made.flatten(0, 1)).unflatten(0, (batch, targets))
        return -velocity
