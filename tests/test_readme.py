"""The README's table of methods says what the index says."""

from pathlib import Path

from calotype.index import METHODS

README = Path(__file__).parent.parent / "README.md"
OPENING, CLOSING = "<!-- methods: kept equal to the index by tests/test_readme.py -->\n", "<!-- end -->"


def table() -> str:
    lines = ["| method | what you give -> what you get | paper | state |", "|---|---|---|---|"]
    for slug, row in METHODS.items():
        lines.append(f"| `{slug}` | {row.summary} | {row.paper} | {'**works**' if row.target else 'planned'} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_methods_is_the_index() -> None:
    text = README.read_text()
    assert text.split(OPENING)[1].split(CLOSING)[0] == table()


def test_there_are_fifteen() -> None:
    assert len(METHODS) == 15
