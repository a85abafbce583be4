"""How long a training may take, and what the learning rate does on the way."""

from __future__ import annotations

import re
from dataclasses import dataclass

from calotype.errors import InputError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """A training's length in seconds or in steps; exactly one of them is set.

    A budget of steps makes a training that can be repeated bit for bit. With a budget of time
    the schedule follows the clock, so two runs differ.
    """

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        given = self.seconds if self.steps is None else self.steps
        if given is None or (self.seconds is not None and self.steps is not None) or not given > 0:
            raise InputError(f"a budget is a positive time or a positive number of steps, not seconds={self.seconds}, steps={self.steps}")

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read `90s`, `30m`, `1.5h` or `500steps`.

        Raises:
            InputError: anything else.

        >>> Budget.parse("1.5h").seconds
        5400.0
        >>> Budget.parse("500 steps").steps
        500
        """
        if isinstance(text, Budget):
            return text
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|steps?)\s*", text)
        if found is None:
            raise InputError(f"{text!r} is no budget; write a time such as 90s, 30m or 1.5h, or a number of steps such as 500steps")
        if found[2] in _UNITS:
            return cls(seconds=float(found[1]) * _UNITS[found[2]])
        if "." in found[1]:
            raise InputError(f"{text!r} is no budget: the number of steps must be whole")
        return cls(steps=int(found[1]))

    def progress(self, *, seconds: float, steps: int) -> float:
        """The share of the budget that is used up, 0 to 1.

        >>> Budget(seconds=60.0).progress(seconds=15.0, steps=3)
        0.25
        """
        share = steps / self.steps if self.steps is not None else seconds / (self.seconds or 1.0)
        return min(1.0, share)

    def split(self, share: float) -> Budget:
        """A part of this budget."""
        if self.steps is not None:
            return Budget(steps=max(1, int(self.steps * share)))
        return Budget(seconds=(self.seconds or 0.0) * share)

    def less(self, reserved: float) -> Budget:
        """What is left for training when measuring and exporting take `reserved` seconds; at least half. A budget of steps stays.

        >>> Budget(seconds=600.0).less(45.0).seconds, Budget(seconds=20.0).less(45.0).seconds
        (555.0, 10.0)
        """
        if self.seconds is None:
            return self
        return Budget(seconds=max(self.seconds - reserved, self.seconds / 2))

    def __str__(self) -> str:
        return f"{self.steps}steps" if self.steps is not None else f"{self.seconds:g}s"


def learning_rate_share(progress: float, step: int, *, warmup_steps: int, decay_share: float) -> float:
    """What the peak learning rate is multiplied by: linear warm-up over steps, a plateau, a linear fall to 0 at the end.

    >>> [learning_rate_share(p, 1000, warmup_steps=100, decay_share=0.3) for p in (0.1, 0.7, 0.85, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay_share <= 0:
        return warm
    return round(warm * min(1.0, max(0.0, (1.0 - progress) / decay_share)), 9)
