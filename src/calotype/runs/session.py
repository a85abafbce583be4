"""What outlives one run: the loaded checkpoints, each on its device, and the lock under which a network does one run at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from calotype.core.method import Method
from calotype.runs.entries import ModelRequest
from calotype.runs.recorded import ResolveMethod
from calotype.runs.running import LoadModel, Observe, Run, rerun, resume, run, unobserved


@dataclass
class _Kept:
    """One checkpoint that is loaded, or about to be."""

    loading: threading.Lock = field(default_factory=threading.Lock)
    running: threading.RLock = field(default_factory=threading.RLock)
    model: Any = None


class Session:
    """Loads each checkpoint once, and lets a network do one run at a time. Threads may share a session.

    Runs on different networks may go on at the same time; those that ask for another number of threads, or for another way to add up on a
    GPU, would change it for one another.

    Args:
        load_model: loads the checkpoint that a request names.

    Example:
        >>> asked = []
        >>> with Session(lambda request: asked.append(request.name) or object()) as session:
        ...     same = session.load(ModelRequest("toy-t2i")) is session.load(ModelRequest("toy-t2i"))
        >>> same, asked
        (True, ['toy-t2i'])
    """

    def __init__(self, load_model: LoadModel) -> None:
        self._load_model = load_model
        self._kept: dict[ModelRequest, _Kept] = {}
        self._guard = threading.Lock()

    def load(self, request: ModelRequest) -> Any:
        """The checkpoint, from memory if it was loaded before with the same name, precision, device, offloading and bounds."""
        with self._guard:
            kept = self._kept.setdefault(request, _Kept())
        with kept.loading:
            if kept.model is None:
                kept.model = self._load_model(request)
            return kept.model

    @property
    def loaded(self) -> tuple[ModelRequest, ...]:
        """What is in memory."""
        with self._guard:
            return tuple(request for request, kept in self._kept.items() if kept.model is not None)

    def evict(self, request: ModelRequest | None = None) -> None:
        """Forget a checkpoint, or all: the memory is free once no run has it any more."""
        with self._guard:
            for each in [request] if request is not None else list(self._kept):
                self._kept.pop(each, None)

    @contextmanager
    def held(self, models: Iterable[Any]) -> Iterator[None]:
        """Keep some of the loaded checkpoints for this thread; waits until no other run has them."""
        wanted = list(models)
        with self._guard:
            # All sessions' threads take the locks in this one order, so that none waits for another in a circle.
            kept = [each for each in self._kept.values() if any(each.model is model for model in wanted if model is not None)]
        with ExitStack() as stack:
            for each in kept:
                stack.enter_context(each.running)
            yield

    def run(self, method: Method, arguments: Mapping[str, Any], *, observe: Observe = unobserved, **options: Any) -> Run:
        """As `calotype.runs.run`, which has the options."""
        return run(method, arguments, self.load, observe=self._observing(observe), **options)

    def resume(self, source: Any, *, resolve_method: ResolveMethod, observe: Observe = unobserved, **options: Any) -> Run:
        """As `calotype.runs.resume`, which has the options."""
        return resume(source, resolve_method=resolve_method, load_model=self.load, observe=self._observing(observe), **options)

    def rerun(self, source: Any, *, resolve_method: ResolveMethod, observe: Observe = unobserved, **options: Any) -> Run:
        """As `calotype.runs.rerun`, which has the options."""
        return rerun(source, resolve_method=resolve_method, load_model=self.load, observe=self._observing(observe), **options)

    def _observing(self, observe: Observe) -> Observe:
        @contextmanager
        def both(models: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
            with self.held(models.values()), observe(models) as seen:
                yield seen

        return both

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.evict()
