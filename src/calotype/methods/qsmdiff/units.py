"""The unit of a measured field: converted to ppm of the main field, or asked for where the values can't be ppm.

A field of 1 ppm is 42.577 B0 Hz, 2 pi 42.577 B0 TE radians of phase (TE in seconds), B0 microtesla, 1,000 ppb, or 1e-6 of B0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.core.errors import InputError
from calotype.core.events import SILENT, Events
from calotype.core.types import Volume
from calotype.methods.qsmdiff.phase import GYROMAGNETIC_RATIO, field_from_phase, radians_per_ppm, refuse_raw_phase

FieldUnit: TypeAlias = Literal["ppm", "ppb", "hz", "radians", "tesla", "fraction"]
"""Units that a field comes in: parts per million or per thousand million of the main field, hertz, radians, tesla, or its share."""
MOST_PPM, LEAST_PPM = 0.3, 1e-4
"""Between them lies the 99th percentile of a brain's local field in ppm; it is about 0.035."""
_USUAL = (0.005, 0.2)
_NEEDS: Mapping[str, tuple[str, ...]] = {"hz": ("b0_tesla",), "tesla": ("b0_tesla",), "radians": ("te_ms", "b0_tesla")}
_FOR_EXAMPLE: Mapping[str, str] = {
    "hz": "--field-unit hz --b0-tesla 3", "tesla": "--field-unit tesla --b0-tesla 3", "ppb": "--field-unit ppb",
    "radians": "--field-unit radians --te-ms 20 --b0-tesla 3", "fraction": "--field-unit fraction", "ppm": "--field-unit ppm",
}  # fmt: skip


def field_in_ppm(
    field: Volume,
    inside: Bool[Tensor, "x y z"],
    *,
    unit: FieldUnit | None = None,
    te_ms: float | None = None,
    b0_tesla: float | None = None,
    events: Events = SILENT,
) -> Volume:
    """A local field in ppm of the main field.

    Args:
        field: the values; their unit counts where the file says it.
        inside: the brain.
        unit: of the values, whatever the file says.
        te_ms: echo time in milliseconds, for radians.
        b0_tesla: strength of the main field in tesla, for hertz, radians and tesla.
        events: hears which conversion was made.

    Raises:
        InputError: the unit isn't given and the values can't be ppm; what a unit needs is missing or has no use; the values are a scanner's
            raw phase, or a phase that is wrapped.

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
    needed = _NEEDS.get(known or "", ())
    missing, unused = [name for name in needed if given[name] is None], [name for name in given if name not in needed]
    if missing:
        raise InputError(f"a field in {known} needs {' and '.join(missing)} too, such as {_FOR_EXAMPLE[known or '']}")
    unused = [name for name in unused if given[name] is not None]
    if unused:
        where = f"a field in {known} needs no {' or '.join(unused)}" if known else f"{' and '.join(unused)} was given without field_unit"
        raise InputError(f"{where}; leave it out, or say the unit, such as {_FOR_EXAMPLE['hz']}")
    refuse_raw_phase(field.values, inside, "field")
    if known is None:
        _refuse_other_units(field, inside)
        return field.with_values(field.values, "ppm")
    values = _converted(field.values, inside, known, te_ms or 0.0, b0_tesla or 0.0)
    largest = percentile(values, inside)
    if known != "ppm":
        events.note(f"field: read as {known}; in ppm its 99th percentile in the mask is {largest:.3g}")
    if not LEAST_PPM <= largest <= MOST_PPM:
        events.note(
            f"field: its 99th percentile in the mask is {largest:.3g} ppm, and a brain's local field has about 0.035; is the unit right?"
        )
    return field.with_values(values, "ppm")


def percentile(values: Float[Tensor, "x y z"], inside: Bool[Tensor, "x y z"]) -> float:
    """The 99th percentile of the absolute values in a mask (of a million of them at the most)."""
    chosen = values[inside].abs()
    return float(torch.quantile(chosen[:: max(1, len(chosen) // 1_000_000)], 0.99))


def _named(unit: str) -> str | None:
    return {"": None, "Hz": "hz", "rad": "radians", "T": "tesla"}.get(unit, unit)


def _per_ppm(unit: str, te_ms: float, b0_tesla: float) -> float:
    """How many of a unit make 1 ppm."""
    if unit == "radians":
        return radians_per_ppm(te_ms / 1e3, b0_tesla)
    return {"ppm": 1.0, "ppb": 1e3, "fraction": 1e-6, "hz": GYROMAGNETIC_RATIO * b0_tesla, "tesla": 1e-6 * b0_tesla}[unit]


def _converted(
    values: Float[Tensor, "x y z"], inside: Bool[Tensor, "x y z"], unit: str, te_ms: float, b0_tesla: float
) -> Float[Tensor, "x y z"]:
    if unit == "radians":
        return field_from_phase(values, inside, [te_ms / 1e3], b0_tesla)
    if unit in ("hz", "tesla") and not 0 < b0_tesla < 50:
        raise InputError(f"b0_tesla is {b0_tesla:g}; it must be the strength of the main field in tesla, such as 3")
    return values / _per_ppm(unit, te_ms, b0_tesla)


def _refuse_other_units(field: Volume, inside: Bool[Tensor, "x y z"]) -> None:
    largest = percentile(field.values, inside)
    if LEAST_PPM <= largest <= MOST_PPM:
        return
    read = {unit: largest / _per_ppm(unit, 20.0, 3.0) for unit in get_args(FieldUnit)}
    likely = [unit for unit, value in read.items() if _USUAL[0] <= value <= _USUAL[1]]
    looks = " or ".join(f"{unit} ({read[unit]:.2g} ppm{_assumed(unit)})" for unit in likely)
    told = f"it looks like {looks}: give {_FOR_EXAMPLE[likely[0]]}" if likely else "no usual unit fits: give --field-unit"
    raise InputError(
        f"field: its 99th percentile in the mask is {largest:.3g}, and a brain's local field has about 0.035 ppm; {told}, with the scan's "
        "numbers (ppm if the values are right)"
    )


def _assumed(unit: str) -> str:
    needs = _NEEDS.get(unit, ())
    return "".join((" at 3 T" if "b0_tesla" in needs else "", " and 20 ms" if "te_ms" in needs else ""))
