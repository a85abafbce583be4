"""Turns two kinds of marker in the pages into tables, so that no number in the site is typed by hand.

`<!-- methods -->` becomes the table of methods, `<!-- results: NAME -->` the table of `results/NAME.csv` with the claims of
`results/NAME.claims.csv` below it, `<!-- card: NAME -->` the card that the embedded checkpoint NAME carries.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from calotype.index import METHODS

ROOT = Path(__file__).parent.parent
PROVENANCE = ("command", "commit", "hardware", "date")
"""Columns that are the same in every row of a table and are printed once below it."""
PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")


def methods_table() -> str:
    """The fifteen methods with their state, from the index."""
    lines = ["| method | what you give -> what you get | paper | state |", "|---|---|---|---|"]
    for slug, row in METHODS.items():
        state = "**works**" if row.target else "planned"
        paper = PAPER.sub(r"[\1](https://arxiv.org/abs/\1)", row.paper)
        lines.append(f"| `{slug}` | {row.summary} | {paper} | {state} |")
    return "\n".join(lines)


def results_table(name: str) -> str:
    """The recorded evaluation of a method or model as Markdown tables."""
    parts = []
    for path in (ROOT / "results" / f"{name}.csv", ROOT / "results" / f"{name}.claims.csv"):
        if path.exists():
            with path.open(newline="") as file:
                header, *rows = list(csv.reader(file))
            shown = [i for i, name in enumerate(header) if name not in PROVENANCE]
            table = [header, ["---"] * len(header), *rows]
            parts.append("\n".join("| " + " | ".join(cells[i] for i in shown) + " |" for cells in table))
            if rows and len(shown) < len(header):
                origin = dict(zip(header, rows[0], strict=True))
                parts.append(f"*`{origin['command']}` at {origin['commit']}, {origin['date']}, {origin['hardware']}.*")
    return "\n\n".join(parts) or f"*Not recorded yet: `calotype eval {name} --record` writes it.*"


def card(name: str) -> str:
    """The card in the checkpoint's folder, without its front matter and title."""
    path = ROOT / "src/calotype/checkpoints" / name / "README.md"
    if not path.exists():
        return f"*No checkpoint yet: `calotype train {name}` makes it.*"
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(), flags=re.S)
    return re.sub(r"\A\s*# .*\n", "", text)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page."""
    markdown = markdown.replace("<!-- methods -->", methods_table())
    markdown = re.sub(r"<!-- results: ([\w.-]+) -->", lambda found: results_table(found[1]), markdown)
    return re.sub(r"<!-- card: ([\w-]+) -->", lambda found: card(found[1]), markdown)
