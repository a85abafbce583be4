"""Errors that a user can act on: each says what was given, what was expected and what to do, and carries the command line's exit status."""

from __future__ import annotations


class CalotypeError(Exception):
    """Something failed while running; the message is one line."""

    exit_status = 4


class InputError(CalotypeError):
    """A file, value or argument from the user can't be used."""

    exit_status = 2


class ShapeError(InputError):
    """A tensor has another shape, type or value range than the call asks for."""


class MissingError(CalotypeError):
    """A checkpoint, an optional dependency or a file that the run needs is not on this machine."""

    exit_status = 3


class Cancelled(CalotypeError):  # noqa: N818
    """The user stopped the run; its state was saved and `calotype resume` continues it."""
