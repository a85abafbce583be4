"""The proof's own soundness: its scenes, its chance level, and whether its numbers tell good maps from bad ones."""

from __future__ import annotations

import math

import pytest
import torch

from calotype import load
from calotype.core.events import SILENT
from calotype.evaluation.ovam import AbsentWord, MaskExperiment, annotated, cases, centre_disc, chance, measure, untrained
from calotype.methods.ovam import OpenVocabularyAttentionMaps
from calotype.metrics.regions import area_under_curve, iou
from tests import tiny

VARIANTS = {
    "method", "best-in-prompt", "other-word", "centre-disc", "daam", "optimised", "shuffled-mask", "random-weights",
    "method@alone", "method@cond", "method@plain",
}  # fmt: skip


@pytest.fixture(scope="module")
def some() -> list[AbsentWord]:
    return cases("tune", 55, 6)


def test_the_caption_names_the_other_thing_only(some: list[AbsentWord]) -> None:
    assert [case.scene for case in cases("tune", 55, 6)] == [case.scene for case in some]
    for case in some:
        named = case.scene.objects[1 - case.asked].category
        assert named in case.caption.split()
        assert case.word not in case.caption.split()
        assert case.other_word not in {case.word, named}
        assert case.truth.any()
    assert {case.asked for case in some} == {0, 1}
    assert annotated("house").word == "house"
    assert annotated("house").scene.split == "tune"


def test_a_perfect_map_scores_one_and_cheap_ones_do_not(some: list[AbsentWord]) -> None:
    test = MaskExperiment(OpenVocabularyAttentionMaps(self_attention=1.0, refine="none", threshold=0.5), some, 0, SILENT)
    truths = torch.stack([case.truth for case in some])
    test.cut("perfect", "method", truths.float())
    test.cut("flat", "baseline", torch.ones_like(truths, dtype=torch.float32))
    assert test.of("perfect", "miou") == [1.0] * 6
    assert test.of("perfect", "auc") == [1.0] * 6
    assert test.of("flat", "auc") == [0.5] * 6
    assert max(test.of("flat", "miou")) < 0.3
    luck = chance(truths, list(truths))
    assert max(luck) < 0.5


def test_the_disc_has_the_true_area_in_the_middle(some: list[AbsentWord]) -> None:
    disc, nearness = centre_disc(some[0].truth)
    assert int(disc.sum()) == int(some[0].truth.sum())
    assert bool(disc[31:33, 31:33].all())
    assert area_under_curve(nearness, disc) > 0.999  # Pixels equally far may fall on either side of the edge.
    assert iou(disc, disc) == 1.0
    assert math.isnan(area_under_curve(nearness, torch.zeros_like(disc)))


def test_an_untrained_network_has_other_weights_and_leaves_the_model_alone() -> None:
    model = load(tiny.cached("toy-t2i"), device="cpu")
    before = model.unet.conv_in.weight.clone()
    state = torch.random.get_rng_state()
    other = untrained(model)
    assert not torch.equal(other.unet.conv_in.weight, before)
    assert torch.equal(model.unet.conv_in.weight, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(untrained(model).unet.conv_in.weight, other.unet.conv_in.weight)


def test_the_whole_experiment_runs_on_the_embedded_model() -> None:
    report = measure(load("toy-t2i", device="cpu"), seed=5, count=3, split="tune", fit_steps=2)
    assert {row.variant for row in report.rows} == VARIANTS
    assert set(report.metrics) == {"miou", "auc", "seconds", "peak_mb"}
    assert all(0 <= row.metrics["miou"] <= 1 for row in report.rows)
    assert len(report.claims) == 5
    assert report.claims[-1].holds
