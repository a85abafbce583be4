"""The evaluation of harmonized customization: paired cases, rows, and claims that can fail."""

from __future__ import annotations

import json
import math

import pytest

import calotype
from calotype.evaluation.experiment import ResultTable
from calotype.evaluation.harmonized_customization import FEW, MAIN, PLAIN, PoseChange, claims, measure
from calotype.methods.harmonized_customization import HarmonizedCustomization
from calotype.world import paint
from calotype.world.creatures.drawing import looks_of, sample_creature
from calotype.world.creatures.recogniser import recognise_creatures
from tests.tiny_subject import cached_subject

ROWS = (
    *MAIN, "swap-only", "text-only", "visual-only", "half-scale", "wrong-identity", "projection@eta-0.5", "projection@input",
    "projection@all-rows", "method@kv", "wrong-identity@kv", "method@early-swap", "autoencoder",
)  # fmt: skip


def test_cases_ask_for_another_pose_of_an_unseen_creature() -> None:
    cases = [PoseChange.of("eval", 3, index) for index in range(60)]
    assert all(case.wanted != case.subject.creature.pose and case.wanted in case.prompt for case in cases)
    assert {case.subject.creature.look for case in cases} <= set(looks_of("eval"))
    assert len({case.wanted for case in cases}) == 6
    assert PoseChange.of("eval", 3, 7).prompt == cases[7].prompt
    assert not any(word in cases[0].prompt for word in ("creature", cases[0].subject.creature.look.body))


def test_a_perfect_answer_and_a_copied_pose_are_told_apart() -> None:
    case = PoseChange.of("tune", 5, 1)
    answer = sample_creature(split="tune", seed=5, index=1, pose=case.wanted)
    right, copied = (case.measure(one) for one in recognise_creatures(paint([answer, case.subject])))
    assert (right["pose_accuracy"], right["pose_copy_rate"], right["prompt_accuracy"], right["not_found"]) == (1.0, 0.0, 1.0, 0.0)
    assert (copied["pose_accuracy"], copied["pose_copy_rate"], copied["prompt_accuracy"]) == (0.0, 1.0, 0.0)
    assert right["identity_error"] < 2.0
    other = PoseChange.of("tune", 5, 2)
    assert other.measure(recognise_creatures(paint([answer]))[0])["identity_error"] > 10.0


def test_a_report_has_every_row_and_is_json() -> None:
    model = calotype.load(str(cached_subject("toy-subject")), device="cpu")
    settings = HarmonizedCustomization(num_inference_steps=1, guidance_scale=2.0)
    report = measure(model, seed=1, count=2, split="tune", settings=settings)
    assert {row.variant for row in report.rows} == set(ROWS)
    assert all(row.n == 2 for row in report.rows)
    told = json.loads(json.dumps(report.to_dict()))
    assert [claim["holds"] for claim in told["claims"]].count(
        True
    ) <= 1  # random weights draw no creature, so nothing can hold but not_found
    assert report.row("autoencoder").metrics["prompt_accuracy"] >= 0.0


def scenes(copy: float, accuracy: float, missing: float, error: float) -> dict[str, list[float]]:
    def share(value: float) -> list[float]:
        return [1.0] * round(100 * value) + [0.0] * round(100 * (1 - value))

    spread = [error + 0.1 * math.sin(i) for i in range(100)]
    return {"pose_copy_rate": share(copy), "pose_accuracy": share(accuracy), "not_found": share(missing), "identity_error": spread}


def holds(rows: dict[str, dict[str, list[float]]]) -> list[bool]:
    table = ResultTable()
    for variant, numbers in rows.items():
        table.add(variant, "method", [dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True)])
    return [claim.holds for claim in claims(table)]


def test_claims_follow_the_numbers() -> None:
    good = {
        "concatenation": scenes(0.6, 0.3, 0.0, 20.0), "projection": scenes(0.1, 0.8, 0.0, 22.0),
        "random-subspace": scenes(0.6, 0.3, 0.0, 20.0), "method": scenes(0.2, 0.7, 0.0, 15.0),
        "wrong-identity": {name: values[:FEW] for name, values in scenes(0.2, 0.7, 0.0, 40.0).items()},
    }  # fmt: skip
    assert holds(good) == [True] * 6
    assert holds({**good, "projection": good["concatenation"]}) == [False, True, False, True, True, True]
    assert holds({**good, "random-subspace": good["projection"]})[1] is False
    assert holds({**good, "method": scenes(0.2, 0.7, 0.0, 30.0)})[4] is False
    assert holds({**good, "wrong-identity": good["method"]})[5] is False
    assert holds({**good, "projection": scenes(0.1, 0.8, 0.3, 22.0)})[3] is False


def test_the_plain_model_is_the_method_without_both_parts() -> None:
    assert PLAIN == {"eta": 0.0, "swap": "off"}
    with pytest.raises(Exception, match="eta"):
        HarmonizedCustomization(eta=2.0)
