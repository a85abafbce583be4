"""The command line: verbs only. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `calotype` with these arguments (those of the process by default) and exit with its status."""
    from calotype.cli.app import run

    raise SystemExit(run(arguments))


__all__ = ["main"]
