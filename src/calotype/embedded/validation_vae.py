"""The gates of the autoencoders: how well they reconstruct new pictures, and how well their latents are conditioned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import SILENT, Events

BATCH = 64
COUNT, COUNT_PER_WORLD = 512, 128
"""Pictures, where there is one world and where there are several."""


@torch.no_grad()
def validate(
    folder: Path,
    *,
    worlds: Sequence[str] = ("scenes",),
    seed: int,
    count: int | None = None,
    device: str = "auto",
    events: Events = SILENT,
) -> dict[str, float]:
    """Figures on `count` pictures of the `eval` split, the worlds in turn; without a count `COUNT`, or `COUNT_PER_WORLD` of each.

    Returns:
        `psnr_db`: mean over pictures. `psnr_db_sd`: its standard deviation. `psnr_db_WORLD`: the mean over each of several worlds'
        pictures. `latent_condition`: largest over smallest eigenvalue of the
        channels' covariance. `latent_least`, `latent_most`: these eigenvalues. `latent_mean`: largest |channel mean|.
    """
    import calotype
    from calotype.embedded.worlds import paint_mix
    from calotype.metrics.pictures import psnr

    model = calotype.load(str(folder), device=device, dtype="float32")
    count = count or (COUNT if len(worlds) == 1 else COUNT_PER_WORLD * len(worlds))
    events.stage("reconstruct", count)
    values, latents = [], []
    for start in range(0, count, BATCH):
        rows = range(start, min(count, start + BATCH))
        pictures = paint_mix(worlds, split="eval", seed=seed, rows=rows)
        encoded = model.encode(pictures)
        values.append(psnr(model.decode(encoded).cpu(), pictures))
        latents.append(encoded.float().cpu())
        events.step(len(rows))
    every, z = torch.cat(values), torch.cat(latents)
    eigenvalues = torch.linalg.eigvalsh(covariance(z))
    several = {f"psnr_db_{world}": float(every[number :: len(worlds)].mean()) for number, world in enumerate(worlds[:count])}
    return {
        "psnr_db": float(every.mean()),
        "psnr_db_sd": float(every.std()) if len(every) > 1 else 0.0,
        **(several if len(worlds) > 1 else {}),
        "latent_condition": float(eigenvalues[-1] / eigenvalues[0]),
        "latent_least": float(eigenvalues[0]),
        "latent_most": float(eigenvalues[-1]),
        "latent_mean": float(z.mean((0, 2, 3)).abs().max()),
        "count": float(count),
    }


def covariance(latents: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "channels channels"]:
    """Covariance of the channels over samples and places."""
    flat = latents.transpose(0, 1).flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    return flat @ flat.T / (flat.shape[1] - 1)
