"""The listener of a run: writes `progress.jsonl`, previews and resumable states, and passes everything on to the console."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from calotype.core.errors import Cancelled, InputError
from calotype.core.events import Events, warnings_noted
from calotype.core.files import json_text
from calotype.core.types import Image, Video
from calotype.data import contact_sheet
from calotype.runs.state import StateStore

PROGRESS_NAME = "progress.jsonl"


class RunEvents(Events):
    """Listens for a run folder.

    Args:
        folder: the run folder.
        inner: another listener that hears everything too; it may raise `Cancelled` in `check`, and the state is then saved first.
        previews: write previews to `previews/`.
        elapsed: seconds that earlier sessions of this run took.
    """

    def __init__(self, folder: Path, inner: Events, *, previews: bool = False, elapsed: float = 0.0) -> None:
        self.folder = folder
        self.inner = inner
        self.previews = previews
        self.store = StateStore(folder / "state")
        self.metrics: dict[str, float] = {}
        self.notes: list[str] = []
        self._began = time.monotonic() - elapsed
        self._steps = 0
        self._next_preview = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        # One write a line in append mode: a killed process leaves whole lines.
        self._file = os.open(folder / PROGRESS_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock()
        self._noting = ExitStack()
        self._noting.enter_context(warnings_noted(self))

    def _lock(self) -> None:
        """One process a run folder; the lock goes with the process, however it ends."""
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise InputError(f"{self.folder} is still being worked on by another process; wait for it or stop it first") from None

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, earlier sessions included."""
        return time.monotonic() - self._began

    def log(self, event: str, **values: Any) -> None:
        """Append one line to `progress.jsonl`."""
        line = json_text({"seconds": round(self.elapsed, 3), "event": event, **values})
        os.write(self._file, f"{line}\n".encode())

    def close(self) -> None:
        """Close `progress.jsonl`."""
        self._noting.close()
        os.close(self._file)

    def stage(self, name: str, total: int | None = None) -> None:
        self._steps = 0
        self.log("stage", name=name, total=total)
        self.inner.stage(name, total)
        self._check()

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
        sheet = contact_sheet(picture) if isinstance(picture, Video) else picture
        number = len(list((self.folder / "previews").glob("[!.]*.png"))) + 1
        path = self.folder / "previews" / f"{number:04d}.png"
        sheet.save(path, overwrite=True)
        # At most a tenth of the time goes into previews.
        self._next_preview = self.elapsed + max(1.0, 9 * (time.monotonic() - began))
        self.log("preview", file=f"previews/{path.name}", done=self._steps)

    def save_state(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        self.store.offer(key, tensors)

    def load_state(self, key: str) -> dict[str, Tensor] | None:
        return self.store.load(key)

    def check(self) -> None:
        self._check()

    def _check(self) -> None:
        try:
            self.inner.check()
        except Cancelled:
            self.store.flush()
            raise


def last_second(folder: Path) -> float:
    """The time of the last whole line in `progress.jsonl`, 0.0 if there is none."""
    try:
        lines = (folder / PROGRESS_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        try:
            return float(json.loads(line)["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0.0
