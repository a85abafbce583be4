"""Errors that a user can act on: each says what was given, what was expected and what to do, and carries the command line's exit status."""

from __future__ import annotations

from collections.abc import Sequence


class CalotypeError(Exception):
    """Something failed while running; the message is one line."""

    exit_status = 4

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class InputError(CalotypeError):
    """A file, value or argument from the user can't be used."""

    exit_status = 2


class DataError(InputError):
    """A data set can't be used; `problems` is all that was found wrong with it, one line each."""

    def __init__(self, message: object = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(one_line(problem) for problem in problems)


class ShapeError(InputError):
    """A tensor has another shape, type or value range than the call asks for."""


class MissingError(CalotypeError):
    """A checkpoint, an optional dependency or a file that the run needs is not on this machine."""

    exit_status = 3


class Cancelled(CalotypeError):  # noqa: N818
    """The user stopped the run; its state was saved and `calotype resume` continues it."""


def refuse_half_characters(text: str, name: str) -> None:
    """What a terminal hands on of bytes that are no UTF-8 is text that no tokenizer takes.

    Raises:
        InputError: the text holds some.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name}: {text[:60]!r} holds bytes that are no UTF-8; write it anew, or set the terminal to UTF-8") from None


def printable(text: str) -> str:
    """Text without what steers a terminal, hides itself or is no Unicode; line ends and tabs stay.

    Example:
        >>> printable("a" + chr(27) + "[31m")
        'a\N{REPLACEMENT CHARACTER}[31m'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def one_line(text: str, most: int = 1200) -> str:
    """A printable text on one line, its middle left out where it is longer than `most` characters.

    Messages quote names and values that others wrote, which may hold anything.

    Example:
        >>> one_line("a\\tb\\nc"), one_line("abcdefghijkl", 9)
        ('a b c', 'abc...jkl')
    """
    line = printable(" ".join(text.split()))
    if len(line) <= most:
        return line
    half = (most - 3) // 2
    return f"{line[:half]}...{line[-half:]}"
