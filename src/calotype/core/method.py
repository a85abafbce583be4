"""What every method is: one frozen dataclass whose fields are the hyper-parameters and whose call is the paper's algorithm box."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, ClassVar, Literal, NamedTuple

from calotype.errors import InputError


class Evaluations(NamedTuple):
    """What a run asks of the network, about."""

    total: int
    """Rows that it evaluates, one picture or clip at one noise level each."""
    at_once: int
    """Rows of one call."""


class Place(NamedTuple):
    """Something on this machine that an argument or a setting names."""

    argument: str
    use: Literal["reads", "writes", "loads"]
    """A file that is read, one that is written, or a checkpoint: the name of an embedded model, a folder or a hub id."""
    path: str


class Method:
    """Base of every method. Subclasses are `@dataclass(frozen=True, kw_only=True)`.

    The fields (with the docstring below each) are the only source of the command line's flags, the docs table and the run record.
    `__call__(self, model, <inputs>, *, seed=0, events=SILENT)` runs the method; presets are class methods named in `presets`.
    """

    slug: ClassVar[str]
    """Kebab-case name, as in the index."""
    role: ClassVar[str]
    """The role that the model must have (`calotype.backbones.layouts` has them all); "" needs no model."""
    further_roles: ClassVar[tuple[str, ...]] = ()
    """Roles that the model may have instead, where an argument brings what it lacks."""
    presets: ClassVar[tuple[str, ...]] = ()
    """Class methods that return a ready-made configuration; the first one is the default. Without any, the fields' defaults are."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Fields that had another name in the version before, old name to new: records and command lines with the old one are still read."""

    def prepare(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The call's arguments as a run records them, before the files among them are read.

        Raises:
            InputError: they can't be used.
        """
        return arguments

    def reading(self) -> Mapping[str, Mapping[str, Any]]:
        """How the files of arguments are read: by argument name, keywords for the reader of its kind, such as how many frames of a clip."""
        return {}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """A last look at the call's arguments before a run folder is made and a model is loaded; files have been read.

        Raises:
            InputError: they can't be used, or don't fit together.
        """

    def places(self, arguments: Mapping[str, Any]) -> tuple[Place, ...]:
        """What a call with these plain arguments reads, writes or loads because one of them, or a field, names it.

        A record that came from somebody else is not done again before the user has agreed to these. Every `Path` is found by its type; a
        method that takes such names as text adds them. Nothing is opened.
        """
        own: dict[str, Any] = vars(self)
        return tuple(Place(name, "reads", str(path)) for name, value in {**own, **arguments}.items() for path in _paths(value))

    def evaluations(self) -> Evaluations | None:
        """What one run on one input costs, for estimates; None where that can't be told."""
        return None

    @classmethod
    def refuse_other_roles(cls, model: object, *, needs: str, capabilities: tuple[type, ...] = ()) -> None:
        """Say why a model can't be used, before anything is computed.

        Args:
            model: what the method was given.
            needs: what the method needs and what can be taken, for the message.
            capabilities: protocols of `calotype.core.roles` that it must satisfy beside its role's.

        Raises:
            InputError: the model isn't of the role `role` and doesn't stand for it, or lacks a capability.
        """
        roles = (getattr(model, "role", ""), *getattr(model, "stands_for", ()))
        if cls.role not in roles or not all(isinstance(model, capability) for capability in capabilities):
            raise InputError(f"{getattr(model, 'name', type(model).__name__)} can't be used: {cls.slug} needs {needs}")

    @staticmethod
    def refuse_missing_prompt(model: object, prompts: Sequence[str], *, says: str) -> None:
        """Refuse empty prompts where the checkpoint is guided by its prompt and would wander without one.

        Args:
            model: what the method was given; those that need a prompt say so by `needs_prompt`.
            prompts: of every picture or clip.
            says: what the prompt is to say, for the message.

        Raises:
            InputError: one of them is empty, or there is none.
        """
        if getattr(model, "needs_prompt", False) and not (prompts and all(prompt.strip() for prompt in prompts)):
            raise InputError(f"prompt is empty and {getattr(model, 'name', 'the model')} is guided by it; say {says}")


def _paths(value: Any) -> Iterator[PurePath]:
    """Every path in a value, however deep."""
    if isinstance(value, PurePath):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _paths(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name))
