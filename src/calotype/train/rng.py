"""Randomness and data order that depend on (seed, step, place in the batch) alone: resumed and distributed runs draw the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class BatchRng:
    """Random numbers for some places of one step's batch; each place has its own generator.

    >>> whole, part = BatchRng(0, 5, range(4), 4), BatchRng(0, 5, [2, 3], 4)
    >>> bool((whole.normal((3,))[2:] == part.normal((3,))).all())
    True
    """

    def __init__(self, seed: int, step: int, places: Sequence[int], batch_size: int) -> None:
        self.seed, self.step = seed, step
        self.places = torch.tensor(list(places), dtype=torch.float32)
        self.batch_size = batch_size
        words = [int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0]) for place in places]
        self._generators = [torch.Generator("cpu").manual_seed(word) for word in words]

    def normal(self, shape: Sequence[int]) -> Float[Tensor, places * shape]:
        """Standard normal noise."""
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in self._generators])

    def uniform(self) -> Float[Tensor, " places"]:
        """Uniform in [0, 1), one per place."""
        return torch.cat([torch.rand(1, generator=generator) for generator in self._generators])

    def stratified(self) -> Float[Tensor, " places"]:
        """Uniform in [0, 1) with exactly one number in each of `batch_size` equal parts."""
        return ((self.places + self.uniform()) / self.batch_size).clamp(max=1.0 - 1e-6)


def rows_of_step(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Which of `count` samples a step sees: the first pass in order (they are independent draws), every later pass in an order of its own.

    >>> rows_of_step(1, 4, 100, seed=0)
    [4, 5, 6, 7]
    """
    rows = []
    orders: dict[int, np.ndarray] = {}
    for number in range(step * batch_size, (step + 1) * batch_size):
        turn, place = divmod(number, count)
        if turn and turn not in orders:
            orders[turn] = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, turn, 1]))).permutation(count)
        rows.append(int(orders[turn][place]) if turn else place)
    return rows
