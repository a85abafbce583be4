"""The listener of the tests: it remembers all that a run says, and keeps states as a run folder would."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from calotype.core.events import Events
from calotype.errors import Cancelled
from calotype.imaging.types import Image, Video


class Recorder(Events):
    """Remembers all it hears; stops the run at check number `stop_after`. On an interruption at any step the last state is there.

    `heard` has everything in order; `stages` has each stage's name, its number of steps and how many were done.
    """

    def __init__(self, stop_after: int | None = None, states: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        self.stop_after = stop_after
        self.heard: list[str] = []
        self.stages: list[tuple[str, int | None, int]] = []
        self.notes: list[str] = []
        self.metrics: dict[str, float] = {}
        self.states = {key: dict(state) for key, state in (states or {}).items()}
        self.previews: list[Image | Video] = []
        self.checks = 0
        self.steps = 0

    def stage(self, name: str, total: int | None = None) -> None:
        self.heard.append(f"stage {name} {total}")
        self.stages.append((name, total, 0))

    def step(self, advance: int = 1) -> None:
        self.steps += advance
        self.heard.append(f"step {advance}")
        if self.stages:
            name, total, done = self.stages[-1]
            self.stages[-1] = (name, total, done + advance)

    def note(self, message: str) -> None:
        self.heard.append(f"note {message}")
        self.notes.append(message)

    def metric(self, name: str, value: float) -> None:
        self.heard.append(f"metric {name}")
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
