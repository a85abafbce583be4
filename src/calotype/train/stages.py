"""What a training trains when: stages one after the other, and in each of them groups of weights with an optimiser of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MAIN = "main"
"""Name of the one optimiser, and of the one stage, of a training that has no more."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """What one optimiser trains, and its numbers where they differ from the training's."""

    modules: tuple[str, ...] = ("",)
    """Names of modules or parameters of the trainee; "" is all of it."""
    rate: float = 1.0
    """Times the training's learning rate."""
    optimizer: Literal["adamw", "muon"] | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None

    def has(self, parameter: str) -> bool:
        """Whether a parameter of that name belongs to it.

        >>> Group(modules=("encoder",)).has("encoder.weight"), Group(modules=("encoder",)).has("encoder_2.weight")
        (True, False)
        """
        return any(not name or parameter == name or parameter.startswith(f"{name}.") for name in self.modules)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training. What none of its groups has is frozen in it."""

    name: str = MAIN
    share: float = 1.0
    """Of the budget, relative to the other stages'."""
    groups: Mapping[str, Group] = field(default_factory=lambda: {MAIN: Group()})
    """By the name that `training_step` calls the optimiser."""
