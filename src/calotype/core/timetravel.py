"""Time travel: going back up in noise and denoising a stretch of the levels again, so that fused paths can come to agree.

The idea is RePaint's resampling (Lugmayr et al. 2022, section 4.2); time reversal fusion calls it noise re-injection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from calotype.core import fields
from calotype.errors import InputError

Move = tuple[Literal["down", "up"], int]
"""("down", k): denoise from level k to level k + 1. ("up", k): re-noise from level k + 1 back to level k."""


@dataclass(frozen=True, kw_only=True)
class Reinject:
    """Which stretch of the levels is denoised again, and how often.

    Example:
        >>> import torch
        >>> moves = resampling_schedule(torch.linspace(10, 0, 51), Reinject(ratio=0.8, length=5, repeats=1))
        >>> sum(kind == "down" for kind, _ in moves), sum(kind == "up" for kind, _ in moves)
        (55, 5)
        >>> moves[9:17]
        [('down', 9), ('up', 9), ('up', 8), ('up', 7), ('up', 6), ('up', 5), ('down', 5), ('down', 6)]
    """

    repeats: int = 1
    """How often each block of levels is done again; 0 is off. The papers' M (`jump_n_sample`) is repeats + 1."""
    length: int = 5
    """Levels in a block: how far one jump goes back (`jump_length`)."""
    rule: Literal["steps", "sigma"] = "steps"
    """`steps`: blocks are placed by `ratio`, as the paper's code does. `sigma`: they fill the levels from `sigma_max` to `sigma_min`."""
    ratio: float = 0.8
    """Rule `steps`: with n steps counted down from n - 1, jumps start at counts int(n * ratio), + length, ... < n - length."""
    sigma_min: float = 36.0
    """Rule `sigma`: the lowest noise level that is denoised again, in the checkpoint's own units (x = x0 + sigma n)."""
    sigma_max: float = 62.0
    """Rule `sigma`: the highest noise level that is denoised again."""
    noise_scale: float = 1.0
    """Factor on the re-injected noise; 1 restores the level's variance exactly."""

    def __post_init__(self) -> None:
        fields.at_least(self, 0, "repeats", "noise_scale")
        fields.at_least(self, 1, "length")
        fields.between(self, 0, 1, "ratio")
        fields.one_of(self, rule=("steps", "sigma"))
        if not 0 <= self.sigma_min <= self.sigma_max:
            raise InputError(f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}; 0 <= sigma_min <= sigma_max must hold")


def blocks(sigmas: Float[Tensor, " levels"], reinject: Reinject) -> list[tuple[int, int]]:
    """The stretches that are done again: (first step, last step), both inclusive, in the order in which they are met."""
    steps = len(sigmas) - 1
    if reinject.repeats == 0:
        return []
    if reinject.rule == "steps":
        counts = range(int(steps * reinject.ratio), steps - reinject.length, reinject.length)
        return [(steps - count - reinject.length, steps - 1 - count) for count in reversed(counts)]
    # A relative margin lets a level that was typed with a few digits include itself.
    margin = 1e-6
    inside = [k for k in range(steps) if reinject.sigma_min * (1 - margin) <= float(sigmas[k]) <= reinject.sigma_max * (1 + margin)]
    if not inside:
        return []
    return [(k, min(k + reinject.length - 1, inside[-1])) for k in range(inside[0], inside[-1] + 1, reinject.length)]


def resampling_schedule(sigmas: Float[Tensor, " levels"], reinject: Reinject) -> list[Move]:
    """The order in which `sample` visits the levels.

    Args:
        sigmas: the noise levels, [n + 1], falling.
        reinject: what is done again; `Reinject(repeats=0)` gives the plain schedule down.

    Returns:
        Every step down once in order, and after each block its steps up and down again, `repeats` times.
    """
    ends = {last: first for first, last in blocks(sigmas, reinject)}
    moves: list[Move] = []
    for k in range(len(sigmas) - 1):
        moves.append(("down", k))
        if k in ends:
            for _ in range(reinject.repeats):
                moves += [("up", j) for j in range(k, ends[k] - 1, -1)]
                moves += [("down", j) for j in range(ends[k], k + 1)]
    return moves
