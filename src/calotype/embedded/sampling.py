"""Sampling from a network in training, for sample sheets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from calotype.core.denoiser import Preconditioner
from calotype.core.samplers import sample

Network = Callable[[Tensor, float], Tensor]
"""(input as the network sees it, sigma) -> its output."""


@torch.no_grad()
def sample_network(network: Network, preconditioner: Preconditioner, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Euler steps (for a VP model that is DDIM) from `noise` [B, ...] of unit variance down the levels `sigmas`."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return preconditioner.estimate(x, network(preconditioner.scale_input(x, sigma), sigma), sigma)

    return sample(denoise, noise * (float(sigmas[0]) ** 2 + 1.0) ** 0.5, sigmas)
