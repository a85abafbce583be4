"""CAGE's network: clips of a few frames, of which some are given and some are made, with features of objects where they shall be.

Davtyan et al. 2024, arXiv 2403.14368. The official network is nine blocks of separate spatial, spatio-temporal and cross attention; this
one has the same inputs and output in one kind of block, full attention over all tokens of the window, which learns sooner.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.transformer import AdaptiveBlock, AdaptiveHead, grid_positions, patches, rotary_angles, unpatched
from calotype.errors import ShapeError

TIME_WIDTH = 128
FARTHEST = 8
"""Frames between a frame and the reference that are told apart."""


class ControlledVideoTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Velocity of the last frames of a window, each at a flow time of its own.

    Args:
        latent_channels: C.
        grid: (rows, columns) of tokens of a frame; the features have the same.
        patch: cells of the latents along a side of a token.
        width: numbers of a token.
        depth: blocks.
        heads: of the attention; width / heads is a multiple of 4.
        feature_width: numbers of a control feature.

    Example:
        >>> network = ControlledVideoTransformer(grid=(2, 3), width=16, depth=1, heads=2, feature_width=5)
        >>> window, absent = torch.zeros(1, 5, 4, 4, 6), torch.zeros(1, 3, 2, 3)
        >>> network(window, torch.tensor([[-3, 0, 1, 2, 3]]), torch.rand(1, 5), torch.zeros(1, 3, 5, 2, 3), absent).shape
        torch.Size([1, 3, 4, 4, 6])
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, latent_channels: int = 4, grid: tuple[int, int] = (8, 8), patch: int = 2, width: int = 128, depth: int = 4, heads: int = 4,
        feature_width: int = 48,
    ) -> None:  # fmt: skip
        super().__init__()
        self.enter = nn.Linear(latent_channels * patch**2, width)
        self.control = nn.Linear(feature_width, width)
        self.absent = nn.Parameter(0.1 * torch.randn(feature_width))
        """Stands where no feature is given."""
        self.offset = nn.Embedding(2 * FARTHEST + 1, width)
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads) for _ in range(depth))
        self.head = AdaptiveHead(width, latent_channels * patch**2)

    def forward(
        self, latents: Float[Tensor, "batch frames channels height width"], offsets: Int[Tensor, "batch frames"],
        times: Float[Tensor, "batch frames"], features: Float[Tensor, "batch targets numbers rows columns"],
        given: Float[Tensor, "batch targets rows columns"], kept: Int[Tensor, "batch tokens"] | None = None,
    ) -> Tensor:  # fmt: skip
        """The velocity noise - x0 of the targets, which are the window's last frames.

        Args:
            latents: (1 - time) x0 + time noise of each frame; what is known stands before the targets, what isn't is left out.
            offsets: number of each frame minus the reference frame's.
            times: flow time of each frame, 0 for a known one, 1 for pure noise.
            features: control features of the targets.
            given: 1 where a feature is given, 0 elsewhere.
            kept: numbers of the places (row by row) that are computed, the same in all frames; None for all.

        Returns:
            [batch, targets, channels, height, width]; with `kept`, [batch, targets, tokens, channels * patch^2] as `patches` cuts them.

        Raises:
            ShapeError: the latents or the features don't have the grid that the network was made for.
        """
        rows, columns = self.config.grid
        side, targets = self.config.patch, features.shape[1]
        if latents.shape[-2:] != (rows * side, columns * side) or features.shape[2:] != (self.config.feature_width, rows, columns):
            wanted = f"[..., {rows * side}, {columns * side}] and [..., {self.config.feature_width}, {rows}, {columns}]"
            raise ShapeError(f"latents are {list(latents.shape)} and features {list(features.shape)}; {wanted} are expected")
        states = self.enter(patches(latents, side).flatten(2, 3))
        chosen = torch.where(given.flatten(2)[..., None] > 0, features.flatten(3).transpose(2, 3), self.absent.to(features.dtype))
        states = states + functional.pad(self.control(chosen), (0, 0, 0, 0, states.shape[1] - targets, 0))
        positions = grid_positions(rows, columns, states.device).expand(len(states), -1, -1)
        if kept is not None:
            states = states.gather(2, kept[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[-1]))
            positions = positions.gather(1, kept[:, :, None].expand(-1, -1, 2))
        angles = rotary_angles(positions, self.config.width // self.config.heads).repeat(1, states.shape[1], 1)
        waves = get_timestep_embedding(1000.0 * times.flatten(), TIME_WIDTH, flip_sin_to_cos=True, scale=0.1, max_period=1000)
        told = self.time(waves.to(states.dtype).view(*times.shape, -1)) + self.offset((offsets + FARTHEST).clamp(0, 2 * FARTHEST))
        for block in self.blocks:
            states = block(states, told[:, :, None], angles)
        made = self.head(states[:, -targets:], told[:, -targets:, None])
        return made if kept is not None else unpatched(made.unflatten(2, (rows, columns)), side)
