"""`calotype --help`: what there is, on one screen."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from calotype import __version__
from calotype.cli.console import results
from calotype.cli.verbs import Verb


def overview(verbs: Mapping[str, Verb]) -> None:
    """Print the verbs by group, with the two commands that a newcomer wants first."""
    out = results()
    out.print(Text.assemble(("calotype", "bold"), f" {__version__}  published generative-vision methods, one command\n"))
    out.print(Text.assemble(("usage: ", "dim"), "calotype VERB ... [--help]\n"))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    group = ""
    for name, verb in verbs.items():
        if verb.group != group:
            group = verb.group
            table.add_row(Text(f"{group}" if not table.rows else f"\n{group}", style="bold cyan"), "")
        table.add_row(Text.assemble(f"  {name} ", (verb.usage, "dim")), verb.summary)
    out.print(table)
    out.print()
    out.print(Text("Begin with", style="bold cyan"))
    out.print(Text("  calotype demo"))
    out.print(Text("  calotype run time-reversal-fusion --start first.png --end last.png"))
    out.print()
    out.print(Text("Every verb knows --help, --quiet and --json. Exit status: 0 ok, 1 a claim failed, 2 usage or bad input,", style="dim"))
    out.print(Text("3 something missing, 4 failed, 130 stopped by Ctrl-C.", style="dim"))
