"""What every method is: one frozen dataclass whose fields are the hyper-parameters and whose call is the paper's algorithm box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class Method:
    """Base of every method. Subclasses are `@dataclass(frozen=True, kw_only=True)`.

    The fields (with the docstring below each) are the only source of the command line's flags, the docs table and the run record.
    `__call__(self, model, <inputs>, *, seed=0, events=SILENT)` runs the method; presets are class methods named in `presets`.
    """

    slug: ClassVar[str]
    """Kebab-case name, as in the index."""
    role: ClassVar[str]
    """Name of the protocol in `calotype.core.roles` that the model must satisfy."""
    presets: ClassVar[tuple[str, ...]] = ("paper",)
    """Class methods that return a ready-made configuration; the first one is the default."""

    def prepare(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The call's arguments as a run records them: a last look at them before a run folder is made.

        Raises:
            InputError: they can't be used.
        """
        return arguments
