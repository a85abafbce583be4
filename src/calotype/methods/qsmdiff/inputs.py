"""What a run measures: field or map in ppm, the brain, and the direction of the main field, from the files that hold them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from calotype.core.dipole import b0_direction as along_z
from calotype.core.events import SILENT, Events
from calotype.data.volumes import VolumeLike, as_volume, laid_on, masked_values, volume_mask
from calotype.errors import InputError
from calotype.imaging.nifti import in_scanner_frame
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff.units import FieldUnit, Quantity, field_in_ppm


def read_measurement(
    field: VolumeLike,
    mask: VolumeLike,
    *,
    quantity: Quantity,
    b0_direction: Sequence[float] | None,
    field_unit: FieldUnit | None,
    te_ms: float | None,
    b0_tesla: float | None,
    events: Events = SILENT,
) -> tuple[Volume, Bool[Tensor, "x y z"], tuple[float, float, float]]:
    """The measurement in ppm, 0 where it is unknown outside the brain, the brain, and the main field's direction in the file's axes.

    The arguments are those of `QSMDiff`'s call.

    Raises:
        InputError: a volume is refused, the two don't share a grid, the unit isn't known, or b0_direction has no length.
    """
    measured = as_volume(field, name="field", finite=False, events=events)
    if isinstance(mask, str | os.PathLike):
        mask = as_volume(mask, name="mask", events=events)
    if isinstance(mask, Volume):
        measured = laid_on(measured, mask, name="field", reference_name="mask", events=events)
    b0 = along_z(measured.affine.numpy()) if b0_direction is None else _unit_vector(b0_direction)
    brain = volume_mask(mask, measured, events=events)
    measured = masked_values(measured, brain, events=events)
    if not bool(measured.values[brain].any()):
        raise InputError("field: it is 0 everywhere in the mask; give the local field in ppm")
    measured = field_in_ppm(measured, brain, unit=field_unit, te_ms=te_ms, b0_tesla=b0_tesla, quantity=quantity, events=events)
    if quantity == "field" and b0_direction is None and measured.header and not in_scanner_frame(measured.header):
        events.note(
            "field: its header doesn't say how the head lay in the scanner (neither sform nor qform has code 1); the main field "
            "is taken along its feet-head axis: if the head was tilted, give --b0-direction"
        )
    return measured, brain, b0


def _unit_vector(direction: Sequence[float]) -> tuple[float, float, float]:
    length = math.hypot(*direction)
    if len(direction) != 3 or not 0 < length < math.inf:
        raise InputError(
            f"b0_direction is {list(direction)}; it must be three numbers that are not all 0, the main field's direction in the file's axes"
        )
    x, y, z = direction
    return float(x) / length, float(y) / length, float(z) / length
