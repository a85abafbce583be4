"""Susceptibility from the field without a learned prior: the four baselines that QSMDiff is compared with.

Each takes the field in ppm and a `DipoleOperator`, and gives chi in ppm. Where the operator has a mask, the field counts inside it alone
and the result is 0 outside. The mean of chi leaves no trace in the field, so a map is known up to a constant only. Defaults are for a
clean field (noise of 0.002 ppm); noise wants a higher threshold or weight, and fewer iterations of NDI.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.dipole import DipoleOperator
from calotype.errors import InputError

Fill = Literal["clamp", "zero"]


def tkd(
    field: Float[Tensor, "*batch x y z"], dipole: DipoleOperator, threshold: float = 0.15, *, fill: Fill = "clamp"
) -> Float[Tensor, "*batch x y z"]:
    """Thresholded k-space division (Shmueli et al. 2009; with zeros, Wharton et al. 2010).

    F chi = F f / D where |D| > threshold. Nearer to the cone, `clamp` divides by the threshold with D's sign and `zero` puts 0.

    Args:
        field: in ppm.
        dipole: the convolution; its mask, if any, is applied to field and result.
        threshold: |D| up to which nothing is divided by D, in (0, 2/3).
        fill: what becomes of the cone.

    Returns:
        chi in ppm.

    Raises:
        InputError: a threshold out of range, an unknown fill.

    Example:
        >>> import torch
        >>> dipole = DipoleOperator((8, 8, 8), (1, 1, 1), (0, 0, 1), padding=1)
        >>> chi = torch.zeros(8, 8, 8)
        >>> chi[4, 4, 4] = 1.0
        >>> found = tkd(dipole.forward(chi), dipole, 0.05)
        >>> [round(float(found[4, 4, place]), 2) for place in (4, 7)]
        [0.92, -0.02]
    """
    if not 0 < threshold < 2 / 3:
        raise InputError(f"threshold is {threshold}; it must lie between 0 and 2/3, the largest |D|")
    if fill not in get_args(Fill):
        raise InputError(f"fill is {fill!r}; it must be one of: {', '.join(get_args(Fill))}")
    kernel = dipole.kernel(field.dtype)
    near = kernel.abs() <= threshold
    inverse = torch.where(near, kernel.sign() / threshold if fill == "clamp" else 0.0, 1 / torch.where(near, 1.0, kernel))
    return inside(dipole.volume(inverse * dipole.spectrum(inside(field, dipole))), dipole)


def l2(field: Float[Tensor, "*batch x y z"], dipole: DipoleOperator, weight: float = 1e-2) -> Float[Tensor, "*batch x y z"]:
    """Tikhonov's solution, argmin ||d * chi - f||^2 + weight ||chi||^2, in closed form: F chi = D F f / (D^2 + weight).

    There is no mask inside: f is taken to be 0 outside the brain and in the padding, and chi is free there. Bilgic et al. (2014) write
    it with the gradient of chi in the second term.

    Args:
        field: in ppm.
        dipole: the convolution; its mask, if any, is applied to field and result.
        weight: of the second term, positive.

    Returns:
        chi in ppm.

    Raises:
        InputError: a weight that is not positive.
    """
    _check(weight=weight)
    kernel = dipole.kernel(field.dtype)
    return inside(dipole.volume(kernel / (kernel**2 + weight) * dipole.spectrum(inside(field, dipole))), dipole)


def tv(
    field: Float[Tensor, "*batch x y z"],
    dipole: DipoleOperator,
    weight: float = 1e-4,
    *,
    penalty: float = 0.02,
    data_penalty: float = 0.1,
    iterations: int = 40,
) -> Float[Tensor, "*batch x y z"]:
    """Total variation, argmin 1/2 ||M (d * chi - f)||^2 + weight ||grad chi||_1, by ADMM (Bilgic et al. 2014; FANSI, Milovic et al. 2018).

    grad holds the forward differences over the periodic padded grid, divided by the voxel size relative to the geometric mean of the
    three. The splits are z = grad chi and, where there is a mask M, y = d * chi, so that every step is in closed form. With p `penalty`
    and q `data_penalty`:

        F chi = (q D F(y - v) + p F grad^T (z - u)) / (q D^2 + p |F grad|^2)
        z = soft(grad chi + u, weight / p),         u += grad chi - z
        y = (M f + q (d * chi + v)) / (M + q),      v += d * chi - y

    chi is free outside the mask, also in the padding, where it may stand for sources that the mask cuts off.

    Args:
        field: in ppm.
        dipole: the convolution; its mask says where the field is known.
        weight: of the total variation, in ppm per voxel.
        penalty: p. The penalties change how fast the minimum is reached, not where it is: with FANSI's choice, p of 100 times the weight
            and q of 1, it takes some 200 iterations on a brain; with the defaults, 40.
        data_penalty: q, needed only with a mask.
        iterations: at least 1; each costs two transforms, with a mask four.

    Returns:
        chi in ppm, 0 outside the mask.

    Raises:
        InputError: a number that is not positive.
    """
    chi = minimise_tv(field, dipole, weight, penalty=penalty, data_penalty=data_penalty, iterations=iterations)
    x_size, y_size, z_size = dipole.shape
    return inside(chi[..., :x_size, :y_size, :z_size], dipole)


def minimise_tv(
    field: Float[Tensor, "*batch x y z"],
    dipole: DipoleOperator,
    weight: float,
    *,
    penalty: float = 0.02,
    data_penalty: float = 0.1,
    iterations: int = 40,
) -> Float[Tensor, "*batch padded_x padded_y padded_z"]:
    """What `tv` cuts its result from: chi on the whole padded grid, outside the mask as well."""
    p, q = penalty, data_penalty if dipole.mask is not None else 1.0
    _check(weight=weight, penalty=p, data_penalty=q, iterations=iterations)
    scales, dims = _scales(dipole), (-3, -2, -1)
    kernel = dipole.kernel(field.dtype)
    known = inside(field, dipole)
    data = q * kernel * dipole.spectrum(known)
    inverse = q * kernel**2 + p * _gradient_power(dipole, scales, field.dtype)
    inverse[0, 0, 0] = 1  # A constant has neither a field nor a gradient: it stays 0.
    inverse = 1 / inverse
    chi = torch.zeros(*field.shape[:-3], *dipole.padded, dtype=field.dtype, device=field.device)
    u, step, pull = [torch.zeros_like(chi) for _ in scales], torch.empty_like(chi), torch.zeros_like(chi)
    if dipole.mask is not None:
        mask, target = (_padded(part, dipole) for part in (dipole.mask.to(field.dtype), known))
        v = torch.zeros_like(chi)
    for _ in range(iterations):
        spectrum = torch.fft.rfftn(pull, dim=dims).mul_(p).add_(data).mul_(inverse)
        chi = torch.fft.irfftn(spectrum, s=dipole.padded, dim=dims)
        pull.zero_()
        for axis, scale in enumerate(scales):
            # With s = grad chi + u, soft thresholding takes off s what becomes u, and z - u = s - 2 u.
            s = _difference(chi, axis - 3, scale, step).add_(u[axis])
            torch.clamp(s, -weight / p, weight / p, out=u[axis])
            _add_transposed(s.sub_(u[axis], alpha=2), axis - 3, scale, pull)
        if dipole.mask is not None:
            s = torch.fft.irfftn(spectrum.mul_(kernel), s=dipole.padded, dim=dims).add_(v)
            y = (target + q * s).div_(mask + q)
            v = s - y
            data = torch.fft.rfftn(y.sub_(v), dim=dims).mul_(kernel).mul_(q)
    return chi


def ndi(
    field: Float[Tensor, "*batch x y z"],
    dipole: DipoleOperator,
    iterations: int = 40,
    *,
    radians_per_ppm: float = 16.05,
    step: float = 2.0,
    weight: float = 0.0,
) -> Float[Tensor, "*batch x y z"]:
    """Nonlinear dipole inversion (Polak et al. 2020): gradient descent on 1/2 ||M (e^{i d * chi} - e^{i f})||^2, stopped early.

    With chi and f in radians, chi -= step (A^T M sin(A chi - f) + weight chi). The sine makes jumps of 2 pi in the phase harmless.
    Stopping is the regularisation: each further iteration brings more of the cone back, and more noise.

    Args:
        field: in ppm.
        dipole: the convolution; its mask says where the field is known.
        iterations: at least 1.
        radians_per_ppm: phase that 1 ppm makes; see `calotype.methods.qsmdiff.phase.radians_per_ppm`. The default is 20 ms at 3 T.
        step: below 2 / (4/9 + weight) it converges; the paper's is 2.
        weight: of a small Tikhonov term, 0 or more.

    Returns:
        chi in ppm.

    Raises:
        InputError: a number out of range.
    """
    _check(iterations=iterations, radians_per_ppm=radians_per_ppm, step=step)
    if not 0 <= weight < 1:
        raise InputError(f"weight is {weight}; it must lie between 0 and 1")
    if step * (4 / 9 + weight) >= 2:
        raise InputError(f"step is {step}; above {2 / (4 / 9 + weight):.2f} the descent diverges, so choose a smaller one")
    phase = field * radians_per_ppm
    chi = torch.zeros_like(field)
    for _ in range(iterations):
        slope = dipole.adjoint(torch.sin(dipole.forward(chi) - phase))
        chi = chi - step * (slope + weight * chi)
    return inside(chi / radians_per_ppm, dipole)


def inside(volume: Float[Tensor, "*batch x y z"], dipole: DipoleOperator) -> Float[Tensor, "*batch x y z"]:
    """The volume, 0 outside the operator's mask."""
    return volume if dipole.mask is None else volume * dipole.mask


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{name} is {value}; it must be positive")


def _scales(dipole: DipoleOperator) -> list[float]:
    """What a difference along each axis is multiplied with: 1 for equal voxel sizes."""
    x, y, z = dipole.spacing
    mean = (x * y * z) ** (1 / 3)
    return [mean / size for size in dipole.spacing]


def _padded(volume: Float[Tensor, "*batch x y z"], dipole: DipoleOperator) -> Float[Tensor, "*batch x y z"]:
    added = [pair for whole, size in zip(dipole.padded, dipole.shape, strict=True) for pair in (whole - size, 0)]
    return torch.nn.functional.pad(volume, added[::-1])


def _gradient_power(dipole: DipoleOperator, scales: list[float], dtype: torch.dtype) -> Float[Tensor, "x y half"]:
    """|F grad|^2 on the half-spectrum: the sum of (2 scale sin(pi n / N))^2 over the axes."""
    power = torch.zeros(1, 1, 1, dtype=torch.float64)
    for axis, (size, scale) in enumerate(zip(dipole.padded, scales, strict=True)):
        n = torch.arange(size // 2 + 1 if axis == 2 else size, dtype=torch.float64)
        power = power + (2 * scale * torch.sin(torch.pi * n / size)).square().reshape([-1 if axis == place else 1 for place in range(3)])
    return power.to(dipole.device, dtype)


def _difference(volume: Tensor, dim: int, scale: float, out: Tensor) -> Tensor:
    """Forward difference with a periodic end, written to `out`."""
    n = volume.shape[dim]
    torch.sub(volume.narrow(dim, 1, n - 1), volume.narrow(dim, 0, n - 1), out=out.narrow(dim, 0, n - 1))
    torch.sub(volume.narrow(dim, 0, 1), volume.narrow(dim, n - 1, 1), out=out.narrow(dim, n - 1, 1))
    return out.mul_(scale) if scale != 1 else out


def _add_transposed(part: Tensor, dim: int, scale: float, out: Tensor) -> None:
    """Add the transpose of `_difference`, applied to `part`, to `out`."""
    n = part.shape[dim]
    out.sub_(part, alpha=scale)
    out.narrow(dim, 1, n - 1).add_(part.narrow(dim, 0, n - 1), alpha=scale)
    out.narrow(dim, 0, 1).add_(part.narrow(dim, n - 1, 1), alpha=scale)
