"""Noise schedules: sigma tables, float64, [n + 1], falling to a last level of 0."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from calotype.core.errors import InputError

Table = Float64[Tensor, " levels"]


def karras_sigmas(num_inference_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Table:
    """The levels of Karras et al. 2022, eq. 5: evenly spaced in sigma^(1/rho).

    Args:
        num_inference_steps: n, at least 1.
        sigma_min: last level before 0, > 0 (SVD: 0.002).
        sigma_max: first level (SVD: 700).
        rho: larger values put more steps at low noise.

    Returns:
        [n + 1], float64.

    Example:
        >>> karras_sigmas(3, 0.002, 80.0).tolist()[0], karras_sigmas(3, 0.002, 80.0).tolist()[-1]
        (80.0, 0.0)
    """
    _check_steps(num_inference_steps)
    if not 0 < sigma_min <= sigma_max or (num_inference_steps > 1 and sigma_min == sigma_max):
        raise InputError(f"sigma_min is {sigma_min} and sigma_max {sigma_max}; 0 < sigma_min < sigma_max must hold")
    ramp = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    # The power loses the last digit of the ends.
    sigmas[0] = sigma_max
    if num_inference_steps > 1:
        sigmas[-1] = sigma_min
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def _check_steps(num_inference_steps: int) -> None:
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps is {num_inference_steps}; it must be at least 1")
