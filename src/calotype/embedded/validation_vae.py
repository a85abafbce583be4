"""The gates of `toy-vae`: how well it reconstructs new scenes, and how well its latents are conditioned."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import SILENT, Events

BATCH = 64


@torch.no_grad()
def validate(folder: Path, *, seed: int, count: int, device: str = "auto", events: Events = SILENT) -> dict[str, float]:
    """Figures on `count` scenes of the `eval` split.

    Returns:
        `psnr_db`: mean over pictures. `psnr_db_sd`: its standard deviation. `latent_condition`: largest over smallest eigenvalue of the
        channels' covariance. `latent_least`, `latent_most`: these eigenvalues. `latent_mean`: largest |channel mean|.
    """
    import calotype
    from calotype.embedded.networks import SIZE
    from calotype.metrics.pictures import psnr
    from calotype.world import paint, sample_scene

    model = calotype.load(str(folder), device=device, dtype="float32")
    events.stage("reconstruct", count)
    values, latents = [], []
    for start in range(0, count, BATCH):
        rows = range(start, min(count, start + BATCH))
        pictures = paint([sample_scene("small", split="eval", seed=seed, index=row) for row in rows], size=SIZE)
        encoded = model.encode(pictures)
        values.append(psnr(model.decode(encoded).cpu(), pictures))
        latents.append(encoded.float().cpu())
        events.step(len(rows))
    every, z = torch.cat(values), torch.cat(latents)
    eigenvalues = torch.linalg.eigvalsh(covariance(z))
    return {
        "psnr_db": float(every.mean()),
        "psnr_db_sd": float(every.std()) if len(every) > 1 else 0.0,
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
