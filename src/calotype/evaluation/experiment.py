"""What every experiment does: run variants on batches of scenes, time them, count model calls, and keep each scene's numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from calotype.core.events import Events
from calotype.evaluation.report import Claim, Report, Role, Row
from calotype.metrics import Interval, bootstrap, difference, mean, ratio

LEAST_SCENES = 40
"""Fewer scenes give no verdict."""
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


class ResultTable:
    """Rows of numbers with those of every scene behind them, so that claims can compare scene by scene.

    Example:
        >>> table = ResultTable()
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

    def mean(self, variant: str, metric: str) -> Interval:
        """A row's mean with its bootstrap interval; scenes without a number are left out, here and below."""
        return bootstrap(mean, self.of(variant, metric))

    def difference(self, variant: str, other: str, metric: str) -> Interval:
        """By how much one row is above another that has the same scenes, on average."""
        return bootstrap(difference, self.of(variant, metric), self.of(other, metric))

    def ratio(self, variant: str, other: str, metric: str) -> Interval:
        """The mean of one row over that of another that has the same scenes."""
        return bootstrap(ratio, self.of(variant, metric), self.of(other, metric))

    def scenes(self, variant: str) -> list[dict[str, float]]:
        """A row scene by scene."""
        numbers = self._scenes[variant]
        return [dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True)]


class Experiment(ResultTable):
    """Makes a table's rows, and the report of it.

    Args:
        seed: of scenes and noise.
        events: hears one step per scene and row.
    """

    def __init__(self, seed: int, events: Events) -> None:
        super().__init__()
        self.seed, self.events, self._began = seed, events, time.perf_counter()

    def measured(
        self,
        variant: str,
        role: Role,
        batches: Iterable[Sequence[Item]],
        make: Callable[[Sequence[Item], Events], Iterable[Made]],
        measure: Callable[[Item, Made], Mapping[str, float]],
    ) -> None:
        """A row: every item's result, measured, with its cost; see `run_batches`."""
        made = run_batches(batches, make, self.events)
        self.add(variant, role, ({**measure(item, one), **spent} for item, one, spent in made))

    def report(self, slug: str, count: int, model: object, claims: Sequence[Claim] = (), notes: Sequence[str] = ()) -> Report:
        """The report of all rows so far; its time is that since the experiment was made.

        Args:
            slug: name of the method.
            count: scenes of the main experiment.
            model: that it ran on; one without a device is on the CPU.
            claims: what was claimed.
            notes: what a reader has to know.
        """
        device = str(getattr(model, "device", "cpu"))
        return Report(slug, self.seed, count, device, time.perf_counter() - self._began, self.rows, claims, notes)


def pieces(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """In pieces of at most `size`.

    Example:
        >>> pieces("abcde", 2)
        ['ab', 'cd', 'e']
    """
    return [items[first : first + size] for first in range(0, len(items), size)]


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
