"""A method of a few lines for tests of run folders and of the command line: it needs no checkpoint, keeps its state and can be slow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch

from calotype.core.events import SILENT, Events
from calotype.core.method import Method, Place
from calotype.core.noise import noise
from calotype.data import as_image
from calotype.errors import InputError
from calotype.imaging.files import refuse_existing
from calotype.imaging.types import Image, Video


@dataclass(frozen=True)
class Wobble:
    """How the fade wobbles."""

    strength: float = 0.1
    """Standard deviation of the wobble, in [0, 1]."""
    repeats: int = 1
    """How often it is added; 0 is off."""


@dataclass(frozen=True, kw_only=True)
class ToyFade(Method):
    """Fades from one picture to another, with noise."""

    slug: ClassVar[str] = "toy-fade"
    role: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ("paper", "quick")

    num_inference_steps: int = 8
    """Steps of the fade."""
    num_frames: int = 4
    """Frames of the clip."""
    delay: float = 0.0
    """Seconds that each step takes."""
    fault: Literal["none", "error", "strange"] = "none"
    """What goes wrong half way."""
    wobble: Wobble = field(default_factory=Wobble)
    """The wobble of the fade."""

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps is {self.num_inference_steps}; it must be 1 or more")
        if not 1 <= self.num_frames <= 100 or not 0 <= self.delay <= 1:
            raise InputError(f"num_frames is {self.num_frames} (1 to 100) and delay {self.delay} (0 to 1)")

    @classmethod
    def paper(cls) -> Self:
        """The defaults."""
        return cls()

    @classmethod
    def quick(cls) -> Self:
        """Two steps."""
        return cls(num_inference_steps=2)

    def __call__(
        self, model: None, start: Image, end: Image | None = None, *, gain: float = 1.0, seed: int = 0, events: Events = SILENT
    ) -> Video:
        """Fade.

        Args:
            start: the first picture.
            end: the last picture; without it, `start` again.
            gain: factor on the noise.
        """
        first = as_image(start, size=(32, 32), name="start", events=events).pixels
        last = first if end is None else as_image(end, size=(32, 32), name="end", events=events).pixels
        x, position = torch.zeros(self.num_frames, 3, 32, 32), 0
        state = events.load_state("fade")
        if state is not None:
            x, position = state["x"], int(state["position"])
        events.stage("fade", self.num_inference_steps)
        events.step(position)
        while position < self.num_inference_steps:
            if position == self.num_inference_steps // 2 and self.fault != "none":
                raise (
                    InputError("fault: half way there was an error; choose none") if self.fault == "error" else ZeroDivisionError("strange")
                )
            weight = torch.linspace(0, 1, self.num_frames).reshape(-1, 1, 1, 1)
            for repeat in range(self.wobble.repeats):
                x = x + gain * self.wobble.strength * noise(x.shape, seed, position, stream=repeat)
            x = 0.9 * x + 0.1 * ((1 - weight) * first + weight * last)
            position += 1
            time.sleep(self.delay)
            events.step()
            events.preview(partial(Video, x.clamp(0, 1), 4.0))
            events.save_state("fade", {"x": x, "position": torch.tensor(position)})
            events.check()
        events.metric("model_calls", self.num_inference_steps)
        return Video(x.clamp(0, 1), 4.0)


@dataclass(frozen=True, kw_only=True)
class ToyStamp(Method):
    """Brightens a picture by as much as a file has bytes, and may write how much that was."""

    slug: ClassVar[str] = "toy-stamp"
    role: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ("paper",)

    table: Path | None = None
    """A file whose length counts, too."""

    @classmethod
    def paper(cls) -> Self:
        """The defaults."""
        return cls()

    def places(self, arguments: Mapping[str, Any]) -> tuple[Place, ...]:
        """The file that is written."""
        report = str(arguments.get("report") or "")
        return (*super().places(arguments), *((Place("report", "writes", report),) if report else ()))

    def __call__(
        self, model: None, image: Image, *, note: Path | None = None, report: str = "", seed: int = 0, events: Events = SILENT
    ) -> Image:
        """Stamp.

        Args:
            image: the picture.
            note: a file whose length counts.
            report: a file to write it to.
        """
        length = sum(len(path.read_bytes()) for path in (self.table, note) if path is not None)
        if report:
            refuse_existing(report)
            Path(report).write_text(str(length))
        return Image((as_image(image, events=events).pixels + length / 1000).clamp(0, 1))


METHOD = ToyFade
