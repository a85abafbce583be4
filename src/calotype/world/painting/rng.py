"""The random numbers of a scene: plain uniform doubles from a numbered stream, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


class Rng:
    """Uniform numbers of the stream `SeedSequence(key)`, handed out one by one.

    Only `Generator.random` is used, whose stream NumPy keeps stable; every other distribution is made from it here.

    >>> Rng(0, 1, 2).between(3.0, 3.0)
    3.0
    """

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))
        self._left: list[float] = []

    def next(self) -> float:
        """A number in [0, 1)."""
        if not self._left:
            self._left = self._generator.random(192).tolist()
        return self._left.pop()

    def between(self, low: float, high: float) -> float:
        """A number in [low, high], rounded to 5 decimals so that descriptions are the same everywhere."""
        return round(low + (high - low) * self.next(), 5)

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.next() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.next() * len(options))]

    def block(self, rows: int, columns: int) -> npt.NDArray[np.float64]:
        """An array of numbers in [0, 1)."""
        return self._generator.random((rows, columns))
