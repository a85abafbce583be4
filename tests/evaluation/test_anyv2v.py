"""The evaluation of AnyV2V: its cases are what they say, its metrics tell right from wrong, its claims can fail."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from calotype.evaluation.anyv2v import claims
from calotype.evaluation.clip_edits import APART, ClipEdit, cases
from calotype.evaluation.experiment import ResultTable
from calotype.evaluation.report import Claim
from calotype.world import recognise
from calotype.world.painting.shapes import CATEGORIES


@pytest.fixture(scope="module")
def some() -> list[ClipEdit]:
    return cases("small", "tune", 3, 4)


def test_cases_change_one_thing(some: list[ClipEdit]) -> None:
    assert [case.kind for case in some] == ["shape", "colour", "shape", "ground"]
    for case in some:
        before, after = case.source.scene, case.edited.scene
        (old,), (new,) = before.objects, after.objects
        changed = {
            "shape": old.category != new.category,
            "colour": old.colour != new.colour,
            "ground": before.background != after.background,
        }
        assert [kind for kind, differs in changed.items() if differs] == [case.kind]
        assert old.motion == new.motion
        assert abs(new.angle) <= CATEGORIES[new.category].tilt + 1e-9
        assert not torch.equal(case.source.clip, case.edited.clip)


def test_the_wrong_clip_begins_alike_and_goes_elsewhere(some: list[ClipEdit]) -> None:
    for case in some:
        assert torch.equal(case.source.clip[0], case.wrong.clip[0])
        ends = np.linalg.norm(case.wrong_path[-1] - case.source.truth.centroids[-1])
        assert ends > 0.7 * APART


def test_the_truth_is_perfect_and_baselines_are_not(some: list[ClipEdit]) -> None:
    for case in some:
        truth = case.measure(case.edited.clip)
        assert truth["psnr_db"] == truth["background_psnr_db"] == 99
        assert truth["trajectory_error_px"] == 0
        assert truth["flicker"] == 0
        frozen = case.measure(torch.stack([case.frame.pixels] * len(case.clip)))
        assert frozen["trajectory_error_px"] > 3
        assert frozen["psnr_db"] < 40
        assert case.measure(case.wrong.clip)["psnr_db"] < 40
        gone = case.measure(torch.zeros_like(case.edited.clip))
        assert gone["attribute_accuracy"] == 0
        assert np.isnan(truth["shape_accuracy"]) == (case.kind != "shape")
    assert np.mean([case.measure(case.edited.clip)["attribute_accuracy"] for case in some]) > 0.9
    assert np.mean([case.measure(case.source.clip)["attribute_accuracy"] for case in some]) == 0


def test_an_object_that_is_not_found_is_half_the_side_away(some: list[ClipEdit]) -> None:
    empty = some[0].edited.background.expand(8, -1, -1, -1)
    found = some[0].measure(empty)
    assert found["trajectory_error_px"] == 32
    assert all(seen.none for seen in recognise(empty))


def test_cases_depend_on_split_seed_and_number_alone() -> None:
    first, again, other = (cases("small", split, 3, 2) for split in ("tune", "tune", "eval"))
    assert [case.edited.scene for case in first] == [case.edited.scene for case in again]
    assert [case.edited.scene for case in first] != [case.edited.scene for case in other]


def numbers(**change: float) -> dict[str, float]:
    good = {"psnr_db": 25.0, "trajectory_error_px": 0.5, "attribute_accuracy": 0.95, "shape_accuracy": 0.95, "wrong_path_error_px": 9.0}
    return {name: change.get(name, value) for name, value in good.items()}


def told(scenes: Mapping[str, Mapping[str, float]]) -> list[Claim]:
    table = ResultTable()
    for variant, metrics in scenes.items():
        table.add(variant, "method", [metrics] * 6)
    return claims(table)


def test_claims_hold_and_fail() -> None:
    scenes = {
        "method": numbers(),
        "image-to-video": numbers(psnr_db=18.0, trajectory_error_px=8.0),
        "inject-value": numbers(shape_accuracy=0.5),
        "always-inject": numbers(shape_accuracy=0.5),
        "wrong-clip": numbers(trajectory_error_px=9.0, wrong_path_error_px=0.5),
    }
    assert all(claim.holds for claim in told(scenes))
    for variant, change in (
        ("method", {"trajectory_error_px": 1.2}),
        ("image-to-video", {"trajectory_error_px": 2.0}),
        ("method", {"attribute_accuracy": 0.8}),
        ("image-to-video", {"psnr_db": 22.0}),
        ("inject-value", {"shape_accuracy": 0.9}),
        ("always-inject", {"shape_accuracy": 0.9}),
        ("wrong-clip", {"wrong_path_error_px": 8.0}),
    ):
        worse = {**scenes, variant: {**scenes[variant], **change}}
        assert sum(not claim.holds for claim in told(worse)) == 1, (variant, change)
