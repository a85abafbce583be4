"""Ranges of a method's settings: what each of them may be, refused in one line where it is something else.

For the `__post_init__` of a frozen dataclass. A setting that is None isn't given, and passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calotype.errors import InputError

MIN_SIDE = 16
"""Shortest side of a picture that is read or made, in pixels."""


def at_least(settings: object, least: float, *names: str) -> None:
    """Refuse settings below a bound.

    Raises:
        InputError: one of them is, or is NaN.

    Example:
        >>> from types import SimpleNamespace
        >>> at_least(SimpleNamespace(steps=0), 1, "steps")
        Traceback (most recent call last):
        calotype.errors.InputError: steps is 0; it must be 1 or more
    """
    for name, value in _given(settings, names):
        if not value >= least:
            raise InputError(f"{name} is {value}; it must be {least:g} or more")


def above(settings: object, bound: float, *names: str) -> None:
    """Refuse settings that don't lie above a bound.

    Raises:
        InputError: one of them doesn't.
    """
    for name, value in _given(settings, names):
        if not value > bound:
            raise InputError(f"{name} is {value}; it must be above {bound:g}")


def between(settings: object, low: float, high: float, *names: str) -> None:
    """Refuse settings outside of a range, whose ends belong to it.

    Raises:
        InputError: one of them is.
    """
    for name, value in _given(settings, names):
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; it must lie between {low:g} and {high:g}")


def one_of(settings: object, **choices: Sequence[str]) -> None:
    """Refuse words that aren't among the choices of their setting.

    Raises:
        InputError: one of them isn't.

    Example:
        >>> from types import SimpleNamespace
        >>> one_of(SimpleNamespace(solver="rk4"), solver=("euler", "heun"))
        Traceback (most recent call last):
        calotype.errors.InputError: solver is 'rk4'; choose one of euler, heun
    """
    for name, value in _given(settings, tuple(choices)):
        if value not in choices[name]:
            raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices[name])}")


def sides(settings: object) -> None:
    """Refuse a `height` or a `width` of a picture, in pixels, that is too small to be one.

    Raises:
        InputError: one of them is.
    """
    for name, side in _given(settings, ("height", "width")):
        if side < MIN_SIDE:
            raise InputError(f"{name} is {side}; it must be {MIN_SIDE} pixels or more")


def _given(settings: object, names: Sequence[str]) -> list[tuple[str, Any]]:
    return [(name, value) for name in names if (value := getattr(settings, name)) is not None]
