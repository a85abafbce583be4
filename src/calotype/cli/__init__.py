"""The command line: verbs only. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `calotype` with these arguments (those of the process by default) and exit with its status."""
    # Threads that spin while they wait stall each other as soon as anything else wants a core: a clip takes minutes then, not seconds.
    # torch reads the policy when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from calotype.cli.app import run

    raise SystemExit(run(arguments))


__all__ = ["main"]
