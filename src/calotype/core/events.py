"""What long work tells its listeners: stages, steps, notes, metrics, previews and resumable states.

Library code never prints. It calls the `Events` object that it was given; progress bars, `progress.jsonl` and the web page are subclasses.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from calotype.imaging.types import Image, Video


class Events:
    """A listener that ignores everything. Subclass it and override what you want to hear."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins; `total` is its number of steps where that is known."""

    def step(self, advance: int = 1) -> None:
        """`advance` steps of the current stage are done."""

    def note(self, message: str) -> None:
        """Something that the user should know, in one line (a conversion, a warning)."""

    def metric(self, name: str, value: float) -> None:
        """A number worth recording, such as `model_calls`."""

    def preview(self, make: Callable[[], Image | Video]) -> None:
        """An intermediate result can be made by calling `make`; a listener that wants none never calls it."""

    def save_state(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Offer a resumable state. The listener decides how often it writes one."""

    def load_state(self, key: str) -> dict[str, Tensor] | None:
        """The last state saved under `key` by an interrupted run, or None."""
        return None

    def check(self) -> None:
        """Raise `Cancelled` if the user asked to stop. Called once a step, after `save_state`."""


class Stateless(Events):
    """Passes everything on but states: for runs that keep something a state doesn't hold, and so must begin again after a stop.

    Example:
        >>> Stateless(SILENT).load_state("sample") is None
        True
    """

    def __init__(self, events: Events) -> None:
        self._events = events

    def stage(self, name: str, total: int | None = None) -> None:
        """Pass on."""
        self._events.stage(name, total)

    def step(self, advance: int = 1) -> None:
        """Pass on."""
        self._events.step(advance)

    def note(self, message: str) -> None:
        """Pass on."""
        self._events.note(message)

    def metric(self, name: str, value: float) -> None:
        """Pass on."""
        self._events.metric(name, value)

    def preview(self, make: Callable[[], Image | Video]) -> None:
        """Pass on."""
        self._events.preview(make)

    def check(self) -> None:
        """Pass on."""
        self._events.check()


class _Notes(logging.Handler):
    """Notes what one thread logs as a warning, each line once."""

    def __init__(self, events: Events) -> None:
        super().__init__(logging.WARNING)
        self._events, self._thread = events, threading.get_ident()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.thread == self._thread and line not in self._said:
            self._said.add(line)
            self._events.note(line)


@contextmanager
def warnings_noted(events: Events) -> Iterator[None]:
    """Within the block, what the library logs as a warning in this thread is a note, each line once.

    Models have no listener: they log what a user should know, such as a prompt that is too long for the text encoder.

    Example:
        >>> class Prints(Events):
        ...     def note(self, message: str) -> None:
        ...         print(message)
        >>> with warnings_noted(Prints()):
        ...     for _ in range(2):
        ...         logging.getLogger("calotype.backbones").warning("the prompt is too long")
        the prompt is too long
    """
    handler, logger = _Notes(events), logging.getLogger("calotype")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


SILENT = Events()
