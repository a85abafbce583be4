"""What a method asks for, read from its annotations and docstrings: the one source of flags, records and tables."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import sys
import textwrap
import types
import typing
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.runs.artifact import ArtifactKind

_HANDLED = ("self", "model", "seed", "events")


@dataclass(frozen=True)
class Parameter:
    """One argument of a method's call."""

    name: str
    kind: str
    """The name of an artifact kind (`calotype.runs.kinds`) for what is given as files, "model" for a second checkpoint (annotated with a
    role), "value" for anything else."""
    annotation: Any
    """The type that a plain value has; for files and checkpoints, None."""
    default: Any
    """The default, or `inspect.Parameter.empty` where the user must give one."""
    help: str
    """Its line in the docstring's `Args:`."""
    artifact: ArtifactKind | None = None
    """That kind."""
    several: bool = False
    """Whether several files are given."""
    role: str = ""
    """Of a checkpoint: the protocol in its annotation."""

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def call_parameters(method: type) -> tuple[Parameter, ...]:
    """The arguments of `method.__call__` that a user gives: all but the main model, the seed and the events.

    Raises:
        InputError: an argument without an annotation, or one that can't be resolved.
    """
    call = method.__call__
    notes = argument_notes(inspect.getdoc(call) or "")
    result = []
    for name, parameter in inspect.signature(call).parameters.items():
        if name in _HANDLED:
            continue
        if parameter.annotation is inspect.Parameter.empty:
            raise InputError(f"{method.__name__}.__call__: the argument {name} has no annotation; every argument needs one")
        annotation = resolve(parameter.annotation, method)
        note, default = notes.get(name, ""), parameter.default
        role, files = _role(annotation), _files(annotation)
        if role:
            result.append(Parameter(name, "model", None, default, note, role=role))
        elif files is not None:
            result.append(Parameter(name, files[0].name, None, default, note, *files))
        else:
            result.append(Parameter(name, "value", annotation, default, note))
    return tuple(result)


def field_types(configuration: type) -> dict[str, Any]:
    """The resolved annotation of every field of a dataclass."""
    owners = {name: owner for owner in reversed(configuration.__mro__) for name in inspect.get_annotations(owner)}
    return {field.name: resolve(field.type, owners.get(field.name, configuration)) for field in fields(configuration)}


def field_default(field: Any) -> Any:
    """A dataclass field's default value, or MISSING."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def resolve(annotation: Any, owner: type) -> Any:
    """An annotation that may be a string, as the type that it names in its class's module.

    Names that the module imports for type checkers alone are looked for in the shared types.

    Raises:
        InputError: it names something that exists in neither.
    """
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(owner.__module__)
    namespace: dict[str, Any] = (
        {**vars(typing), **vars(importlib.import_module("calotype.imaging.types")), **vars(module)} if module else {}
    )
    try:
        return eval(annotation, namespace)
    except Exception as error:
        raise InputError(
            f"{owner.__name__}: the annotation {annotation!r} can't be resolved ({error}); import its types in the module"
        ) from None


def needed_models(method: type) -> dict[str, str]:
    """The roles of all checkpoints that a method's call takes, by what they are called: `model`, and those that arguments name."""
    main = getattr(method, "role", "")
    named = {"model": main} if main else {}
    return {**named, **{parameter.name: parameter.role for parameter in call_parameters(method) if parameter.kind == "model"}}


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else (annotation,)


def _role(annotation: Any) -> str:
    """The protocol of this package that an annotation asks for; "" if it asks for none."""
    found = (each for each in _members(annotation) if getattr(each, "_is_protocol", False) and each.__module__.startswith("calotype."))
    return next((each.__name__ for each in found), "")


def _files(annotation: Any) -> tuple[ArtifactKind, bool] | None:
    """The kind of the files that an annotation asks for, and whether it asks for several."""
    from calotype.runs.kinds import kind_of_type

    for member in _members(annotation):
        artifact = kind_of_type(member)
        if artifact is not None:
            return artifact, False
        inner = typing.get_args(member)
        artifact = kind_of_type(inner[0]) if inner and typing.get_origin(member) is not typing.Literal else None
        if artifact is not None:
            return artifact, True
    return None


def field_notes(configuration: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, its first paragraph on one line."""
    notes: dict[str, str] = {}
    for owner in reversed(configuration.__mro__):
        if owner is object:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        body = getattr(tree, "body", [])
        for statement, following in itertools.pairwise(body):
            is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            is_text = (
                isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) and isinstance(following.value.value, str)
            )
            if is_field and is_text:
                notes[statement.target.id] = one_line(following.value.value)
    return notes


def argument_notes(docstring: str) -> dict[str, str]:
    """The lines of a docstring's `Args:` by argument name.

    Example:
        >>> argument_notes("Does it.\\n\\nArgs:\\n    start: first picture,\\n        in [0, 1].\\n    end: last one.\\n")
        {'start': 'first picture, in [0, 1].', 'end': 'last one.'}
    """
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, flags=re.MULTILINE)
    if match is None:
        return {}
    notes: dict[str, str] = {}
    current = ""
    for line in textwrap.dedent(match.group(1)).splitlines():
        head = re.match(r"(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if head:
            current = head.group(1)
            notes[current] = head.group(2)
        elif current and line.strip():
            notes[current] = f"{notes[current]} {line.strip()}"
    return notes


def one_line(text: str) -> str:
    """The first paragraph of a text on one line."""
    return " ".join(textwrap.dedent(text).strip().split("\n\n")[0].split())
