"""Clips as latents of their frames, encoded once and kept on disk, for every training on clips."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.backbones.autoencoder import LatentSpace
from calotype.data.cache import cache_folder
from calotype.data.folders import FolderData
from calotype.train.latents import Chunks, latents_of

FOLDER = "clip-latents"
"""In the cache."""
ROWS = 16
"""Clips of a chunk."""


def clip_latents(data: FolderData, space: LatentSpace, *, pixels: bool = False) -> Chunks:
    """Rows of a data set of clips as `latents` [B, F, C, h, w] float16, scaled, and with `pixels` also `pixels` [B, F, 3, H, W] uint8.

    A chunk is found again by any training on the same files, fitted alike, with the same autoencoder; see `latents_of`.

    Args:
        data: gives `clip` [B, F, 3, H, W] in [0, 1]. What else its rows hold isn't kept.
        space: encodes the frames.
        pixels: whether the training needs them, too.
    """

    def encode(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return encoded(space, rows["clip"], pixels=pixels)

    return latents_of(data, encode, encoder=f"{_mark(space)} {pixels}", folder=cache_folder() / FOLDER, chunk=ROWS)


@torch.no_grad()
def encoded(space: LatentSpace, clips: Float[Tensor, "batch frames 3 height width"], *, pixels: bool = False) -> dict[str, Tensor]:
    """What `clip_latents` keeps of clips in [0, 1], on the CPU."""
    latents = space.encode(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
    made = {"latents": latents.to(torch.float16).cpu()}
    return {**made, "pixels": (clips * 255.0).round().to(torch.uint8)} if pixels else made


def _mark(space: LatentSpace) -> str:
    """A hash of the autoencoder's weights and scaling."""
    digest = hashlib.sha256(repr((type(space.vae).__name__, space.scaling_factor, space.factor)).encode())
    for name, value in sorted(space.vae.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
