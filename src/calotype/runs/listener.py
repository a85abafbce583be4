"""The listener of a run: writes `progress.jsonl`, previews and resumable states, and passes everything on to the console."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from calotype.core.events import Events
from calotype.core.untrusted import number
from calotype.data import contact_sheet
from calotype.errors import InputError
from calotype.imaging.files import json_line
from calotype.imaging.types import Image, Video
from calotype.runs.state import StateStore

PROGRESS_NAME = "progress.jsonl"
_TAIL = 65_536
"""Bytes at its end that are looked at."""


class RunEvents(Events):
    """Listens for a run folder.

    Args:
        folder: the run folder.
        file: descriptor of `progress.jsonl` in it, for appending; whoever opened it closes it.
        inner: another listener that hears everything too; it may raise `Cancelled` in `check`.
        previews: write previews to `previews/`.
        elapsed: seconds that earlier sessions of this run took.
    """

    def __init__(self, folder: Path, file: int, inner: Events, *, previews: bool = False, elapsed: float = 0.0) -> None:
        self.folder = folder
        self.inner = inner
        self.previews = previews
        self.store = StateStore(folder / "state")
        self.metrics: dict[str, float] = {}
        self.notes: list[str] = []
        self._began = time.monotonic() - elapsed
        self._steps = 0
        self._next_preview = 0.0
        self._file = file

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, earlier sessions included."""
        return time.monotonic() - self._began

    def log(self, event: str, **values: Any) -> None:
        """Append one line to `progress.jsonl`."""
        line = json_line({"seconds": round(self.elapsed, 3), "event": event, **values})
        os.write(self._file, f"{line}\n".encode())

    def stage(self, name: str, total: int | None = None) -> None:
        self._steps = 0
        self.log("stage", name=name, total=total)
        self.inner.stage(name, total)
        self.check()

    def step(self, advance: int = 1) -> None:
        self._steps += advance
        self.log("step", done=self._steps)
        self.inner.step(advance)

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.log("note", message=message)
        self.inner.note(message)

    def metric(self, name: str, value: float) -> None:
        self.metrics[name] = value
        self.log("metric", name=name, value=value)
        self.inner.metric(name, value)

    def preview(self, make: Callable[[], Image | Video]) -> None:
        self.inner.preview(make)
        if not self.previews or self.elapsed < self._next_preview:
            return
        began = time.monotonic()
        picture = make()
        sample_grid = contact_sheet(picture) if isinstance(picture, Video) else picture
        number = len(list((self.folder / "previews").glob("[!.]*.png"))) + 1
        path = self.folder / "previews" / f"{number:04d}.png"
        sample_grid.save(path, overwrite=True)
        # At most a tenth of the time goes into previews.
        self._next_preview = self.elapsed + max(1.0, 9 * (time.monotonic() - began))
        self.log("preview", file=f"previews/{path.name}", done=self._steps)

    def save_state(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        self.store.offer(key, tensors)

    def load_state(self, key: str) -> dict[str, Tensor] | None:
        return self.store.load(key)

    def check(self) -> None:
        self.inner.check()


def last_second(file: int) -> float:
    """The time of the last whole line in `progress.jsonl`, given as its descriptor; 0.0 if there is none."""
    os.lseek(file, max(0, os.fstat(file).st_size - _TAIL), os.SEEK_SET)
    for line in reversed(os.read(file, _TAIL).decode("utf-8", "replace").splitlines()):
        try:
            return number(json.loads(line)["seconds"], "seconds", 0, 1e9)
        except (ValueError, KeyError, TypeError, RecursionError, InputError):
            continue
    return 0.0
