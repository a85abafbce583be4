"""The evaluation of QSMDiff: its cases are what they say, its metrics tell right from wrong, its claims can fail."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import calotype
from calotype.embedded.qsm import QSMRecipe
from calotype.evaluation.experiment import ResultTable
from calotype.evaluation.qsm_baselines import GRIDS, SOLVERS, TUNED, settings_for, solve, sweep
from calotype.evaluation.qsm_cases import CROP, Head, Scan, heads, scan
from calotype.evaluation.qsmdiff import CLEAN_PPM, NOISE_PPM, TILT_DEGREES, claims, measure
from calotype.evaluation.report import Claim
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.qsmdiff.training import QSMDiffTraining


@pytest.fixture(scope="module")
def two() -> list[Head]:
    return heads("tune", 0, 2)


@pytest.fixture(scope="module")
def noisy(two: list[Head]) -> list[Scan]:
    return [scan(head, noise_ppm=NOISE_PPM) for head in two]


def test_every_other_head_has_a_ball(two: list[Head]) -> None:
    plain, other = two
    assert plain.brain.mask.shape == CROP
    assert not plain.ball.any()
    assert 0.15 < other.ball.max() < 0.4
    # Some 4 to 6 mm in radius.
    assert 30 < int((other.ball > 0.1).sum()) < 180
    assert not other.brain.regions[other.ball > 0.2].any()


def test_heads_depend_on_split_seed_and_number_alone(two: list[Head]) -> None:
    (again,) = heads("tune", 0, 1, first=1)
    assert torch.equal(again.brain.susceptibility, two[1].brain.susceptibility)
    for split, seed in (("eval", 0), ("tune", 1)):
        (other,) = heads(split, seed, 1)
        assert not torch.equal(other.brain.susceptibility, two[0].brain.susceptibility)
    first, second = (scan(head, noise_ppm=NOISE_PPM) for head in (again, two[1]))
    assert torch.equal(first.field.values, second.field.values)


def test_tilt_is_in_the_affine(two: list[Head]) -> None:
    angle = math.radians(TILT_DEGREES)
    straight, turned = (scan(two[0], noise_ppm=0, tilt_degrees=tilt) for tilt in (0.0, TILT_DEGREES))
    assert np.allclose(straight.direction, (0, 0, 1))
    assert np.allclose(turned.direction, (0, math.sin(angle), math.cos(angle)))
    assert np.allclose(turned.field.spacing, (2, 2, 2))
    for case, near, far in ((straight, straight, turned), (turned, turned, straight)):
        inside = case.mask.values > 0
        made = [other.dipole.forward(case.head.brain.susceptibility) for other in (near, far)]
        errors = [float((field - case.field.values)[inside].norm() / case.field.values[inside].norm()) for field in made]
        assert errors[0] < 0.02
        assert errors[1] > 0.2


def test_the_truth_is_perfect_and_nothing_is_not(noisy: list[Scan]) -> None:
    for case in noisy:
        truth = case.head.brain.susceptibility
        found = case.measure(truth + 0.1)
        wanted = {"nrmse_percent": 0, "hfen": 0, "ssim": 1, "roi_slope": 1, "cone_energy": 0}
        assert all(math.isclose(found[name], value, abs_tol=1e-3) for name, value in wanted.items())
        nothing = case.measure(truth * 0)
        assert math.isclose(nothing["nrmse_percent"], 100)
        assert math.isclose(nothing["cone_energy"], 1)
        assert nothing["roi_slope"] == 0
        assert nothing["ssim"] < 0.5
    assert math.isnan(noisy[0].measure(noisy[0].head.brain.susceptibility)["ball_share"])
    head = noisy[1].head
    for share in (0.0, 0.5, 1.0):
        chi = head.brain.susceptibility - (1 - share) * head.ball
        assert math.isclose(noisy[1].measure(chi)["ball_share"], share, abs_tol=0.02)


def test_recorded_settings_cover_every_condition_and_are_the_grids() -> None:
    for noise in (NOISE_PPM, CLEAN_PPM):
        for tilt in (0.0, TILT_DEGREES):
            chosen = settings_for(noise, tilt)
            assert chosen == TUNED[noise, tilt]
            assert all(chosen[name] in GRIDS[name] for name in SOLVERS)
    # More noise, more regularisation.
    clean, strong = settings_for(CLEAN_PPM), settings_for(NOISE_PPM)
    assert all(clean[name] < strong[name] for name in ("tkd", "l2", "tv"))
    assert clean["ndi"] > strong["ndi"]


def test_tuned_settings_beat_their_neighbours_and_tv_all(noisy: list[Scan]) -> None:
    chosen = settings_for(NOISE_PPM)
    errors = sweep("tkd", noisy)
    assert len(errors) == len(GRIDS["tkd"])
    assert errors[chosen["tkd"]] < min(errors.values()) + 1
    assert errors[0.05] > 1.5 * errors[chosen["tkd"]]
    found = {name: np.mean([case.measure(solve(name, case, chosen[name]))["nrmse_percent"] for case in noisy]) for name in SOLVERS}
    assert all(found["tv"] < 0.7 * found[name] for name in ("tkd", "l2", "ndi"))
    clean = [scan(case.head, noise_ppm=CLEAN_PPM) for case in noisy]
    tv = np.mean([case.measure(solve("tv", case, settings_for(CLEAN_PPM)["tv"]))["nrmse_percent"] for case in clean])
    assert tv < 28
    assert tv < 0.75 * found["tv"]


def numbers(nrmse: float, **change: float) -> dict[str, float]:
    return {"nrmse_percent": nrmse, "cone_energy": 0.2, "roi_slope": 1.0, **change}


GOOD: Mapping[str, Mapping[str, float]] = {
    "method": numbers(30.0),
    "tkd": numbers(65.0, cone_energy=1.0),
    "l2": numbers(64.0),
    "tv": numbers(35.0),
    "no-prior": numbers(90.0),
    "no-guidance": numbers(120.0),
    "patch-guidance": numbers(45.0),
    "wrong-b0": numbers(150.0),
    "method@noise-0.002": numbers(20.0),
    "tkd@noise-0.002": numbers(48.0),
    "l2@noise-0.002": numbers(48.0),
    "tv@noise-0.002": numbers(21.0),
    "method@tilt-20": numbers(30.0),
    "tv@tilt-20": numbers(35.0),
    "method@slices-4mm": numbers(34.0),
    "tv@slices-4mm": numbers(46.0),
}


def told(rows: Mapping[str, Mapping[str, float]]) -> list[Claim]:
    table = ResultTable()
    for variant, metrics in rows.items():
        table.add(variant, "method", [metrics] * 4)
    return claims(table)


def test_claims_hold_and_fail() -> None:
    assert all(claim.holds for claim in told(GOOD))
    for variant, change in (
        ("tkd", {"nrmse_percent": 42.0}),
        ("l2", {"nrmse_percent": 42.0}),
        ("tkd@noise-0.002", {"nrmse_percent": 28.0}),
        ("l2@noise-0.002", {"nrmse_percent": 28.0}),
        ("tv", {"nrmse_percent": 29.0}),
        ("tv", {"nrmse_percent": 39.0}),
        ("tv@tilt-20", {"nrmse_percent": 29.0}),
        ("tv@noise-0.002", {"nrmse_percent": 19.0}),
        ("tv@noise-0.002", {"nrmse_percent": 29.0}),
        ("tv@slices-4mm", {"nrmse_percent": 33.0}),
        ("tkd", {"cone_energy": 0.3}),
        ("method", {"roi_slope": 0.8}),
        ("method", {"roi_slope": 1.2}),
        ("no-prior", {"nrmse_percent": 34.0}),
        ("no-guidance", {"nrmse_percent": 34.0}),
        ("patch-guidance", {"nrmse_percent": 34.0}),
        ("wrong-b0", {"nrmse_percent": 34.0}),
    ):
        worse = {**GOOD, variant: {**GOOD[variant], **change}}
        assert sum(not claim.holds for claim in told(worse)) == 1, (variant, change)


def test_a_claim_needs_all_brains() -> None:
    """One good brain among bad ones doesn't carry a claim."""
    table = ResultTable()
    for variant, metrics in GOOD.items():
        scenes = [metrics] * 4
        if variant == "method":
            scenes = [numbers(error) for error in (10.0, 40.0, 41.0, 20.0)]
        table.add(variant, "method", scenes)
    failed = [claim.claim for claim in claims(table) if not claim.holds]
    assert any("TV's at 0.006 ppm" in claim for claim in failed)


def test_the_whole_table_on_an_untrained_prior(tmp_path: Path) -> None:
    """Two steps of a narrow network: every row is there, and rows that must differ do."""
    recipe = QSMRecipe()
    recipe.training = QSMDiffTraining(channels=(8, 8), norm_num_groups=4)  # type: ignore[misc]
    trainee = recipe.build(seed=0, start=None, checkpoints=tmp_path)
    recipe.export(trainee, None, tmp_path / "prior")  # type: ignore[arg-type]
    model = calotype.load(str(tmp_path / "prior"), device="cpu")
    settings = dataclasses.replace(QSMDiff.toy(), num_inference_steps=2, num_guidance_steps=3)
    report = measure(model, seed=0, count=1, split="tune", settings=settings)
    ends = {"": 9, "@noise-0.002": 5, "@tilt-20": 5, "@slices-4mm": 2}
    assert len(report.rows) == sum(ends.values())
    metrics = {"nrmse_percent", "hfen", "ssim", "roi_slope", "cone_energy", "ball_share", "seconds", "model_calls"}
    for row in report.rows:
        assert set(row.metrics) == metrics
        assert row.n == 1
        assert all(math.isfinite(value) for name, value in row.metrics.items() if name != "ball_share")
        network = row.variant.startswith(("method", "no-guidance", "patch-guidance", "wrong-b0"))
        assert (row.metrics["model_calls"] > 0) == network
    errors = {row.variant: row.metrics["nrmse_percent"] for row in report.rows}
    assert len(set(errors.values())) == len(errors)
    assert errors["tv"] < min(errors["tkd"], errors["l2"], errors["ndi"])
    assert len(report.claims) == 17
