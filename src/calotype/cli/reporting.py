"""What a run made, told on stdout."""

from __future__ import annotations

from pathlib import Path

from calotype.cli import console
from calotype.errors import printable


def show_place(name: str, place: str | Path, note: str = "") -> None:
    """One line of a report: what something is called, and where it lies, as it is."""
    from rich.text import Text

    row = Text.assemble("  ", (f"{printable(name):<14}", "bold"), " ", printable(str(place)), (printable(note), "dim"))
    console.results().print(row, highlight=False, soft_wrap=True)
