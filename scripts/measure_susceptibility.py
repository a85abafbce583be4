"""Print the figures of QSMDiff's page that aren't in its evaluation's table; about five minutes on two cores.

python scripts/measure_susceptibility.py          settings on two heads of `tune`, a field of qsm-forward's, a turned head of thin voxels
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import calotype
from calotype.evaluation.qsm_baselines import TUNED, solve
from calotype.evaluation.qsm_cases import Head, Scan, heads, scan
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.qsmdiff.grid import WorkingGrid
from calotype.metrics import nrmse_percent
from calotype.world.brains.anatomy import sample_brain

SEED, COUNT = 5, 2
ONE = replace(QSMDiff.toy(), num_samples=1)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "toy, 2 samples": {"num_samples": 2},
    "toy, 1 sample": {},
    "eta 0.5": {"eta": 0.5},
    "strength 0.35": {"strength": 0.35},
    "strength 0.7": {"strength": 0.7},
    "2 iterations": {"num_guidance_steps": 2},
    "40 steps": {"num_inference_steps": 40},
    "init": {"guidance_mode": "init", "num_guidance_steps": 3, "tv": 1e-4},
    "dc": {"guidance_mode": "dc", "tv": 1e-4},
}


def settings(model: Any) -> None:
    """Mean error in % and slope of the nuclei for each variant of `toy`, and tuned total variation's."""
    conditions = {noise: [scan(head, noise_ppm=noise) for head in heads("tune", SEED, COUNT)] for noise in (0.006, 0.002)}
    for noise, cases in conditions.items():
        tell(f"{noise:g} ppm, tuned tv", [case.measure(solve("tv", case, TUNED[noise, 0.0]["tv"])) for case in cases])
        for name, changes in VARIANTS.items():
            method = replace(ONE, noise=noise, **changes)
            tell(f"{noise:g} ppm, {name}", [case.measure(method(model, case.field, case.mask, seed=1).chi.values) for case in cases])


def foreign_field(model: Any) -> None:
    """A field that qsm-forward computed, at 0.006 ppm."""
    import qsm_forward

    head = heads("tune", 11, 2)[1]
    brain, mask = head.brain, head.brain.mask > 0
    field = np.asarray(
        qsm_forward.generate_field(brain.susceptibility.numpy(), voxel_size=np.full(3, 2.0), B0_dir=np.array([0.0, 0.0, 1.0]))
    )
    field = field - field[mask.numpy()].mean() + 0.006 * np.random.default_rng(0).standard_normal(field.shape)
    values = torch.from_numpy(field.astype(np.float32)) * mask
    plain = scan(head, noise_ppm=0.006)
    case = Scan(head, 0.006, 0.0, plain.field.with_values(values), plain.mask)
    for name in ("tkd", "l2", "tv"):
        tell(f"field of qsm-forward, {name}", [case.measure(solve(name, case, TUNED[0.006, 0.0][name]))])
    tell("field of qsm-forward, qsmdiff", [case.measure(QSMDiff.toy()(model, case.field, case.mask).chi.values)])


def thin_voxels(model: Any) -> None:
    """A head of 0.8 x 0.8 x 2 mm, turned by 20 degrees, with swapped and flipped axes; and what any map of 2 mm loses of it."""
    brain = sample_brain(split="tune", seed=11, index=2, spacing=(0.8, 0.8, 2.0)).crop((121, 145, 47))
    case = scan(Head(brain, torch.zeros(brain.mask.shape), "tune", 11, 2), noise_ppm=0.004, tilt_degrees=20.0)
    order = np.zeros((4, 4))
    order[[2, 0, 1, 3], [0, 1, 2, 3]] = -1.0, 1.0, 1.0, 1.0
    order[2, 3] = brain.mask.shape[2] - 1
    affine = torch.from_numpy(case.field.affine.numpy() @ order)
    field, mask, truth = (
        Volume(values.permute(2, 0, 1).flip(0).contiguous(), affine)
        for values in (case.field.values, case.mask.values, brain.susceptibility)
    )
    inside = mask.values > 0
    grid = WorkingGrid(inside, affine, spacing=model.spacing, least=model.window)
    best = grid.leave(grid.enter(truth.values, inside)[0]) * mask.values
    found = replace(QSMDiff.toy(), noise=0.004)(model, field, mask).chi
    for name, values in (("the truth at 2 mm", best), ("qsmdiff", found.values)):
        sys.stdout.write(f"0.8 x 0.8 x 2 mm, {name}: error {nrmse_percent(values, truth.values, inside):.1f} %\n")


def tell(name: str, measured: list[dict[str, float]]) -> None:
    """One line: means over the heads."""
    error, slope = (sum(each[metric] for each in measured) / len(measured) for metric in ("nrmse_percent", "roi_slope"))
    sys.stdout.write(f"{name}: error {error:.1f} %, slope {slope:.3f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    prior = calotype.load("toy-qsm")
    foreign_field(prior)
    thin_voxels(prior)
    settings(prior)
