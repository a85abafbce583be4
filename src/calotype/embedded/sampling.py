"""Sampling from a network in training, for sample sheets: both UNets predict v, so one preconditioning serves them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from calotype.core.samplers import sample

Network = Callable[[Tensor, float], Tensor]
"""(input at unit variance, sigma) -> v."""


@torch.no_grad()
def sample_v(network: Network, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Euler steps (for a VP model that is DDIM) from `noise` [B, ...] of unit variance down the levels `sigmas`."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        scale = (sigma * sigma + 1.0) ** -0.5
        return x * scale * scale - network(x * scale, sigma).float() * (sigma * scale)

    return sample(denoise, noise * (float(sigmas[0]) ** 2 + 1.0) ** 0.5, sigmas)
