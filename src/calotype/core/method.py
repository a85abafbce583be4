"""What every method is: one frozen dataclass whose fields are the hyper-parameters and whose call is the paper's algorithm box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from calotype.core.errors import InputError


class Evaluations(NamedTuple):
    """What a run asks of the network, about."""

    total: int
    """Rows that it evaluates, one picture or clip at one noise level each."""
    at_once: int
    """Rows of one call."""


class Method:
    """Base of every method. Subclasses are `@dataclass(frozen=True, kw_only=True)`.

    The fields (with the docstring below each) are the only source of the command line's flags, the docs table and the run record.
    `__call__(self, model, <inputs>, *, seed=0, events=SILENT)` runs the method; presets are class methods named in `presets`.
    """

    slug: ClassVar[str]
    """Kebab-case name, as in the index."""
    role: ClassVar[str]
    """Name of the protocol in `calotype.core.roles` that the model must satisfy."""
    presets: ClassVar[tuple[str, ...]] = ()
    """Class methods that return a ready-made configuration; the first one is the default. Without any, the fields' defaults are."""

    def prepare(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The call's arguments as a run records them, before the files among them are read.

        Raises:
            InputError: they can't be used.
        """
        return arguments

    def check(self, arguments: Mapping[str, Any]) -> None:
        """A last look at the call's arguments before a run folder is made and a model is loaded; files have been read.

        Raises:
            InputError: they can't be used, or don't fit together.
        """

    def evaluations(self) -> Evaluations | None:
        """What one run on one input costs, for estimates; None where that can't be told."""
        return None

    @classmethod
    def refuse_other_roles(cls, model: object, *, needs: str, attributes: tuple[str, ...] = ()) -> None:
        """Say why a model can't be used, before anything is computed.

        Args:
            model: what the method was given.
            needs: what the method needs and what can be taken, for the message.
            attributes: what the model must have beside its role's methods.

        Raises:
            InputError: the model isn't of the role `role`, or lacks an attribute.
        """
        from calotype.core import roles

        # A model of clips has all that a model of pictures has: what sets it apart is that it has a number of frames.
        fits = isinstance(model, getattr(roles, cls.role)) and (cls.role != "TextToImage" or not isinstance(model, roles.ImageToVideo))
        if not fits or not all(hasattr(model, name) for name in attributes):
            raise InputError(f"{getattr(model, 'name', type(model).__name__)} can't be used: {cls.slug} needs {needs}")
