"""JSON that a stranger may have written, and its values, checked one by one: type, range, length, no NaN, bounded size and depth.

Whoever reads a record, a chain or a plan takes its values out of it through these functions; all raise `InputError` and nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from calotype.errors import InputError, printable

MOST_BYTES = 16_000_000
"""Largest JSON text that is read."""
MOST_DEPTH = 32
"""Deepest nesting of lists and objects."""
MOST_WHOLE = (1 << 63) - 1
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]+")


def parse_json(content: str | bytes, name: str, remedy: str = "check commas, quotes and brackets") -> Any:
    """JSON text as plain values.

    Args:
        content: the text, or its UTF-8 bytes.
        name: what messages call it.
        remedy: what the user can do where it is none.

    Raises:
        InputError: no JSON; more than 16 MB or 32 levels; a key that is there twice; NaN, infinity or whole numbers beyond 64 bits;
            text that is no Unicode.

    Example:
        >>> parse_json('{"seed": 3}', "run.json")
        {'seed': 3}
    """
    _refuse_large(len(content), name, remedy)
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        raise InputError(f"{name} is nested deeper than {MOST_DEPTH} levels; {remedy}") from None
    except ValueError as error:
        raise InputError(f"{name} is no JSON ({short(str(error), 120)}); {remedy}") from None
    _look_through(value, name, remedy)
    return value


def read_json(path: Path, remedy: str = "check commas, quotes and brackets") -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: no regular file, no JSON object, or one beyond the bounds of `parse_json`.
    """
    if not path.is_file():
        raise InputError(f"{path} is no regular file; {remedy}")
    _refuse_large(path.stat().st_size, str(path), remedy)
    content = parse_json(path.read_bytes(), str(path), remedy)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__} where a JSON object is expected; {remedy}")
    return content


def _refuse_large(size: int, name: str, remedy: str) -> None:
    if size > MOST_BYTES:
        raise InputError(f"{name} has {size / 1e6:.0f} MB, at most {MOST_BYTES // 1_000_000} are read; {remedy}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _look_through(value: Any, name: str, remedy: str) -> None:
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise InputError(f"{name} is nested deeper than {MOST_DEPTH} levels; {remedy}")
        if isinstance(item, dict):
            waiting += [(each, depth + 1) for pair in item.items() for each in pair]
        elif isinstance(item, list):
            waiting += [(each, depth + 1) for each in item]
        elif isinstance(item, str):
            if not item.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item):
                raise InputError(f"{name} holds {short(item)}, which is no Unicode text; {remedy}")
        elif isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{name} holds the number {item}; {remedy}")
        elif isinstance(item, int) and abs(item) > MOST_WHOLE:
            raise InputError(f"{name} holds a number beyond 64 bits; {remedy}")


def short(value: Any, most: int = 60) -> str:
    """A value for a message: on one line, without control characters, not too long.

    Example:
        >>> short("a" * 100, 10), short({"a": 1})
        ('aaaaaaa...', "{'a': 1}")
    """
    told = printable(value if isinstance(value, str) else str(value) if isinstance(value, Exception) else repr(value)[: 4 * most])
    told = " ".join(told.split())
    return told if len(told) <= most else f"{told[: most - 3]}..."


def mapping(value: Any, name: str, *, most: int = 10_000) -> dict[str, Any]:
    """An object.

    Raises:
        InputError: something else, or more than `most` entries.
    """
    if not isinstance(value, dict):
        raise InputError(f"{name} is {short(value)}; an object is expected")
    if len(value) > most:
        raise InputError(f"{name} has {len(value)} entries; at most {most} are read")
    return value


def listed(value: Any, name: str, *, most: int = 10_000) -> list[Any]:
    """A list.

    Raises:
        InputError: something else, or more than `most` entries.
    """
    if not isinstance(value, list):
        raise InputError(f"{name} is {short(value)}; a list is expected")
    if len(value) > most:
        raise InputError(f"{name} has {len(value)} entries; at most {most} are read")
    return value


def text(value: Any, name: str, *, most: int = 4096, pattern: str = "", expected: str = "text") -> str:
    """Text of at most `most` characters without NUL; with a pattern, all of it must match.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, str) or len(value) > most or "\0" in value or (pattern and not re.fullmatch(pattern, value)):
        raise InputError(f"{name} is {short(value)}; {expected} is expected")
    return value


def file_name(value: Any, name: str) -> str:
    """The bare name of a file: no folder, no control character, no leading `..`.

    Raises:
        InputError: something else.

    Example:
        >>> file_name("result.png", "file")
        'result.png'
        >>> file_name("../x", "file")
        Traceback (most recent call last):
        calotype.errors.InputError: file is ../x; the bare name of a file is expected
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in (".", "..") or len(value.encode("utf-8", "replace")) > 255:
        raise InputError(f"{name} is {short(value)}; the bare name of a file is expected")
    return value


def whole(value: Any, name: str, least: int = 0, most: int = MOST_WHOLE) -> int:
    """A whole number in a range.

    Raises:
        InputError: something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} is {short(value)}; a whole number from {least} to {most} is expected")
    return value


def number(value: Any, name: str, least: float = -1e300, most: float = 1e300) -> float:
    """A number in a range.

    Raises:
        InputError: something else, NaN and infinity among it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(f"{name} is {short(value)}; a number from {least:g} to {most:g} is expected")
    return float(value)


def choice(value: Any, name: str, choices: Collection[str]) -> str:
    """One of some words.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {short(value)}; one of {', '.join(choices)} is expected")
    return value
