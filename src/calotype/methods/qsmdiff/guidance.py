"""How a measurement corrects the prior's estimate: on the whole volume, because the dipole field of one voxel reaches all others.

Maps are x = chi / scale, [..., X, Y, Z], and the measurement y is divided by the same scale. A is the masked dipole convolution where a
field was measured, and the mask alone where a map was (super-resolution, denoising).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.core.dipole import DipoleOperator

Guidance = Literal["init", "dc", "proximal", "none"]
"""`init`: gradient steps that begin at the estimate; `dc`: measured frequencies replace the estimate's; `proximal`: the two are weighed
against each other by their errors; `none`: the prior alone."""
Guide = Callable[[Tensor, float], Tensor]
"""(estimate, noise level) -> corrected estimate."""
TV_UNIT = 0.15
"""The official code's scale in ppm, in which its weight of the total variation is given."""


@dataclass(frozen=True)
class Measurement:
    """What was measured, in units of the network's scale, and how a map would have made it."""

    values: Float[Tensor, "*batch x y z"]
    """0 outside the mask."""
    mask: Bool[Tensor, "*batch x y z"]
    dipole: DipoleOperator | None
    """None where a map itself was measured. It needs no mask of its own."""
    scale: float
    """ppm that are 1."""

    def forward(self, x: Float[Tensor, "*batch x y z"]) -> Float[Tensor, "*batch x y z"]:
        """A x."""
        return (x if self.dipole is None else self.dipole.convolve(x)) * self.mask

    def adjoint(self, y: Float[Tensor, "*batch x y z"]) -> Float[Tensor, "*batch x y z"]:
        """A^T y."""
        return y * self.mask if self.dipole is None else self.dipole.convolve(y * self.mask)


def gradient_steps(measured: Measurement, *, steps: int, size: float, tv: float) -> Guide:
    """`init`: x -= size grad(||A x - y||^2 + tv TV(x)), `steps` times. With A^T A <= 4/9 it converges for sizes below 2.25.

    The official code has no mask inside the norm and a periodic convolution; here the field counts where it is known.
    """
    weight = tv * TV_UNIT / measured.scale

    def guide(x: Tensor, sigma: float) -> Tensor:
        for _ in range(steps):
            slope = 2 * measured.adjoint(measured.forward(x) - measured.values)
            x = x - size * (slope + weight * variation_slope(x) if weight else slope)
        return x

    return guide


def data_consistency(measured: Measurement, *, threshold: float, weight: float, tv: float, size: float) -> Guide:
    """`dc`: where |D| >= threshold, F x <- (1 - weight) F x + weight F y / D; the cone stays the prior's. Then one step down in TV.

    The division is done once, before sampling.
    """
    dipole = measured.dipole
    slope = size * tv * TV_UNIT / measured.scale
    if dipole is not None:
        kernel = dipole.kernel(measured.values.dtype)
        well = kernel.abs() >= threshold
        division = torch.where(well, 1 / torch.where(well, kernel, 1.0), 0.0) * dipole.spectrum(measured.values)

    def guide(x: Tensor, sigma: float) -> Tensor:
        if dipole is None:
            x = torch.where(measured.mask, torch.lerp(x, measured.values, weight), x)
        else:
            spectrum = dipole.spectrum(x)
            x = dipole.volume(spectrum + weight * well * (division - spectrum))
        return x - slope * variation_slope(x) if slope else x

    return guide


def proximal(measured: Measurement, *, noise: float, strength: float, steps: int, tolerance: float = 0.02) -> Guide:
    """`proximal`: argmin ||A x - y||^2 / noise^2 + strength ||x - x0||^2 / r^2, with r^2 = sigma^2 / (1 + sigma^2).

    r is what the prior's estimate x0 of unit data is wrong by at level sigma, so early the measurement decides and late the prior does:
    measurement noise is denoised like everything else (Zhu et al. 2023, eq. 12). Solved by conjugate gradients that begin at x0; in the
    cone they leave x0 as it is. Without the mask the solution would be a division in k-space, which is the preconditioner: two or three
    iterations reach what plain ones reach in ten.

    Args:
        measured: the field.
        noise: standard deviation of the measurement, in ppm; above 0.
        strength: of the prior, 1 if r were its true error.
        steps: iterations at most.
        tolerance: share of the first residual, in the preconditioner's norm, at which they stop.
    """
    dipole, share = measured.dipole, float(measured.mask.float().mean())
    power = measured.mask.float() if dipole is None else share * dipole.kernel(measured.values.dtype).square()

    def guide(x0: Tensor, sigma: float) -> Tensor:
        ridge = strength * (noise / measured.scale) ** 2 * (1 + 1 / sigma**2)

        def precondition(r: Tensor) -> Tensor:
            return r / (power + ridge) if dipole is None else dipole.volume(dipole.spectrum(r) / (power + ridge))

        least = torch.finfo(x0.dtype).tiny
        x, residual = x0, measured.adjoint(measured.values - measured.forward(x0))
        direction, before, first = torch.zeros_like(x0), torch.ones(()), None
        for _ in range(steps):
            better = precondition(residual)
            size = _inner(residual, better)
            first = size if first is None else first
            if bool((size <= tolerance**2 * first).all()):
                break
            direction = better + size / before * direction
            image = measured.adjoint(measured.forward(direction)) + ridge * direction
            step = size / _inner(direction, image).clamp(min=least)
            x, residual = x + step * direction, residual - step * image
            before = size.clamp(min=least)
        return x

    return guide


def variation_slope(x: Float[Tensor, "*batch x y z"]) -> Float[Tensor, "*batch x y z"]:
    """A subgradient of the anisotropic total variation, sum |forward differences|."""
    slope = torch.zeros_like(x)
    for dim in (-3, -2, -1):
        n = x.shape[dim] - 1
        sign = x.diff(dim=dim).sign()
        slope.narrow(dim, 1, n).add_(sign)
        slope.narrow(dim, 0, n).sub_(sign)
    return slope


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-3, -2, -1), keepdim=True)
