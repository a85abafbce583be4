"""CMD's networks: clips as one content frame and a small motion latent, and the transformer that makes motion for a content frame.

Yu et al. 2024, arXiv 2403.14148, section 3 and appendix B; no official code was published. Clips are latents of an image autoencoder, or
pixels, frame by frame: [batch, frames, channels, height, width].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_2d_sincos_pos_embed, get_timestep_embedding
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.transformer import AdaptiveBlock, AdaptiveHead, SpaceTimeBlock, patches, unpatched
from calotype.errors import ShapeError

TIME_WIDTH = 256


class Motion(NamedTuple):
    """What of a clip isn't in its content frame."""

    rows: Float[Tensor, "batch numbers frames rows"]
    """Averages over the columns: what happens in each row of each frame (z_x in the paper)."""
    columns: Float[Tensor, "batch numbers frames columns"]
    """Averages over the rows (z_y)."""


class ContentMotion(NamedTuple):
    """A clip, encoded."""

    content: Float[Tensor, "batch channels height width"]
    """The content frame: at each place and channel a weighted mean of the frames."""
    motion: Motion
    weights: Float[Tensor, "batch frames channels height width"]
    """Of the frames in the mean, each in [0, 1], 1 in sum over the frames."""


class ContentMotionAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A clip as a content frame and motion, and back; section 3.1.

    The decoder's output is added to the content frame, which is what the paper's alone has to learn first.

    Args:
        channels: C of a frame.
        patch: cells of a frame along a side of a token.
        width: numbers of a token.
        depth: blocks of the encoder, and of the decoder.
        heads: of the attentions; width / heads is a multiple of 4.
        motion_channels: D, numbers of the motion at each row and column of tokens.

    Example:
        >>> autoencoder = ContentMotionAutoencoder(width=16, depth=1, heads=2, motion_channels=3)
        >>> encoded = autoencoder.encode(torch.randn(1, 5, 4, 8, 12))
        >>> encoded.content.shape, encoded.motion.rows.shape, encoded.motion.columns.shape
        (torch.Size([1, 4, 8, 12]), torch.Size([1, 3, 5, 4]), torch.Size([1, 3, 5, 6]))
        >>> autoencoder.decode(encoded.content, encoded.motion).shape
        torch.Size([1, 5, 4, 8, 12])
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, channels: int = 4, patch: int = 2, width: int = 384, depth: int = 12, heads: int = 8, motion_channels: int = 8
    ) -> None:
        super().__init__()
        numbers = channels * patch**2
        self.enter = nn.Linear(numbers, width)
        self.encoder = nn.ModuleList(SpaceTimeBlock(width, heads) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width)
        self.importance = nn.Linear(width, numbers)
        self.to_motion = nn.Linear(width, motion_channels)
        self.from_content, self.from_motion = nn.Linear(numbers, width), nn.Linear(motion_channels, width)
        self.decoder = nn.ModuleList(SpaceTimeBlock(width, heads) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, numbers)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def encode(self, clips: Float[Tensor, "batch frames channels height width"]) -> ContentMotion:
        """The content frame, a convex combination of the frames (a still clip's is its frame, exactly), and the motion.

        Raises:
            ShapeError: other channels, or sides that no whole number of tokens has.
        """
        side = self.config.patch
        if clips.ndim != 5 or clips.shape[2] != self.config.channels or any(length % side for length in clips.shape[3:]):
            raise ShapeError(f"clips are {list(clips.shape)}; [B, F, {self.config.channels}, h, w] with multiples of {side} are expected")
        states = self.enter(patches(clips, side))
        for block in self.encoder:
            states = block(states)
        states = self.encoder_norm(states)
        weights = unpatched(self.importance(states), side).float().softmax(dim=1)
        first = clips[:, :1].float()
        content = (first + (weights * (clips.float() - first)).sum(1, keepdim=True))[:, 0]
        rows, columns = (self.to_motion(states.mean(axis)).permute(0, 3, 1, 2) for axis in (3, 2))
        return ContentMotion(content, Motion(rows, columns), weights)

    def decode(
        self, content: Float[Tensor, "batch channels height width"], motion: Motion
    ) -> Float[Tensor, "batch frames channels height width"]:
        """A clip of as many frames as the motion has."""
        side = self.config.patch
        still = self.from_content(patches(content, side))[:, None]
        rows = self.from_motion(motion.rows.permute(0, 2, 3, 1))[:, :, :, None]
        columns = self.from_motion(motion.columns.permute(0, 2, 3, 1))[:, :, None]
        states = still + rows + columns
        for block in self.decoder:
            states = block(states)
        made: Tensor = content[:, None] + unpatched(self.leave(self.decoder_norm(states)), side).float()
        return made

    def forward(self, clips: Float[Tensor, "batch frames channels height width"]) -> Float[Tensor, "batch frames channels height width"]:
        """Encoded and decoded."""
        encoded = self.encode(clips)
        return self.decode(encoded.content, encoded.motion)


class MotionDiT(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A diffusion transformer of motion, given a content frame and a text; section 3.2 and appendix B.

    Tokens of both halves of the motion and of the content frame attend to each other; those of the motion are read out.

    Args:
        motion_channels: D.
        num_frames: F.
        rows, columns: of the motion.
        content_channels: C of the content frame.
        content_size: (height, width) of the content frame in cells.
        patch: steps along both axes of a token of the motion.
        content_patch: cells along a side of a token of the content frame.
        width: numbers of a token.
        depth: blocks.
        heads: of the attention.
        text_width: numbers of the text's feature.
        sees_content: False leaves the content frame's tokens out, so that motion depends on the text alone.

    Raises:
        ShapeError: patches that don't divide what they cut.

    Example:
        >>> network = MotionDiT(motion_channels=3, num_frames=4, rows=4, columns=6, content_size=(8, 12), width=16, depth=1, heads=2)
        >>> motion = Motion(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 6))
        >>> made = network(motion, torch.tensor([500.0]), torch.zeros(1, 4, 8, 12), torch.zeros(1, 128))
        >>> made.rows.shape, made.columns.shape
        (torch.Size([1, 3, 4, 4]), torch.Size([1, 3, 4, 6]))
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, *, motion_channels: int = 8, num_frames: int = 16, rows: int = 32, columns: int = 32, content_channels: int = 4,
        content_size: tuple[int, int] = (64, 64), patch: int = 2, content_patch: int = 4, width: int = 1152, depth: int = 28,
        heads: int = 16, text_width: int = 128, sees_content: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        cut = ((num_frames, patch), (rows, patch), (columns, patch), (content_size[0], content_patch), (content_size[1], content_patch))
        if any(length % side for length, side in cut):
            raise ShapeError(
                f"{num_frames} frames, {rows} rows, {columns} columns and a content frame of {content_size} can't be cut into patches of "
                f"{patch} and {content_patch}"
            )
        self.enter_rows, self.enter_columns = (nn.Linear(motion_channels * patch**2, width) for _ in range(2))
        if sees_content:
            self.enter_content = nn.Linear(content_channels * content_patch**2, width)
        self.group = nn.Parameter(0.02 * torch.randn(3 if sees_content else 2, width))
        self.text = nn.Linear(text_width, width)
        self.time, self.content_level = (nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(2))
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads) for _ in range(depth))
        self.rows_head, self.columns_head = (AdaptiveHead(width, motion_channels * patch**2) for _ in range(2))
        grids = [(num_frames // patch, length // patch) for length in (rows, columns)]
        if sees_content:
            grids.append((content_size[0] // content_patch, content_size[1] // content_patch))
        self.register_buffer("positions", torch.cat([_positions(width, grid) for grid in grids]), persistent=False)
        self.counts = [first * second for first, second in grids]

    def forward(
        self, motion: Motion, timesteps: Float[Tensor, " batch"], content: Float[Tensor, "batch channels height width"],
        text: Float[Tensor, "batch numbers"], content_timesteps: Float[Tensor, " batch"] | None = None,
    ) -> Motion:  # fmt: skip
        """What the network predicts of noisy motion (see the checkpoint's scheduler).

        Args:
            motion: noisy, normalised.
            timesteps: 0 to 1000.
            content: the content frame, perhaps with noise.
            text: a feature of the caption.
            content_timesteps: the noise level of the content frame as a timestep; None for a clean one.
        """
        config = self.config
        parts = [
            self.enter_rows(patches(motion.rows, config.patch)).flatten(1, 2) + self.group[0],
            self.enter_columns(patches(motion.columns, config.patch)).flatten(1, 2) + self.group[1],
        ]
        if config.sees_content:
            parts.append(self.enter_content(patches(content, config.content_patch)).flatten(1, 2) + self.group[2])
        states = torch.cat(parts, dim=1) + self.positions.to(content.dtype)
        level = torch.zeros_like(timesteps) if content_timesteps is None else content_timesteps
        told = self.time(_waves(timesteps)) + self.content_level(_waves(level)) + self.text(text)
        for block in self.blocks:
            states = block(states, told[:, None])
        rows, columns, *_ = states.split(self.counts, dim=1)
        frames = config.num_frames // config.patch
        made = (head(part, told[:, None]) for head, part in ((self.rows_head, rows), (self.columns_head, columns)))
        return Motion(*(unpatched(part.unflatten(1, (frames, -1)), config.patch) for part in made))


def _waves(timesteps: Tensor) -> Tensor:
    made: Tensor = get_timestep_embedding(timesteps, TIME_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0)
    return made


def _positions(width: int, grid: tuple[int, int]) -> Float[Tensor, "places width"]:
    """Fixed sines and cosines of both axes, as DiT has them."""
    made: Tensor = get_2d_sincos_pos_embed(width, grid, output_type="pt").float()
    return made
