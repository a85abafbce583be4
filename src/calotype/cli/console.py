"""What the user sees: results on stdout, everything else on stderr; progress with the time that is left."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from calotype.core.events import Events
from calotype.errors import Cancelled, printable

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 5.0
"""Seconds between two lines of progress where stderr is no terminal."""


@functools.cache
def _console(stderr: bool, stream: Any, terminal: bool) -> Console:
    # Where there is no terminal a table should not be squeezed into 80 columns.
    return Console(stderr=stderr, file=None if terminal else stream, width=None if terminal else 160, soft_wrap=False, emoji=False)


def results() -> Console:
    """The console for results."""
    return _console(False, sys.stdout, sys.stdout.isatty())


def errors() -> Console:
    """The console for progress, notes and errors."""
    return _console(True, sys.stderr, sys.stderr.isatty())


def seconds_text(seconds: float) -> str:
    """A duration for a reader.

    Example:
        >>> seconds_text(4.21), seconds_text(75), seconds_text(7300)
        ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


class ConsoleEvents(Events):
    """Shows stages as bars with the time that is left, or as plain lines where stderr is no terminal; hears Ctrl-C."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.stop = False
        self._progress: Progress | None = None
        self._task: Any = None
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._skipped = 0
        self._began = time.monotonic()
        self._spoke = self._began

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish_stage()
        self._name, self._total, self._done, self._skipped = name, total, 0, 0
        self._began = self._spoke = time.monotonic()
        if self.quiet:
            return
        if errors().is_terminal:
            if self._progress is None:
                self._progress = _bars()
                self._progress.start()
            self._task = self._progress.add_task(name, total=total)
        else:
            self._line(f"{name}, {total} steps" if total else name)

    def step(self, advance: int = 1) -> None:
        if self._done == 0 and advance > 1:
            self._skipped = advance  # A resumed run says at once what was done before; that tells nothing about its speed.
        self._done += advance
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=advance)
        elif not self.quiet and time.monotonic() - self._spoke >= PATIENCE:
            self._spoke = time.monotonic()
            spent = self._spoke - self._began
            told = f"{self._name} {self._done}"
            if self._total:
                left = spent / max(self._done - self._skipped, 1) * (self._total - self._done)
                told += f"/{self._total}, {seconds_text(spent)} so far, about {seconds_text(left)} left"
            self._line(told)

    def note(self, message: str) -> None:
        if not self.quiet:
            self._say("note: ", message)

    def check(self) -> None:
        if self.stop:
            raise Cancelled("stopped; before it was finished")

    def close(self) -> None:
        """End the display; bars of finished stages stay."""
        self._finish_stage()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _finish_stage(self) -> None:
        if self._progress is not None and self._task is not None:
            total = self._total or 1
            self._progress.update(self._task, total=total, completed=self._done if self._total else total)
            self._progress.stop_task(self._task)
            self._task = None

    def _line(self, text: str) -> None:
        errors().print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _say(self, label: str, text: str) -> None:
        console = self._progress.console if self._progress is not None else errors()
        console.print(f"{label}{printable(text)}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> ConsoleEvents:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _bars() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Steps(MofNCompleteColumn):
        """Nothing where the number of steps isn't known."""

        def render(self, task: Any) -> Any:
            return super().render(task) if task.total and task.total > 1 else ""

    class Left(TimeRemainingColumn):
        """The time that is left, where it can be told."""

        def render(self, task: Any) -> Any:
            if task.finished or task.total is None or task.time_remaining is None:
                return ""
            return Text.assemble(super().render(task), (" left", "dim"))

    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        Steps(),
        TimeElapsedColumn(),
        Left(),
        console=errors(),
    )


@contextmanager
def starting(*, quiet: bool) -> Iterator[None]:
    """A sign of life while the libraries are imported, on a terminal."""
    if quiet or not errors().is_terminal:
        yield
        return
    with errors().status("[dim]starting"):
        yield


@contextmanager
def listening(*, quiet: bool) -> Iterator[ConsoleEvents]:
    """A listener for one command. The first Ctrl-C asks for a stop after the current step, the second one stops at once."""
    events = ConsoleEvents(quiet=quiet)

    def interrupted(number: int, frame: Any) -> None:
        if events.stop:
            raise KeyboardInterrupt
        events.stop = True
        events._say("", "stopping after this step; Ctrl-C again stops at once")

    try:
        previous = signal.signal(signal.SIGINT, interrupted)
    except ValueError:  # Not in the main thread: whoever runs us there handles signals.
        previous = None
    try:
        with events:
            yield events
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)
