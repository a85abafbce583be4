"""Click to Grasp's evaluation: what is asked can be answered, its metrics tell right from wrong, and its claims can fail."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch

from calotype.core.events import SILENT
from calotype.evaluation.click_to_grasp import GRIPPER, ClickedScenes, claims
from calotype.evaluation.critter_clicks import (
    LIMBS,
    Case,
    Colours,
    Remembering,
    Shuffled,
    TrueParts,
    judge_pixel,
    judge_point,
    mirrored,
    sample_case,
)
from calotype.imaging.types import Image
from calotype.methods.click_to_grasp import ClickToGrasp
from calotype.world.critters.anatomy import PARTS

METHOD = dataclasses.replace(ClickToGrasp.toy(), min_margin=0.0, min_similarity=0.0, gripper=GRIPPER)


@functools.cache
def case(index: int = 0) -> Case:
    return sample_case("tune", 7, index)


@functools.cache
def table() -> ClickedScenes:
    return ClickedScenes(TrueParts(case()), METHOD, [case()], 0, SILENT, "quasi-static")


def middle(part: str, critter: int = 0) -> torch.Tensor:
    solid = case().scene.critters[critter].primitives()[PARTS.index(part)]
    return (torch.tensor(solid.start) + torch.tensor(solid.end)) / 2


def test_every_part_of_a_reference_is_clicked_on() -> None:
    for reference in (case().reference, case().target):
        for part, (x, y) in reference.clicks.items():
            assert PARTS[reference.part[int(y), int(x)]] == part
    assert {mirrored(part) for part in LIMBS} == set(LIMBS)


def test_cases_depend_on_split_and_seed_alone() -> None:
    assert sample_case("tune", 7, 0).scene == case().scene
    assert sample_case("eval", 7, 0).scene != case().scene


def test_a_place_on_the_part_is_right_and_one_on_its_twin_is_on_the_wrong_side() -> None:
    for part in LIMBS:
        right, wrong = judge_point(case(), part, middle(part)), judge_point(case(), part, middle(mirrored(part), 1))
        assert (right["within_2cm"], right["left_right"], right["distance_cm"]) == (1, 1, 0)
        assert (wrong["within_2cm"], wrong["left_right"]) == (0, 0)
        own, other = (judge_pixel(case(), part, case().target.clicks[name]) for name in (part, mirrored(part)))
        assert (own["hit"], own["left_right"]) == (1, 1)
        assert (other["hit"], other["left_right"]) == (0, 0)
    elsewhere = judge_point(case(), "arm_left", middle("head"))
    assert elsewhere["within_2cm"] == 0
    assert math.isnan(elsewhere["left_right"])
    assert math.isnan(judge_pixel(case(), "arm_left", (0.5, 0.5))["left_right"])


def test_true_parts_find_and_raise_the_part_and_a_random_place_does_not() -> None:
    rows = table()
    assert rows.by_true_parts(case(), "arm_left")["within_2cm"] == 1
    assert rows.with_true_parts(case(), "arm_left")["right_and_raised"] == 1
    found = rows.true_parts(case(), "arm_right")
    there = rows.grasped(case(), "arm_left", found)
    assert (there["right"], there["right_and_raised"]) == (0, 0), "the other arm is the wrong part, however well it is held"


def test_shuffled_maps_have_the_same_values_in_other_places_and_the_reference_stays() -> None:
    model, reference = Remembering(Colours()), case().reference.image
    view = case().views.views[0].image
    shuffled = Shuffled(model, reference, 3)
    assert torch.equal(shuffled.maps(reference)["vit"], model.maps(reference)["vit"])
    true, other = model.maps(view)["vit"], shuffled.maps(view)["vit"]
    assert not torch.equal(true, other)
    assert torch.equal(true.flatten(1).sum(0).sort().values, other.flatten(1).sum(0).sort().values)


def test_a_model_is_asked_once_for_each_picture() -> None:
    asked = []

    class Counting(Colours):
        def maps(self, image: Image) -> dict[str, torch.Tensor]:
            asked.append(image)
            return super().maps(image)

    model = Remembering(Counting())
    for _ in range(3):
        model.maps(case().reference.image)
        model.maps(case().target.image)
    assert len(asked) == 2


@pytest.mark.parametrize(("good", "holds"), [(1.0, True), (0.5, False)])
def test_the_claims_follow_the_rows(good: float, holds: bool) -> None:
    rows = ClickedScenes(Colours(), METHOD, [], 0, SILENT, "quasi-static")
    values = {
        "method@2d": ("left_right", good), "transformer@2d": ("left_right", 1.1 - 0.55 * good), "mirrored-reference@2d": ("flipped", good),
        "method": ("within_2cm", good), "single-view": ("within_2cm", 0.6), "unfused": ("within_2cm", 0.7), "oracle": ("within_2cm", good),
        "method@grasp": ("right_and_raised", good), "geometry-alone@grasp": ("right_and_raised", 0.1 if holds else 0.5),
        "shuffled": ("within_2cm", 0.1 if holds else 0.9), "random-place": ("within_2cm", 0.1),
    }  # fmt: skip
    for variant, (metric, value) in values.items():
        rows.add(variant, "method", [{metric: value}] * 30)
    verdicts = [claim.holds for claim in claims(rows)]
    assert all(verdicts) if holds else not any(verdicts)
