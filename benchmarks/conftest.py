"""Every benchmark names a figure and its target; at the end they are written to results/bench.csv."""

from __future__ import annotations

import csv
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent.parent / "results" / "bench.csv"
HEADER = ("figure", "value", "unit", "target", "holds", "torch", "machine")

Record = Callable[[str, float, str, str, bool | None], None]


@pytest.fixture(scope="session")
def _figures() -> Iterator[list[tuple[str, ...]]]:
    import torch

    rows: list[tuple[str, ...]] = []
    yield rows
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    measured = {row[0]: (*row, torch.__version__, machine) for row in rows}
    RESULTS.parent.mkdir(exist_ok=True)
    kept: dict[str, tuple[str, ...]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            kept = {row[0]: tuple(row) for row in list(csv.reader(file))[1:]}
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        # A run of some benchmarks leaves the other figures as they are.
        writer.writerows((kept | measured).values())


@pytest.fixture
def record(_figures: list[tuple[str, ...]]) -> Record:
    """`record(figure, value, unit, target, holds)` keeps one line of the table."""

    def keep(figure: str, value: float, unit: str, target: str, holds: bool | None) -> None:
        _figures.append((figure, f"{value:.4g}", unit, target, "" if holds is None else "yes" if holds else "no"))

    return keep
