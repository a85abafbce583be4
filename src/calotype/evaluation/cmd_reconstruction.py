"""What CMD's autoencoder keeps of a clip, and where it keeps it: rows that need no diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import Events
from calotype.evaluation.experiment import Experiment, pieces
from calotype.evaluation.moving_clips import MovingClip, share_inside
from calotype.evaluation.report import Role
from calotype.metrics import psnr_within

BATCH = 26

Decoder = Callable[[Any, Tensor], Tensor]
"""From a model and the latents of clips to latents that stand for them."""


def reconstructed(model: Any, latents: Tensor) -> Tensor:
    """Encoded and decoded, with everything that there is."""
    encoded = model.split(latents)
    decoded: Tensor = model.join(encoded.content, encoded.motion)
    return decoded


def untouched(model: Any, latents: Tensor) -> Tensor:
    """The image autoencoder alone."""
    return latents


def content_repeated(model: Any, latents: Tensor) -> Tensor:
    """The content frame in place of every frame."""
    content = model.split(latents).content
    return torch.stack([content] * latents.shape[1], dim=1)


def one_projection(model: Any, latents: Tensor, *, kept: str) -> Tensor:
    """Half of the motion; the other half is its own mean over time, so that it tells what is there and not what moves."""
    encoded = model.split(latents)
    other = "columns" if kept == "rows" else "rows"
    still = getattr(encoded.motion, other).mean(2, keepdim=True).expand_as(getattr(encoded.motion, other))
    decoded: Tensor = model.join(encoded.content, encoded.motion._replace(**{other: still}))
    return decoded


def uniform_mean(model: Any, latents: Tensor) -> Tensor:
    """The plain mean of the frames in place of the learned one; the decoder never saw such."""
    decoded: Tensor = model.join(latents.mean(1), model.split(latents).motion)
    return decoded


def middle_frame(model: Any, latents: Tensor) -> Tensor:
    """The middle frame in place of the content frame; the decoder never saw such."""
    decoded: Tensor = model.join(latents[:, latents.shape[1] // 2], model.split(latents).motion)
    return decoded


def crossed(model: Any, contents: Tensor, motions: Tensor) -> Tensor:
    """The content frame of some clips with the motion of others."""
    decoded: Tensor = model.join(model.split(contents).content, model.split(motions).motion)
    return decoded


class ReconstructionExperiment(Experiment):
    """Rows about encoding and decoding."""

    def __init__(self, model: Any, seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.model = model
        self._latents: dict[int, Tensor] = {}

    def latents(self, items: Sequence[MovingClip]) -> Float[Tensor, "batch frames channels height width"]:
        """Latents of the true clips, each encoded once."""
        missing = [item for item in items if id(item) not in self._latents]
        for some in pieces(missing, BATCH):
            made = self.model.encode_clips(torch.stack([item.frames for item in some]))
            self._latents.update({id(item): one for item, one in zip(some, made, strict=True)})
        return torch.stack([self._latents[id(item)] for item in items])

    def run(self, variant: str, role: Role, items: Sequence[MovingClip], decode: Decoder) -> None:
        """A row: every clip decoded that way, against the true one."""

        def make(some: Sequence[MovingClip], _: Events) -> Iterable[Tensor]:
            made: Tensor = self.model.decode_clips(decode(self.model, self.latents(some)))
            return made

        self.measured(variant, role, pieces(items, BATCH), make, MovingClip.measure)

    def reconstructions(self, straight: Sequence[MovingClip], diagonal: Sequence[MovingClip], crossing: Sequence[MovingClip]) -> None:
        """Every part of the code, and what is lost without it."""
        for name, items in (("straight", straight), ("diagonal", diagonal), ("crossing", crossing)):
            self.run(f"image-autoencoder@{name}", "ceiling", items, untouched)
            self.run(f"reconstruction@{name}", "method", items, reconstructed)
            self.run(f"content-repeated@{name}", "baseline", items, content_repeated)
        for kept in ("rows", "columns"):
            self.run(f"{kept}-only@diagonal", "ablation", diagonal, partial(one_projection, kept=kept))
        self.run("uniform-mean@straight", "ablation", straight, uniform_mean)
        self.run("middle-frame@straight", "ablation", straight, middle_frame)

    def content_frames(self, items: Sequence[MovingClip]) -> None:
        """Rows about what the content frame holds: of the clips, and of clips that stand still on their first frame."""
        moving, still = [], []
        for some in pieces(items, BATCH):
            latents = self.latents(some)
            content = self.model.split(latents).content
            frames, pictures = self.model.decode_clips(latents), self.model.decode_clips(content[:, None])[:, 0]
            standing = latents[:, :1].expand_as(latents)
            held = self.model.split(standing)
            error = (held.content - standing[:, 0]).abs().flatten(1).amax(1)
            decoded = self.model.decode_clips(self.model.join(held.content, held.motion))
            for row, item in enumerate(some):
                apart = (pictures[row] - frames[row]).square().sum(1).mean(0)
                static = (~item.swept).expand(item.num_frames, -1, -1)
                same = pictures[row][:, None].expand(-1, item.num_frames, -1, -1)
                moving.append(
                    {
                        "static_psnr_db": psnr_within(same, frames[row].transpose(0, 1), static),
                        "ghosts_inside": share_inside(apart, item.swept),
                        "swept_share": float(item.swept.float().mean()),
                    }
                )
                first = frames[row, 0][:, None].expand(-1, item.num_frames, -1, -1)
                still.append(
                    {
                        "content_error": float(error[row]),
                        "psnr_to_frame_db": psnr_within(decoded[row].transpose(0, 1), first, torch.ones_like(static)),
                    }
                )
            self.events.check()
        self.add("content-frame", "method", moving)
        self.add("still-clip", "method", still)

    def cross_decoding(self, items: Sequence[MovingClip]) -> None:
        """The content frame of each clip with the motion of another: of the same thing going another way, or of another thing."""
        others = [item.redirected() for item in items]
        neighbours = [*items[1:], items[0]]
        for variant, motions in (("cross-decoded", others), ("cross-decoded@other-thing", neighbours)):
            found = []
            for first, second in zip(pieces(items, BATCH), pieces(motions, BATCH), strict=True):
                made = self.model.decode_clips(crossed(self.model, self.latents(first), self.latents(second)))
                for item, other, frames in zip(first, second, made, strict=True):
                    found.append(cross_measures(item, other, frames))
                self.events.check()
            self.add(variant, "method", found)


def cross_measures(content: MovingClip, motion: MovingClip, frames: Float[Tensor, "frames 3 size size"]) -> dict[str, float]:
    """Whose path the content's thing follows, in pixels, and how well the content's ground is kept where neither clip has anything."""
    track = content.follow(frames)
    errors = {}
    for name, clip in (("motion", motion), ("content", content)):
        away = torch.from_numpy(track.centroids - clip.seen.centroids).norm(dim=1)
        errors[f"{name}_path_error_px"] = float(away.nan_to_num(track.side / 2).mean())
    free = ~(content.swept | motion.swept).expand(content.num_frames, -1, -1)
    return {**errors, "ground_psnr_db": psnr_within(frames.transpose(0, 1), content.frames.transpose(0, 1), free)}
