"""Several data sets as one, each with a share of the rows: real pictures and synthetic ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calotype.data.folders import DataSet
from calotype.errors import InputError

COUNT = 1_000_000
"""Different rows."""


class MixedData:
    """Rows by number: the number says which data set it is from, by the shares, and which of its rows.

    Only the first data set is held out from: the others are there to train on.

    Args:
        parts: whose rows have the same tensors, of the same shapes.
        shares: of each, about; they sum to 1.
        stream: of the draws.

    Raises:
        InputError: shares that don't belong to the parts.
    """

    def __init__(self, parts: Sequence[DataSet], shares: Sequence[float], *, stream: int = 0) -> None:
        if not parts or len(parts) != len(shares) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise InputError(f"the ratio is {list(shares)} for {len(parts)} data sets; it has one share for each, and they sum to 1")
        self.parts, self.shares, self.stream = tuple(parts), tuple(shares), stream

    def __len__(self) -> int:
        return COUNT

    @property
    def fingerprint(self) -> str:
        """Of all parts and their shares."""
        told: list[Any] = [self.shares, [part.fingerprint for part in self.parts]]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @property
    def pictures(self) -> Any:
        """What the first data set's windows are cut out of; it tells channels, classes and intensities."""
        return getattr(self.parts[0], "pictures", self.parts[0])

    def place(self, index: int) -> tuple[int, int]:
        """Which part a row is from, and the row's number there."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.stream, index, 57])))
        share, row = generator.random(2)
        part = int(np.searchsorted(np.cumsum(self.shares)[:-1], share, side="right"))
        return part, int(row * len(self.parts[part]))

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these numbers, stacked."""
        made = [self.parts[part].rows([row]) for part, row in map(self.place, indices)]
        return {name: torch.cat([one[name] for one in made]) for name in made[0]}

    def split(self, share: float, seed: int = 0) -> tuple[Any, Any]:
        """All parts but what is held out of the first one, and that."""
        train, held_out = self.parts[0].split(share, seed)
        return MixedData((train, *self.parts[1:]), self.shares, stream=self.stream), held_out
