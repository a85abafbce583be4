"""The verb `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from calotype.cli import console
from calotype.cli.options import Common, Help, parse, print_json
from calotype.errors import printable

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Common):
    """What `compare` takes."""

    left: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, its run.json, or a file that a run made."""
    right: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN ")]
    """The other one."""
    all: bool = False
    """Show what is the same, too."""


def compare(arguments: Sequence[str]) -> int:
    """`calotype compare RUN RUN`."""
    page = Help(
        "calotype compare RUN RUN", "Two runs side by side: in what their settings differ, what they cost, how far the results are apart."
    )
    options = parse(CompareOptions, arguments, page)

    from calotype import runs

    comparison = runs.compare(options.left, options.right)
    if options.json:
        print_json(comparison.to_json())
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold cyan")
    table.add_column("")
    table.add_column(Text(printable(comparison.left)), overflow="fold")
    table.add_column(Text(printable(comparison.right)), overflow="fold")
    section, equal = "", 0
    for line in comparison.lines:
        if line.same and not options.all and line.section not in ("results", "metrics"):
            equal += 1
            continue
        if line.section != section:
            table.add_row(Text(line.section, style="bold"), "", "")
            section = line.section
        style = "dim" if line.same else ""
        table.add_row(Text(f"  {printable(line.name)}"), _cell(line.left), _cell(line.right), style=style)
    console.results().print(table)
    if equal:
        console.results().print(f"{equal} more values are the same; --all shows them", style="dim", highlight=False)
    return 0


def _cell(value: Any) -> Text:
    """A value as it is: records are no markup, and steer no terminal."""
    from rich.text import Text

    if value is None:
        return Text("-")
    return Text(f"{value:.6g}" if isinstance(value, float) else printable(str(value)))
