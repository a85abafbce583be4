"""The proof's own soundness: its cases, and whether its numbers tell good edits from bad ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from calotype import load
from calotype.evaluation.design_edit import claims, grey_hole, mean_colour, measure, membrane, pasted
from calotype.evaluation.edit_cases import NEAREST, SIZE, SMOOTH, PictureEdit, batches, cases, gradient_energy
from calotype.evaluation.experiment import ResultTable
from calotype.methods.design_edit import DesignEdit
from calotype.methods.design_edit.regions import Window, dilate
from calotype.methods.design_edit.windows import blend

COUNT = 6


@pytest.fixture(scope="module")
def some() -> list[PictureEdit]:
    return cases("small", "tune", 77, COUNT)


def test_cases_are_fixed_by_seed_and_sound(some: list[PictureEdit]) -> None:
    again = cases("small", "tune", 77, COUNT)
    assert [(case.scene, case.number, case.shift) for case in again] == [(case.scene, case.number, case.shift) for case in some]
    assert [case.kind for case in some] == ["removal"] * COUNT + ["move"] * COUNT
    assert sum(case.scene.background.name in SMOOTH for case in some) == COUNT
    for case in some:
        assert case.scene.split == "tune"
        assert not bool((dilate(case.mask, 4) & case.other).any())
        assert not bool((case.place & case.other).any())
        if case.kind == "move":
            assert math.hypot(*case.shift) >= NEAREST
            assert int(case.place.sum()) == int(case.mask.sum())
    assert [len(batch) for batch in batches(some, 4)] == [4, 2, 4, 2]


def test_the_answer_is_perfect_and_doing_nothing_is_not(some: list[PictureEdit]) -> None:
    for case in some:
        right, wrong = case.measure(case.answer, case.picture, 4), case.measure(case.picture, case.picture, 4)
        smooth = case.scene.background.name in SMOOTH
        assert right["residue_share"] == right["foreign_share"] == 0
        assert right["hole_psnr_db"] == 99 if smooth else math.isnan(right["hole_psnr_db"])
        assert math.isnan(right["texture_ratio"]) if smooth else right["texture_ratio"] == 1
        assert wrong["residue_share"] == 1
        assert right["outside_psnr_db"] == 99
        if case.kind == "move":
            assert (right["iou"], right["position_error_px"]) == (1, 0)
            assert wrong["iou"] < 0.4
            assert wrong["position_error_px"] > 4


def test_the_composite_shows_the_moved_object_where_the_answer_does(some: list[PictureEdit]) -> None:
    for case in some[COUNT:]:
        inner = ~dilate(~case.place, 1)
        assert (case.task.composite - case.answer)[:, inner].abs().max() < 0.02
        assert case.measure(pasted(case, case.clean), case.picture, 4)["iou"] > 0.9


def test_cheap_fills_are_what_they_say(some: list[PictureEdit]) -> None:
    for case in some[:COUNT]:
        assert case.measure(mean_colour(case), case.picture, 4)["residue_share"] < 0.05
        inner = ~dilate(~case.hole, 1)
        assert gradient_energy(mean_colour(case), inner) < 1e-9
        assert bool((grey_hole(case)[:, case.mask] == 0.5).all())
    smooth = [case for case in some[:COUNT] if case.scene.background.name in SMOOTH]
    better = [
        case.measure(membrane(case), case.picture, 4)["hole_psnr_db"] - case.measure(mean_colour(case), case.picture, 4)["hole_psnr_db"]
        for case in smooth
    ]
    assert np.mean(better) > 0


def test_the_blend_of_the_proof_is_the_users(some: list[PictureEdit]) -> None:
    case = some[0]
    edited = blend(case.task, torch.zeros(3, SIZE, SIZE), Window(0, 0, SIZE, SIZE), 4, 4)
    far = ~dilate(case.mask, 4)
    assert torch.equal(edited[:, far], case.picture[:, far])


def test_the_whole_experiment_has_its_rows_and_claims() -> None:
    settings = DesignEdit(num_inference_steps=2, mask_start=0.0, mask_stop=1.0, refine_stop=1.0, dilation=1.0)
    report = measure(load("toy-t2i", device="cpu"), seed=5, count=1, split="tune", settings=settings)
    wanted = [
        "method",
        "reconstruction",
        "grey-hole",
        "mean-colour",
        "repaint",
        "mask-off",
        "mask-query",
        "mask-value",
        "late-fusion",
        "wrong-mask",
        "sdedit",
    ]
    assert set(wanted) <= {row.variant for row in report.rows}
    assert report.row("method").n == 2
    assert report.row("late-fusion").n == 1
    assert report.row("method").metrics["model_calls"] < report.row("repaint").metrics["model_calls"]
    assert {"hole_psnr_db", "ring_psnr_db", "outside_psnr_db", "residue_share", "texture_ratio", "position_error_px", "iou"} <= set(
        report.metrics
    )
    assert len(report.claims) >= 10


def test_claims_compare_scene_by_scene() -> None:
    names = ["hole_psnr_db", "ring_psnr_db", "outside_psnr_db", "residue_share", "foreign_share", "texture_ratio", "model_calls", "iou"]
    good = {name: [30.0] * 4 for name in names} | {"residue_share": [0.0] * 4, "texture_ratio": [1.0] * 4, "iou": [0.9] * 4}
    bad = {name: [20.0] * 4 for name in names} | {"residue_share": [1.0] * 4, "texture_ratio": [0.0] * 4, "model_calls": [200.0] * 4}
    variants = ["reconstruction", "grey-hole", "mean-colour", "repaint", "mask-off", "mask-query", "mask-value"]
    rows = {"method": good, **dict.fromkeys(variants, bad), "late-fusion": bad, "wrong-mask": bad, "autoencoder": good}
    table = ResultTable()
    for name, numbers in rows.items():
        scenes = [dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True)]
        table.add(name, "method", scenes[:2] if name in ("late-fusion", "wrong-mask") else scenes)
    found = claims(table)
    assert [claim.claim for claim in found if not claim.holds] == [next(c.claim for c in found if "foreign" in c.claim)]
