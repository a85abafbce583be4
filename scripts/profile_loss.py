"""Prints the error of a model's v by noise level on held-out samples, and draws it into docs/images/.

python scripts/profile_loss.py toy-t2i | toy-i2v
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from calotype.embedded.api import CHECKPOINTS
from calotype.embedded.networks import alphas_cumprod
from calotype.embedded.recipes import RECIPES
from calotype.embedded.t2i import LEAST_WEIGHT, SNR_CAP
from calotype.train.rng import BatchRng

IMAGES = Path(__file__).parent.parent / "docs" / "images"
TIMESTEPS = (10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 980)
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 80.0)
COUNT = 64


def sigma_of(timestep: int) -> float:
    """Stable Diffusion's noise level of a timestep."""
    alpha = float(alphas_cumprod()[timestep])
    return float(((1 - alpha) / alpha) ** 0.5)


def profile(name: str) -> list[tuple[float, float]]:
    """(sigma, mean squared error of v) for each level; 1 is about what a network that always says 0 gets."""
    recipe, rows = RECIPES[name], range(COUNT)
    with TemporaryDirectory() as folder:
        start = CHECKPOINTS / name
        trainee = recipe.build(seed=0, start=start, checkpoints=CHECKPOINTS).eval()
        source = recipe.source(trainee, split="tune", seed=7001, folder=Path(folder), checkpoints=CHECKPOINTS, start=start, device="cpu")
        levels = [sigma_of(timestep) for timestep in TIMESTEPS] if name == "toy-t2i" else list(SIGMAS)
        found = []
        for number, sigma in enumerate(levels):
            losses = []
            for first in range(0, COUNT, 16):
                batch = source.batch(rows[first : first + 16], BatchRng(7001, first // 16, range(16), 16), augment=False)
                losses.append(_error(trainee, batch, name, number, sigma))
            found.append((sigma, float(torch.cat(losses).mean())))
    return found


@torch.no_grad()
def _error(trainee: torch.nn.Module, batch: dict[str, Tensor], name: str, number: int, sigma: float) -> Tensor:
    if name == "toy-i2v":
        loss: Tensor = trainee({**batch, "sigma": torch.full_like(batch["sigma"], sigma)})
        return loss
    snr = sigma**-2
    weight = max(min(snr, SNR_CAP) / (snr + 1), LEAST_WEIGHT)
    weighted: Tensor = trainee({**batch, "timesteps": torch.full_like(batch["timesteps"], TIMESTEPS[number])})
    return weighted / weight


def main(name: str) -> None:
    """Print a Markdown table and draw the curve."""
    from matplotlib.figure import Figure

    found = profile(name)
    sys.stdout.write("| sigma | " + " | ".join(f"{sigma:.3g}" for sigma, _ in found) + " |" + "\n")
    sys.stdout.write("|---" * (len(found) + 1) + "|" + "\n")
    sys.stdout.write("| error of v | " + " | ".join(f"{error:.3f}" for _, error in found) + " |" + "\n")
    figure = Figure(figsize=(6, 3), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*found, strict=True), "o-")
    axes.set(xscale="log", xlabel="sigma", ylabel="mean squared error of v", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(IMAGES / f"{name}-loss.png")


if __name__ == "__main__":
    for model in sys.argv[1:] or ("toy-t2i", "toy-i2v"):
        main(model)
