"""What every evaluation is: one dataclass per method, whose fields are its flags and whose call measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from calotype.core.events import SILENT, Events
from calotype.evaluation.report import Report


class Evaluation(ABC):
    """Base of every evaluation. Subclasses are `@dataclass(frozen=True, kw_only=True)`.

    The fields, each with a default and a docstring below it, are the flags that `calotype eval NAME` takes beside those of every evaluation
    (seed, count, quick, record, device). The first paragraph of the class's docstring is the summary on its help page.
    """

    slug: ClassVar[str]
    """Name of the method that is evaluated, as in the index."""
    model: ClassVar[str] = ""
    """Embedded checkpoint that it runs on; "" if it needs none."""
    default_count: ClassVar[int]
    """Scenes; so many that it takes at most 8 minutes on 2 cores."""
    quick_count: ClassVar[int]
    """Scenes of a quick look."""

    def check(self, *, count: int | None, record: bool) -> None:  # noqa: B027 - a hook that may stay empty
        """A last look at what was asked for, before anything is loaded.

        Raises:
            InputError: it doesn't fit together.
        """

    @abstractmethod
    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """Measure on the eval split.

        Args:
            seed: makes the scenes and the noise.
            count: scenes; `default_count` (of a quick look `quick_count`) by default.
            quick: only to see that it runs.
            device: `auto`, `cpu`, `cuda`, ...
            events: hears the progress.

        Returns:
            Rows and claims.

        Raises:
            MissingError: the embedded checkpoint is missing.
        """

    def record(self, report: Report, *, command: str) -> None:
        """Write what `--record` writes: the files that the docs' tables are made from.

        Args:
            report: what the call returned.
            command: the command that repeats this evaluation.
        """
        report.record(command=command)

    def scenes(self, count: int | None, quick: bool) -> int:
        """How many scenes: what was asked for, else what suits."""
        return count or (self.quick_count if quick else self.default_count)

    def load(self, device: str) -> Any:
        """The embedded checkpoint.

        Raises:
            MissingError: it is not there.
        """
        from calotype.backbones import load

        return load(self.model, device=device)
