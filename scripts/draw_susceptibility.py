"""Draw the pictures of the page on QSMDiff and its example field.

python scripts/draw_susceptibility.py             susceptibility.png, and examples/local-field.nii.gz with examples/brain-mask.nii.gz
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from calotype.data.sample_grids import rows_sheet
from calotype.errors import MissingError
from calotype.evaluation.qsm_baselines import TUNED, solve
from calotype.evaluation.qsm_cases import Head, Scan, heads, scan
from calotype.imaging.types import Image, Volume
from calotype.world.brains.anatomy import sample_brain

ROOT = Path(__file__).parent.parent
SEED, NOISE_PPM = 5, 0.006
SIZE = (92, 92, 92)


def draw_susceptibility() -> None:
    """A whole head with a ball that no training brain has: truth, field, three inversions and how far samples differ, in two planes."""
    import calotype

    brain = sample_brain(split="tune", seed=SEED, index=1, sphere=True).crop(SIZE, (0.0, -16.0, 22.0))
    case = scan(Head(brain, torch.zeros(SIZE), "tune", SEED, 1), noise_ppm=NOISE_PPM)
    found = calotype.QSMDiff.toy()(calotype.load("toy-qsm"), case.field, case.mask, seed=SEED)
    settings = TUNED[NOISE_PPM, 0.0]
    mask = case.mask.values
    truth = (brain.susceptibility - brain.susceptibility[mask > 0].mean()) * mask
    columns = {
        "truth": (truth, -0.1, 0.2),
        "field": (case.field.values, -0.03, 0.03),
        "tkd": (solve("tkd", case, settings["tkd"]), -0.1, 0.2),
        "tv": (solve("tv", case, settings["tv"]), -0.1, 0.2),
        "qsmdiff": (found.chi.values, -0.1, 0.2),
        "std": (found.std.values, 0.0, 0.05),
    }
    rows = [[grey(values.select(axis, at), low, high) for values, low, high in columns.values()] for axis, at in ((2, 37), (0, 36))]
    rows_sheet(rows, height=230).save(ROOT / "docs" / "images" / "susceptibility.png", overwrite=True)
    sys.stdout.write("columns: " + ", ".join(columns) + "\n")


def grey(plane: Tensor, low: float, high: float) -> Image:
    """A plane with the front or the head up."""
    return Image(((plane.T.flip(0) - low) / (high - low)).clamp(0, 1).expand(3, -1, -1).contiguous())


def write_examples() -> None:
    """The field and mask of one head of the evaluation's size, for a first run."""
    case: Scan = scan(heads("eval", SEED, 1)[0], noise_ppm=0.002)
    case.field.save(ROOT / "examples" / "local-field.nii.gz", overwrite=True)
    Volume(case.mask.values, case.mask.affine).save(ROOT / "examples" / "brain-mask.nii.gz", overwrite=True)


if __name__ == "__main__":
    try:
        write_examples()
        draw_susceptibility()
    except MissingError as error:
        sys.stdout.write(f"{error}\n")
