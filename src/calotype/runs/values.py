"""Parameters as JSON and back: plain numbers, text, tuples, choices and small nested dataclasses."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from calotype.core.untrusted import MOST_WHOLE, short
from calotype.errors import InputError
from calotype.runs.entries import recordable
from calotype.runs.signature import field_types


def encode(value: Any, name: str = "value") -> Any:
    """A parameter as plain JSON.

    Raises:
        InputError: a value that JSON can't hold.

    Example:
        >>> encode({"range": (1, float("inf")), "kind": None})
        {'range': [1, 'inf'], 'kind': None}
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return recordable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return recordable(str(value))
    if isinstance(value, tuple | list):
        return [encode(item, name) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item, f"{name}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name), f"{name}.{field.name}") for field in dataclasses.fields(value)}
    raise InputError(f"{name}: a {type(value).__name__} can't be recorded; use numbers, text, tuples or small dataclasses of these")


def decode(annotation: Any, value: Any, name: str = "value") -> Any:
    """What `encode` wrote, as the annotated type.

    Raises:
        InputError: the value does not fit the annotation.

    Example:
        >>> decode(tuple[float, float] | None, [1, "inf"])
        (1.0, inf)
        >>> decode(Sequence[str], ["a", "b"])
        ('a', 'b')
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return decode(arguments[0], value, name)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for choice in arguments:
            try:
                return decode(choice, value, name)
            except InputError:
                continue
        raise _misfit(annotation, value, name)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise _misfit(annotation, value, name)
    if origin in (tuple, list, Sequence) and isinstance(value, list):
        inner = arguments if origin is tuple and Ellipsis not in arguments else (arguments[0],) * len(value)
        if len(inner) != len(value):
            raise _misfit(annotation, value, name)
        found = tuple(decode(kind, item, name) for kind, item in zip(inner, value, strict=True))
        return list(found) if origin is list else found
    if annotation is Any:
        return value
    if annotation is type(None) or annotation is None:
        if value is None:
            return None
        raise _misfit(annotation, value, name)
    if isinstance(annotation, type):
        return _decode_plain(annotation, value, name)
    raise _misfit(annotation, value, name)


def _decode_plain(annotation: type, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(annotation) and isinstance(value, dict):
        return decode_dataclass(annotation, value, name)
    if annotation is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # Infinity is text in a record, since JSON has no such number; NaN is a value of nothing.
        if isinstance(value, str) and value not in ("inf", "-inf"):
            raise _misfit(annotation, value, name)
        if math.isnan(float(value)):
            raise _misfit(annotation, value, name)
        return float(value)
    if issubclass(annotation, Enum):
        try:
            return annotation(value)
        except (ValueError, TypeError):
            raise _misfit(annotation, value, name) from None
    if annotation is int and isinstance(value, int) and abs(value) > MOST_WHOLE:
        raise _misfit(annotation, value, name)
    if annotation is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if isinstance(value, annotation) and not (annotation is int and isinstance(value, bool)):
        return value
    raise _misfit(annotation, value, name)


def by_new_names(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the fields' names of today (`calotype.core.method.Method.renamed`).

    >>> class Sharpen:
    ...     renamed = {"amount": "strength"}
    >>> by_new_names(Sharpen, {"amount": 2, "radius": 1})
    {'strength': 2, 'radius': 1}
    """
    names: Mapping[str, str] = getattr(kind, "renamed", {})
    return {names.get(key, key): value for key, value in values.items()}


def decode_dataclass(kind: type, values: Mapping[str, Any], name: str) -> Any:
    """A frozen dataclass from the values recorded of it; fields that the record lacks keep their defaults.

    Raises:
        InputError: a value that does not fit, or a field that this version doesn't have.
    """
    annotations, values = field_types(kind), by_new_names(kind, values)
    unknown = [key for key in values if key not in annotations]
    if unknown:
        raise InputError(
            f"{name}: the record has {short(', '.join(unknown))}, which this version doesn't know; use the version that wrote it"
        )
    return kind(**{key: decode(annotations[key], value, f"{name}.{key}") for key, value in values.items()})


def _misfit(annotation: Any, value: Any, name: str) -> InputError:
    wanted = getattr(annotation, "__name__", str(annotation))
    return InputError(f"{name}: the record holds {short(value)}, {wanted} is expected; use the version that wrote it")
