"""What the voxels of a volume must be, whatever file or array holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calotype.errors import InputError

MIN_VOXELS = 2
"""Shortest side that is accepted, in voxels."""
MAX_VOXELS = 512**3
"""Most voxels that are accepted; the header's figure is checked before anything is decoded."""


def check_shape(shape: Sequence[int], subject: str, kind: type[InputError] = InputError, *, flat: bool = False) -> None:
    """Refuse what is not one volume of an accepted size, by what its header says; with `flat`, one slice is accepted too.

    Raises:
        InputError: (or the given kind) too few or too many axes, several volumes, a side below 2 voxels, too many voxels.
    """
    told = "x".join(str(side) for side in shape)
    if flat and len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) < 3:
        raise kind(f"{subject} is {len(shape)}-D ({told or 'no'} values); a volume has three axes, [x, y, z]")
    if min(shape) < 1:
        raise kind(f"{subject} has {told} voxels; each side of a volume needs at least {MIN_VOXELS}")
    if math.prod(shape[3:]) != 1:
        raise kind(f"{subject} is {len(shape)}-D ({told}) and holds {math.prod(shape[3:])} volumes; give one of them, as a file of its own")
    if min(shape[:3]) < MIN_VOXELS and not (flat and shape[2] == 1 and min(shape[:2]) >= MIN_VOXELS):
        raise kind(f"{subject} has {told} voxels, each side needs at least {MIN_VOXELS}; a single slice is no volume")
    if math.prod(shape) > MAX_VOXELS:
        raise kind(
            f"{subject} has {told} = {math.prod(shape) / 1e6:.0f} million voxels, at most {MAX_VOXELS / 1e6:.0f} are read; crop it first"
        )


def refuse_nan(values: np.ndarray, subject: str) -> None:
    """Refuse values that are not finite.

    Raises:
        InputError: there are some; the message says how many.
    """
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(f"{subject}: {bad} of {values.size} voxels are NaN or infinite; set them to 0 (numpy.nan_to_num, fslmaths -nan)")
