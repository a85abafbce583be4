"""Data whose denoiser and probability-flow equation are known exactly: independent Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.core.denoiser import Denoiser


@dataclass(frozen=True)
class Gaussian:
    """Values ~ N(mean, deviation^2), independent."""

    mean: Tensor
    deviation: Tensor

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """The posterior mean of x0 given x = x0 + sigma n."""
        variance = self.deviation**2
        return (x * variance + self.mean * sigma**2) / (variance + sigma**2)

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The exact solution of the probability-flow equation from one level to another."""
        variance = self.deviation.double() ** 2
        scale = ((variance + sigma_next**2) / (variance + sigma**2)).sqrt()
        return (self.mean.double() + (x.double() - self.mean.double()) * scale).float()


GAUSSIAN = Gaussian(torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.2, 0.8]))


def counted(denoise: Denoiser) -> tuple[Denoiser, list[tuple[float, int]]]:
    """The same denoiser, and the list of its calls: noise level and rows."""
    calls: list[tuple[float, int]] = []

    def counting(x: Tensor, sigma: float) -> Tensor:
        calls.append((sigma, len(x)))
        return denoise(x, sigma)

    return counting, calls
