"""The unit of a measured field: converted to ppm of the main field, or asked for where the values can't be ppm.

A field of 1 ppm is 42.577 B0 Hz, 2 pi times that in radians per second, and that times TE (in seconds) in radians of phase; it is B0
microtesla, 1,000 ppb, or 1e-6 of B0. Maps of susceptibility come in ppm, ppb or as they are (1e-6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.nifti import named_unit
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff.phase import GYROMAGNETIC_RATIO, field_from_phase, radians_per_ppm, refuse_raw_phase

FieldUnit: TypeAlias = Literal["ppm", "ppb", "hz", "rad/s", "radians", "tesla", "fraction"]
"""Units that a field comes in: parts per million or per thousand million of the main field, hertz, radians per second, radians, tesla, or
its share."""
Quantity: TypeAlias = Literal["field", "map"]
"""What was measured: a local field, or a map of susceptibility."""
MOST_PPM, LEAST_PPM, USUAL_PPM = 0.3, 1e-4, 0.035
"""Between the first two lies the 99th percentile of a brain's local field in ppm; it is about the third."""
MAP_OVER_FIELD = 5.0
"""How many times larger these are for a map."""
_NEAR = 6.0
"""By what factor a 99th percentile may differ from the usual one in a unit that the values look like."""
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "hz": ("b0_tesla",), "rad/s": ("b0_tesla",), "tesla": ("b0_tesla",), "radians": ("te_ms", "b0_tesla"),
}  # fmt: skip
_MAP_UNITS = ("ppm", "ppb", "fraction")


def field_in_ppm(
    field: Volume,
    inside: Bool[Tensor, "x y z"],
    *,
    unit: FieldUnit | None = None,
    te_ms: float | None = None,
    b0_tesla: float | None = None,
    quantity: Quantity = "field",
    name: str = "field",
    events: Events = SILENT,
) -> Volume:
    """A local field in ppm of the main field, or a map in ppm.

    Args:
        field: the values; their unit counts where the file says it.
        inside: the brain.
        unit: of the values, whatever the file says.
        te_ms: echo time in milliseconds, for radians.
        b0_tesla: strength of the main field in tesla, for hertz, radians per second, radians and tesla.
        quantity: what the values are.
        name: what messages call them; the flag that names their unit begins with it.
        events: hears which conversion was made.

    Raises:
        InputError: the unit isn't given and the values can't be ppm; what a unit needs is missing; the unit is none of a map; the values
            are a scanner's raw phase, or a phase that is wrapped.

    Example:
        >>> field = Volume(torch.full((4, 4, 4), 5.0), torch.eye(4, dtype=torch.float64))
        >>> brain = torch.ones(4, 4, 4, dtype=torch.bool)
        >>> round(float(field_in_ppm(field, brain, unit="hz", b0_tesla=3.0).values[0, 0, 0]), 4)
        0.0391
    """
    known = unit or _named(field.unit)
    given = {"te_ms": te_ms, "b0_tesla": b0_tesla}
    if known not in (None, *get_args(FieldUnit)):
        raise InputError(f"field_unit is {known!r}; choose one of {', '.join(get_args(FieldUnit))}")
    if known is None and field.unit:
        raise InputError(f"{name}: its unit is {field.unit!r}, which is none of {', '.join(get_args(FieldUnit))}; give --{name}-unit")
    if known is not None and quantity == "map" and known not in _MAP_UNITS:
        raise InputError(f"{name}: a map of susceptibility was said to be in {known}; it comes in {', '.join(_MAP_UNITS)}")
    needed = _NEEDS.get(known or "", ())
    missing = [name for name in needed if given[name] is None]
    if missing:
        raise InputError(f"a field in {known} needs {' and '.join(missing)} too, such as {_flags(known or '')}")
    unused = [name for name, value in given.items() if value is not None and name not in needed]
    if unused and known is None:
        raise InputError(f"{' and '.join(unused)} was given without field_unit; say the unit too, such as {_flags('hz')}")
    if unused:
        events.note(f"{name}: a {quantity} in {known} needs no {' or '.join(unused)}")
    if quantity == "field" and known in (None, "ppm", "radians"):
        hint = "" if known else "; if these are ppb, give --field-unit ppb"
        refuse_raw_phase(field.values, inside, "field", hint)
    if known is None:
        _refuse_other_units(field, inside, quantity, name, events)
        return field.with_values(field.values, "ppm")
    named = _named(field.unit)
    if unit and named and named != unit:
        events.note(f"{name}: its file says {field.unit}, and {unit} counts, which was given")
    values = _converted(field.values, inside, known, te_ms or 0.0, b0_tesla or 0.0)
    largest = percentile(values, inside)
    if known != "ppm":
        events.note(f"{name}: read as {known}; in ppm its 99th percentile in the mask is {largest:.3g}")
    times = MAP_OVER_FIELD if quantity == "map" else 1.0
    if not LEAST_PPM * times <= largest <= MOST_PPM * times:
        events.note(f"{name}: its 99th percentile in the mask is {largest:.3g} ppm, and {_usual(quantity)}; is the unit right?")
    return field.with_values(values, "ppm")


def percentile(values: Float[Tensor, "x y z"], inside: Bool[Tensor, "x y z"]) -> float:
    """The 99th percentile of the absolute values in a mask that aren't 0 (of a million of them at the most); 0 if all are."""
    chosen = values[inside].abs()
    chosen = chosen[chosen > 0]
    return float(torch.quantile(chosen[:: max(1, len(chosen) // 1_000_000)], 0.99)) if len(chosen) else 0.0


def _usual(quantity: Quantity) -> str:
    size = USUAL_PPM * (MAP_OVER_FIELD if quantity == "map" else 1.0)
    return f"a brain's {'map' if quantity == 'map' else 'local field'} has about {size:.2g} ppm"


def _named(unit: str) -> str | None:
    """One of `FieldUnit`, whatever way a file writes it; None if it is none."""
    return {"": None, "T": "tesla", "fraction": "fraction"}.get(unit) or named_unit(unit) or None


def _per_ppm(unit: str, te_ms: float, b0_tesla: float) -> float:
    """How many of a unit make 1 ppm."""
    if unit == "radians":
        return radians_per_ppm(te_ms / 1e3, b0_tesla)
    hertz = GYROMAGNETIC_RATIO * b0_tesla
    return {"ppm": 1.0, "ppb": 1e3, "fraction": 1e-6, "hz": hertz, "rad/s": 2 * math.pi * hertz, "tesla": 1e-6 * b0_tesla}[unit]


def _converted(
    values: Float[Tensor, "x y z"], inside: Bool[Tensor, "x y z"], unit: str, te_ms: float, b0_tesla: float
) -> Float[Tensor, "x y z"]:
    if unit == "radians":
        return field_from_phase(values, inside, [te_ms / 1e3], b0_tesla)
    if "b0_tesla" in _NEEDS.get(unit, ()) and not 0 < b0_tesla < 50:
        raise InputError(f"b0_tesla is {b0_tesla:g}; it must be the strength of the main field in tesla, such as 3")
    return values / _per_ppm(unit, te_ms, b0_tesla)


def _refuse_other_units(field: Volume, inside: Bool[Tensor, "x y z"], quantity: Quantity, name: str, events: Events) -> None:
    """The size test of values without a unit."""
    times = MAP_OVER_FIELD if quantity == "map" else 1.0
    largest = percentile(field.values, inside)
    read = {unit: largest / times / _per_ppm(unit, 20.0, 3.0) for unit in get_args(FieldUnit) if quantity == "field" or unit in _MAP_UNITS}
    apart = {unit: abs(math.log(max(value, 1e-30) / USUAL_PPM)) for unit, value in read.items()}
    # Local fields are rarely kept in rad/s, whose values are those of ppb at 3 T.
    likely = [unit for unit in sorted(apart, key=lambda unit: (unit == "rad/s", apart[unit])) if apart[unit] <= math.log(_NEAR)]
    told = f"{name}: its 99th percentile in the mask is {largest:.3g}, and {_usual(quantity)}; "
    looks = " or ".join(f"{unit} ({read[unit] * times:.2g} ppm{_assumed(unit)})" for unit in likely)
    if not LEAST_PPM * times <= largest <= MOST_PPM * times:
        advice = f"it looks like {looks}: give {_flags(likely[0], name)}" if likely else f"no usual unit fits: give --{name}-unit"
        numbers = ", with the scan's numbers" if quantity == "field" else ""
        raise InputError(f"{told}{advice}{numbers} (--{name}-unit ppm if they are ppm)")
    if likely and likely[0] != "ppm":
        events.note(f"{told}it is taken as ppm, and could be {looks}: give --{name}-unit")


def _flags(unit: str, name: str = "field") -> str:
    """What a user types, for a scan of 20 ms at 3 T."""
    numbers = {"te_ms": " --te-ms 20", "b0_tesla": " --b0-tesla 3"}
    return f"--{name}-unit {unit}" + "".join(numbers[name] for name in _NEEDS.get(unit, ()))


def _assumed(unit: str) -> str:
    needs = _NEEDS.get(unit, ())
    return "".join((" at 3 T" if "b0_tesla" in needs else "", " and 20 ms" if "te_ms" in needs else ""))
