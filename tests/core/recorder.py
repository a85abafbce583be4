"""A listener that keeps states as a run folder would: on an interruption at any step the last one is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from calotype.core.events import Events
from calotype.errors import Cancelled
from calotype.imaging.types import Image, Video


class Recorder(Events):
    """Remembers all it hears; stops the run after `stop_after` checks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.heard: list[str] = []
        self.notes: list[str] = []
        self.metrics: dict[str, float] = {}
        self.states: dict[str, dict[str, Tensor]] = {}
        self.previews: list[Image | Video] = []
        self.checks = 0
        self.steps = 0

    def stage(self, name: str, total: int | None = None) -> None:
        self.heard.append(f"stage {name} {total}")

    def step(self, advance: int = 1) -> None:
        self.steps += advance
        self.heard.append(f"step {advance}")

    def note(self, message: str) -> None:
        self.notes.append(message)

    def metric(self, name: str, value: float) -> None:
        self.metrics[name] = value

    def preview(self, make: Callable[[], Image | Video]) -> None:
        self.previews.append(make())

    def save_state(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        self.heard.append("save")
        self.states[key] = {name: tensor.clone() for name, tensor in tensors.items()}

    def load_state(self, key: str) -> dict[str, Tensor] | None:
        return self.states.get(key)

    def check(self) -> None:
        self.heard.append("check")
        self.checks += 1
        if self.stop_after is not None and self.checks >= self.stop_after:
            raise Cancelled("stopped; `calotype resume` continues")
