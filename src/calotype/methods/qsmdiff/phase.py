"""From the phase of a gradient echo to the field, in ppm of the main field.

f = phase / (2 pi gamma B0 TE). What scanners store is neither unwrapped nor free of the field of air and bone, which is a hundred
times that of the brain; both are the work of other tools (see the method's page). Here are the units, the fit over echoes and a check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.errors import InputError, ShapeError

GYROMAGNETIC_RATIO = 42.577478518
"""Of the proton, in MHz per tesla (CODATA 2018)."""
RAW = 100
"""Span in whole numbers from which a field of whole numbers is taken for a scanner's raw phase."""
WRAPPED = 0.002
"""Share of neighbouring voxels that differ by more than pi from which a phase is taken to be wrapped."""


def radians_per_ppm(echo_time: float, field_strength: float) -> float:
    """The phase in radians that a field of 1 ppm makes.

    Args:
        echo_time: in seconds.
        field_strength: in tesla.

    Raises:
        InputError: a number that isn't positive, or an echo time that must be milliseconds.

    Example:
        >>> round(radians_per_ppm(0.020, 3.0), 3)
        16.051
    """
    if not 0 < field_strength < 50:
        raise InputError(f"the field strength is {field_strength}; it must be in tesla, such as 3")
    if not 0 < echo_time < 0.5:
        raise InputError(f"the echo time is {echo_time}; it must be in seconds, such as 0.02")
    return 2 * math.pi * GYROMAGNETIC_RATIO * field_strength * echo_time


def refuse_raw_phase(
    values: Float[Tensor, "*batch x y z"], inside: Bool[Tensor, "x y z"], name: str = "the phase", otherwise: str = ""
) -> None:
    """Refuse what a scanner stores as phase: whole numbers that stand for -pi to pi.

    Args:
        values: in the file's own scale.
        inside: the voxels that count.
        name: what the message calls them.
        otherwise: what to do if the values are something else, for the message.

    Raises:
        InputError: all values in the mask are whole, and they span more than `RAW` of them.
    """
    chosen = values[..., inside]
    if bool((chosen == chosen.round()).all()) and float(chosen.max() - chosen.min()) > RAW:
        low, high = int(chosen.min()), int(chosen.max())
        raise InputError(
            f"{name} holds whole numbers from {low} to {high}, as scanners store phase (often -4096 to 4095, or 0 to 4095, for -pi to pi); "
            f"scale it to radians, unwrap it and remove the background field first{otherwise}"
        )


def wrapped_share(phase: Float[Tensor, "*batch x y z"], mask: Bool[Tensor, "x y z"]) -> float:
    """Share of the neighbouring pairs of voxels in the mask whose phases are more than pi apart; 0 for a smooth unwrapped phase."""
    jumps = pairs = 0
    for axis in (-3, -2, -1):
        n = phase.shape[axis]
        both = mask.narrow(axis, 1, n - 1) & mask.narrow(axis, 0, n - 1)
        apart = (phase.narrow(axis, 1, n - 1) - phase.narrow(axis, 0, n - 1)).abs() > math.pi
        jumps += int((apart & both).sum())
        pairs += int(both.sum()) * math.prod(phase.shape[:-3])
    return jumps / max(pairs, 1)


def field_from_phase(
    phase: Float[Tensor, "*echoes x y z"],
    mask: Bool[Tensor, "x y z"],
    echo_times: Sequence[float],
    field_strength: float,
    *,
    sign: int = 1,
) -> Float[Tensor, "x y z"]:
    """The field in ppm from unwrapped phase: phase = 2 pi gamma B0 TE f, for several echoes the line through 0 of least squares.

    All echoes count alike: f is the sum of TE phase over the sum of TE^2, in their units. What doesn't grow with TE (the coils' phase)
    must have been removed.

    Args:
        phase: radians, unwrapped; one volume, or one for each echo.
        mask: where the field is wanted; 0 is returned elsewhere.
        echo_times: in seconds, one for each volume.
        field_strength: in tesla.
        sign: -1 where the scanner's phase falls as the field rises.

    Raises:
        ShapeError: shapes differ, or not as many echo times as echoes.
        InputError: the phase is a scanner's raw one, wrapped, or not finite in the mask; a number out of range.

    Example:
        >>> import torch
        >>> everywhere = torch.ones(3, 3, 3, dtype=torch.bool)
        >>> field = field_from_phase(torch.full((3, 3, 3), 0.16051), everywhere, [0.020], 3.0)
        >>> round(float(field[1, 1, 1]), 4)
        0.01
    """
    echoes = phase if phase.ndim == 4 else phase[None]
    if echoes.ndim != 4 or echoes.shape[1:] != mask.shape or mask.dtype != torch.bool:
        raise ShapeError(f"the phase has shape {list(phase.shape)}, the mask {list(mask.shape)}; the mask must be bool and fit each echo")
    if len(echo_times) != len(echoes):
        raise ShapeError(f"{len(echo_times)} echo times were given for {len(echoes)} volumes of phase; give one for each")
    if sign not in (1, -1):
        raise InputError(f"sign is {sign}; it must be 1 or -1")
    if not bool(torch.isfinite(echoes[:, mask]).all()):
        raise InputError("the phase is NaN or infinite inside the mask; mask such voxels out")
    refuse_raw_phase(echoes, mask)
    share = wrapped_share(echoes, mask)
    if share > WRAPPED:
        raise InputError(
            f"the phase is wrapped: {100 * share:.1f} % of neighbouring voxels are more than pi apart; unwrap it first, with ROMEO say"
        )
    scales = [radians_per_ppm(time, field_strength) for time in echo_times]
    weights = echoes.new_tensor(scales) / sum(scale**2 for scale in scales) * sign
    return torch.where(mask, torch.einsum("exyz,e->xyz", torch.where(mask, echoes, 0), weights), 0)
