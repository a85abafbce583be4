"""What every experiment does: run variants on batches of scenes, time them, count model calls, and keep each scene's numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from calotype.core.events import Events
from calotype.evaluation.report import Role, Row

Item = TypeVar("Item")
Made = TypeVar("Made")


class CallCounter(Events):
    """Counts the network's evaluations; lets a stop through and keeps the inner steps to itself."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.calls = 0.0

    def metric(self, name: str, value: float) -> None:
        """Add up `model_calls`."""
        if name == "model_calls":
            self.calls += value

    def check(self) -> None:
        """Pass on."""
        self._events.check()


class Table:
    """Rows of numbers with those of every scene behind them, so that claims can compare scene by scene.

    Example:
        >>> table = Table()
        >>> table.add("method", "method", [{"iou": 0.5}, {"iou": 0.7}])
        >>> table.of("method", "iou"), table.rows[0].metrics["iou"]
        ([0.5, 0.7], 0.6)
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._scenes: dict[str, dict[str, list[float]]] = {}

    def add(self, variant: str, role: Role, scenes: Iterable[Mapping[str, float]]) -> None:
        """A row from the numbers of its scenes; all scenes have the same ones."""
        numbers: dict[str, list[float]] = {}
        for scene in scenes:
            for name, value in scene.items():
                numbers.setdefault(name, []).append(value)
        self._scenes[variant] = numbers
        self.rows.append(Row.of(variant, role, numbers))

    def __contains__(self, variant: str) -> bool:
        return variant in self._scenes

    def of(self, variant: str, metric: str) -> list[float]:
        """A row's numbers, one per scene."""
        return self._scenes[variant][metric]

    def scenes(self, variant: str) -> list[dict[str, float]]:
        """A row scene by scene."""
        numbers = self._scenes[variant]
        return [dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True)]


def run_batches(
    batches: Iterable[Sequence[Item]], make: Callable[[Sequence[Item], Events], Iterable[Made]], events: Events
) -> Iterator[tuple[Item, Made, dict[str, float]]]:
    """What is made of every item, with the `seconds` and the `model_calls` that one took.

    Args:
        batches: items that are made together.
        make: gives one result for each item of a batch, and tells its `model_calls` to the events that it is handed.
        events: hears one step for each item, and may stop.
    """
    for batch in batches:
        counter, began = CallCounter(events), time.perf_counter()
        made = list(make(batch, counter))
        spent = {"seconds": (time.perf_counter() - began) / len(batch), "model_calls": counter.calls / len(batch)}
        for item, one in zip(batch, made, strict=True):
            yield item, one, spent
        events.step(len(batch))
        events.check()
