"""Settings out of range are refused by name, with what they may be; those that aren't given pass."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calotype.core import fields
from calotype.errors import InputError


@dataclass(frozen=True)
class Settings:
    steps: float | None = None
    height: int | None = None
    width: int | None = None
    solver: str = "euler"


@given(value=st.floats(allow_nan=True), bound=st.integers(-5, 5))
def test_bounds_hold_and_nan_never_passes(value: float, bound: int) -> None:
    given_steps = Settings(steps=value)
    checks = [
        (lambda: fields.at_least(given_steps, bound, "steps"), value >= bound, f"it must be {bound} or more"),
        (lambda: fields.above(given_steps, bound, "steps"), value > bound, f"it must be above {bound}"),
        (lambda: fields.between(given_steps, bound, bound + 1, "steps"), bound <= value <= bound + 1, f"between {bound} and {bound + 1}"),
    ]
    for check, passes, says in checks:
        if passes:
            check()
        else:
            with pytest.raises(InputError, match=f"^steps is .*{says}$"):
                check()


def test_what_is_not_given_passes() -> None:
    fields.at_least(Settings(), 1, "steps")
    fields.above(Settings(), 0, "steps")
    fields.between(Settings(), 0, 1, "steps")
    fields.sides(Settings())
    fields.sides(Settings(height=16, width=None))


@pytest.mark.parametrize("name", ["height", "width"])
def test_a_picture_has_sides_of_16_pixels(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} is 15; it must be 16 pixels or more$"):
        fields.sides(Settings(**{name: 15}))  # type: ignore[arg-type]


def test_words_are_among_the_choices() -> None:
    fields.one_of(Settings(), solver=("euler", "heun"))
    with pytest.raises(InputError, match=r"^solver is 'rk4'; choose one of euler, heun$"):
        fields.one_of(Settings(solver="rk4"), solver=("euler", "heun"))
