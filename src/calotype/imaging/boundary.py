"""Where data of others enters: whatever a library raises on it becomes one of our errors, at one place for each reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from calotype.errors import CalotypeError, InputError, one_line

_MEMORY = ("MemoryError", "OutOfMemoryError")


@contextmanager
def refusing(subject: str, remedy: str) -> Iterator[None]:
    """Around a reader, as a `with` block or a decorator: any exception but our own, and but a full memory, becomes an `InputError`.

    The first exception stays behind it as its cause, so that a fault of ours isn't lost.

    Args:
        subject: what was read, such as a file's name.
        remedy: what the user can do.

    Raises:
        InputError: the block raised anything else than a `CalotypeError`.

    Example:
        >>> with refusing("config.json", "fetch it again"):
        ...     {}["width"]
        Traceback (most recent call last):
        calotype.errors.InputError: config.json can't be read (KeyError: 'width'); fetch it again
    """
    try:
        yield
    except CalotypeError:
        raise
    except Exception as error:
        if type(error).__name__ in _MEMORY:
            raise
        reason = one_line(str(error), 300)
        raise InputError(f"{subject} can't be read ({type(error).__name__}{f': {reason}' if reason else ''}); {remedy}") from error
