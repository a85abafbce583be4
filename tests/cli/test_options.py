"""How values are given on the command line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from calotype.cli.options import Help, parse
from calotype.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Several:
    """Flags of several numbers."""

    ratio: tuple[float, float] = (0.5, 0.5)
    """Two."""
    window: tuple[int, ...] = (8, 8)
    """Any."""
    name: str = ""
    """A text."""
    names: tuple[str, ...] = ()
    """Texts."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ratio", "-.2", "1e-3", "--window", "1", "2", "3"],
        ["--ratio", "-.2,1e-3", "--window", "1,2,3"],
        ["--ratio=-.2,1e-3", "--window=1,2,3"],
        ["--ratio", "-.2,", "1e-3", "--window", "1,2", "3"],
    ],
)
def test_several_numbers_have_spaces_or_commas_between_them(arguments: list[str]) -> None:
    assert parse(Several, arguments, Help("calotype", "")) == Several(ratio=(-0.2, 1e-3), window=(1, 2, 3))


def test_texts_keep_their_commas() -> None:
    found = parse(Several, ["--name", "1,2", "--names", "3,4", "a,b"], Help("calotype", ""))
    assert (found.name, found.names) == ("1,2", ("3,4", "a,b"))
    with pytest.raises(InputError, match="--ratio was given 'a,b' but takes two numbers"):
        parse(Several, ["--ratio", "a,b"], Help("calotype", ""))
