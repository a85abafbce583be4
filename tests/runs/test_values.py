"""Parameters to JSON and back, and what is read from a method's annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calotype.errors import InputError
from calotype.runs.signature import call_parameters, field_notes
from calotype.runs.values import decode, decode_dataclass, encode
from tests.runs.toy_method import ToyFade, Wobble


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    sigma: tuple[float, float] = (1.0, 2.0)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int | None = None
    scale: float = 1.0
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    path: Path | None = None
    weights: Literal["linear"] | tuple[float, ...] = "linear"
    flag: bool = False
    inner: Inner = field(default_factory=Inner)


numbers = st.floats(allow_nan=False)


@given(
    st.builds(
        Outer,
        count=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
        scale=numbers,
        kind=st.sampled_from(["a", "b"]),
        colour=st.sampled_from(Colour),
        path=st.none() | st.just(Path("a/b")),
        weights=st.just("linear") | st.lists(numbers, max_size=4).map(tuple),
        flag=st.booleans(),
        inner=st.builds(Inner, sigma=st.tuples(numbers, numbers), names=st.lists(st.text(max_size=5), max_size=3).map(tuple)),
    )
)
def test_configurations_survive_json(value: Outer) -> None:
    text = json.dumps(encode(value), allow_nan=False)
    assert decode_dataclass(Outer, json.loads(text), "outer") == value


def test_what_is_given_several_times_is_read_from_a_record() -> None:
    assert decode(Sequence[str], ["3,4:3,7", "1,1:2,2"]) == ("3,4:3,7", "1,1:2,2")
    assert decode(list[int], [1, 2]) == [1, 2]
    with pytest.raises(InputError, match="moves"):
        decode(Sequence[str], ["3,4", 5], "moves")
    with pytest.raises(InputError, match="moves"):
        decode(Sequence[str], "3,4", "moves")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "3"),
        (int, True),
        (bool, 1),
        (Literal["a"], "b"),
        (tuple[float, float], [1.0]),
        (int | None, "x"),
        (Colour, "green"),
        (Inner, 3),
    ],
)
def test_what_does_not_fit_is_refused_by_name(annotation: object, value: object) -> None:
    with pytest.raises(InputError, match="steps"):
        decode(annotation, value, "steps")


def test_unknown_fields_are_refused_and_absent_ones_take_their_defaults() -> None:
    assert decode_dataclass(Wobble, {"strength": 0.5}, "wobble") == Wobble(strength=0.5)
    with pytest.raises(InputError, match="speed"):
        decode_dataclass(Wobble, {"speed": 1}, "wobble")
    with pytest.raises(InputError, match="can't be recorded"):
        encode(object(), "thing")


def test_a_method_is_described_by_its_annotations() -> None:
    start, end, gain = call_parameters(ToyFade)
    assert (start.kind, start.required, start.help) == ("image", True, "the first picture.")
    assert (end.kind, end.default) == ("image", None)
    assert (gain.kind, gain.annotation, gain.default) == ("value", float, 1.0)
    assert field_notes(ToyFade)["num_frames"] == "Frames of the clip."
    assert field_notes(Wobble)["repeats"] == "How often it is added; 0 is off."


def test_a_field_is_read_by_the_name_that_it_had_before() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Renamed(ToyFade):
        renamed = {"old_length": "length"}  # noqa: RUF012
        length: int = 1

    assert decode_dataclass(Renamed, {"old_length": 3}, "record").length == 3
    with pytest.raises(InputError, match="older_length"):
        decode_dataclass(Renamed, {"older_length": 3}, "record")
