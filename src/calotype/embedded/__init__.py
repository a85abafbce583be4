"""Training of the embedded models: one loop, one recipe per model, and the queue.

    train(name, *, budget="30m", seed=0, out=None, device="auto", warm_start=True, ship=True, checkpoints=None, events=SILENT)
        -> TrainResult
    train_pending(*, budget="20m", seed=0, device="auto", out=None, checkpoints=None, events=SILENT, validate=True) -> list[TrainResult]
    export_run(name, *, out=None, checkpoints=None) -> Path
    measure_gates(name, *, seed, count=None, checkpoints=None, device="auto", events=SILENT) -> dict[str, float]

A budget is a time (`90s`, `30m`, `1.5h`) or a number of steps (`500steps`). Everything is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calotype.embedded.api import TrainResult, export_run, measure_gates, pending, train, train_pending
    from calotype.embedded.card import Card, Gate
    from calotype.embedded.recipes import RECIPES
    from calotype.train.budget import Budget
    from calotype.train.recipe import Recipe, Settings, Source

_HOMES = {
    **dict.fromkeys(("TrainResult", "export_run", "measure_gates", "pending", "train", "train_pending"), "calotype.embedded.api"),
    **dict.fromkeys(("Recipe", "Settings", "Source"), "calotype.train.recipe"),
    **dict.fromkeys(("Card", "Gate"), "calotype.embedded.card"),
    "Budget": "calotype.train.budget",
    "RECIPES": "calotype.embedded.recipes",
}

__all__ = [
    "RECIPES", "Budget", "Card", "Gate", "Recipe", "Settings", "Source", "TrainResult", "export_run", "measure_gates", "pending", "train",
    "train_pending",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
