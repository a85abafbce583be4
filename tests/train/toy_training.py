"""The training of another package's method: the mean of points in a table, as small as a training can be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from calotype.core.events import SILENT, Events
from calotype.errors import DataError, InputError
from calotype.train.recipe import Source
from calotype.train.rng import BatchRng
from calotype.train.training import Training


@dataclass(frozen=True)
class Points:
    """The lines of a table; see `calotype.data.folders.DataSet`."""

    values: tuple[tuple[float, float], ...]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self.values).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"points": torch.tensor([self.values[index] for index in indices])}

    def split(self, share: float, seed: int = 0) -> tuple[Points, Points]:
        out = max(1, round(share * len(self.values)))
        return Points(self.values[out:]), Points(self.values[:out])


class Mean(nn.Module):
    """One point; the loss is how far it lies from the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.point = width, nn.Parameter(torch.zeros(2))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["points"] - self.point).square().sum(1)


class PointBatches:
    """See `calotype.train.recipe.Source`."""

    def __init__(self, data: Points, device: str) -> None:
        self.data, self.device, self.count = data, device, len(data)

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        numbers = [row % self.count for row in rows]
        return {name: values.to(self.device) for name, values in self.data.rows(numbers).items()}


@dataclass(frozen=True, kw_only=True)
class MeanTraining(Training):
    """The middle of points, from a folder with points.csv."""

    slug: ClassVar[str] = "toy-negative"

    width: int = 1
    """Of nothing."""

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> Points:
        """The table's lines."""
        path = data / "points.csv"
        if not path.is_file():
            raise InputError(f"{data} has no points.csv")
        values, problems = [], []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                x, y = map(float, line.split(","))
                values.append((x, y))
            except ValueError:
                problems.append(f"points.csv, line {number}: {line!r} is not two numbers")
        if problems:
            raise DataError(f"{len(problems)} lines of {path} can't be used", problems)
        return Points(tuple(values))

    def build(self, data: Points, *, seed: int, start: Path | None = None) -> Mean:
        """The point."""
        return Mean(self.width)

    def source(self, trainee: Any, data: Any, device: str) -> Source:
        """Batches of points."""
        return PointBatches(data, device)

    def write(self, trainee: Mean, folder: Path) -> None:
        """One text file."""
        (folder / "mean.txt").write_text(" ".join(f"{value:.3f}" for value in trainee.point.tolist()))
