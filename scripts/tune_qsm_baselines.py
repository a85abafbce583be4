"""Choose threshold, weights and iterations of the classical inversions on brains of the split `tune`, and print `TUNED`.

    python scripts/tune_qsm_baselines.py

The numbers belong into `calotype/evaluation/qsm_baselines.py`.
"""

import sys

from calotype.evaluation.qsm_baselines import SOLVERS, TUNE_COUNT, TUNE_SEED, sweep
from calotype.evaluation.qsm_cases import heads, scan

CONDITIONS = ((0.006, 0.0), (0.002, 0.0), (0.006, 20.0), (0.002, 20.0))


def main() -> None:
    """Print every grid with its mean errors in %, then the best of each."""
    brains = heads("tune", TUNE_SEED, TUNE_COUNT)
    for noise, tilt in CONDITIONS:
        cases = [scan(head, noise_ppm=noise, tilt_degrees=tilt) for head in brains]
        best = {}
        for name in SOLVERS:
            errors = sweep(name, cases)
            best[name] = min(errors, key=errors.__getitem__)
            told = ", ".join(f"{setting:g} {error:.1f}" for setting, error in errors.items())
            sys.stdout.write(f"{noise} ppm, {tilt:g} degrees, {name}: {told}\n")
        sys.stdout.write(f"    ({noise}, {tilt}): {best},\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
