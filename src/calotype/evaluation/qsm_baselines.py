"""The classical inversions with settings that suit the noise, chosen on brains of the split `tune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from torch import Tensor

from calotype.core.dipole import DipoleOperator
from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.evaluation.qsm_cases import Scan, heads, scan
from calotype.methods.qsmdiff.classical import l2, ndi, tkd, tv
from calotype.metrics.volumes import nrmse_percent

Settings = Mapping[str, float]
"""One number per baseline: threshold of `tkd`, weight of `l2` and `tv`, iterations of `ndi`."""

SOLVERS: Mapping[str, Callable[[Tensor, DipoleOperator, float], Tensor]] = MappingProxyType(
    {"tkd": tkd, "l2": l2, "tv": tv, "ndi": lambda field, dipole, iterations: ndi(field, dipole, int(iterations))}
)
GRIDS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "tkd": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5),
        "l2": (1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2),
        "tv": (2e-5, 5e-5, 7e-5, 1e-4, 1.4e-4, 2e-4, 2.8e-4, 4e-4, 5.6e-4, 8e-4, 1e-3),
        "ndi": (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 200),
    }
)
TUNE_SEED, TUNE_COUNT = 0, 4
"""The brains that settings are chosen on."""

TUNED: Mapping[tuple[float, float], Settings] = MappingProxyType(
    {
        (0.006, 0.0): {"tkd": 0.4, "l2": 0.03, "tv": 4e-4, "ndi": 10},
        (0.002, 0.0): {"tkd": 0.15, "l2": 0.003, "tv": 1e-4, "ndi": 80},
        (0.006, 20.0): {"tkd": 0.4, "l2": 0.03, "tv": 4e-4, "ndi": 10},
        (0.002, 20.0): {"tkd": 0.15, "l2": 0.003, "tv": 1e-4, "ndi": 80},
    }
)
"""By noise in ppm and tilt in degrees; `python scripts/tune_qsm_baselines.py` prints it."""


def solve(name: str, case: Scan, setting: float) -> Float[Tensor, "x y z"]:
    """The map of one baseline in ppm.

    Raises:
        InputError: an unknown baseline.
    """
    if name not in SOLVERS:
        raise InputError(f"there is no baseline {name!r}; choose one of {', '.join(SOLVERS)}")
    return SOLVERS[name](case.field.values, case.dipole, setting)


def sweep(name: str, cases: Sequence[Scan], events: Events = SILENT) -> dict[float, float]:
    """Mean error in % over the cases for every setting of the baseline's grid."""
    found: dict[float, float] = {}
    for setting in GRIDS[name]:
        events.check()
        errors = [nrmse_percent(solve(name, case, setting), case.head.brain.susceptibility, case.mask.values > 0) for case in cases]
        found[setting] = float(np.mean(errors))
        events.step()
    return found


def settings_for(noise_ppm: float, tilt_degrees: float = 0.0, *, events: Events = SILENT) -> Settings:
    """Settings for a noise: recorded ones, or, for a noise that nobody tuned for, found now on two brains of the split `tune`.

    Raises:
        InputError: negative noise.
    """
    key = noise_ppm, tilt_degrees
    if key in TUNED:
        return TUNED[key]
    cases = [scan(head, noise_ppm=noise_ppm, tilt_degrees=tilt_degrees) for head in heads("tune", TUNE_SEED, 2)]
    events.stage("tune the baselines", sum(len(grid) for grid in GRIDS.values()))
    found = {name: sweep(name, cases, events) for name in SOLVERS}
    return {name: min(errors, key=errors.__getitem__) for name, errors in found.items()}
