"""The proof's own soundness: its pairs, its perfect model, and whether its numbers tell good clips from bad ones."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from calotype.core.events import SILENT
from calotype.core.timetravel import Reinject
from calotype.evaluation.baselines import cross_fade, cut, image_to_video
from calotype.evaluation.pairs import FRAMES, LEAST_DISTANCE, Pair, at_end, bank_of, directed_twin, distance, symmetric_pairs
from calotype.evaluation.time_reversal_fusion import PairExperiment, claims, exact_model, exact_rows, measure, notes
from calotype.methods.time_reversal_fusion import TimeReversalFusion
from calotype.metrics import psnr
from calotype.world.scenes.exact import ExactImageToVideo

QUICK = TimeReversalFusion(num_inference_steps=6, max_guidance_scale=1.0, reinject=Reinject(repeats=0))


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return symmetric_pairs("small", "tune", 77, 8)


def test_pairs_are_fixed_by_seed_and_far_enough_apart(pairs: list[Pair]) -> None:
    assert [pair.scene for pair in symmetric_pairs("small", "tune", 77, 8)] == [pair.scene for pair in pairs]
    assert [pair.family for pair in pairs] == ["straight"] * 4 + ["arc", "bounce"] * 2
    assert [pair.index for pair in pairs] == list(range(8))
    assert len({pair.scene.index for pair in pairs}) == 8
    assert all(distance(pair.scene.objects[0]) >= LEAST_DISTANCE for pair in pairs)
    assert {pair.scene.split for pair in pairs} == {"tune"}


def test_the_truth_is_perfect_and_the_cheap_answers_are_not(pairs: list[Pair]) -> None:
    for pair in pairs:
        truth = pair.measure(pair.clip)
        assert truth["mid_centroid_error_px"] == 0
        assert truth["ghost_share"] == 0
        assert truth["jump_ratio"] < 2
        assert truth["end_psnr_db"] == 99
        assert math.isnan(truth["monotonicity"]) == (pair.family != "straight")
    fades = [pair.measure(cross_fade(pair.start, pair.end, FRAMES)) for pair in pairs]
    assert np.mean([fade["ghost_share"] for fade in fades]) > 0.5
    cuts = [pair.measure(cut(pair.start, pair.end, FRAMES)) for pair in pairs]
    assert min(found["jump_ratio"] for found in cuts) == pytest.approx(FRAMES - 1)
    assert min(found["mid_centroid_error_px"] for found in cuts) > 2


def test_a_ping_pong_lowers_monotonicity(pairs: list[Pair]) -> None:
    pair = pairs[0]
    there_and_back = torch.cat([pair.clip[::2], pair.clip[::2].flip(0)])
    assert pair.measure(there_and_back)["monotonicity"] <= 4 / 7
    assert pair.measure(pair.clip)["monotonicity"] == 1


def test_the_directed_twin_goes_the_same_way_nose_first(pairs: list[Pair]) -> None:
    twin = directed_twin(pairs[0], "rocket")
    ours, theirs = twin.truth.centroids, pairs[0].truth.centroids
    step = (theirs[-1] - theirs[0]) / np.linalg.norm(theirs[-1] - theirs[0])
    assert np.allclose(ours[-1] - ours[0], theirs[-1] - theirs[0], atol=2.0)
    # Its nose, the end of its long axis, lies ahead: the picture's mass is stretched along the path.
    covered = (twin.clip[0] - twin.background[0]).abs().sum(0) > 0.1
    y, x = torch.nonzero(covered, as_tuple=True)
    spread = np.cov(np.stack([x.numpy(), y.numpy()]))
    assert step @ spread @ step > np.trace(spread) / 2
    assert twin.family == "directed"


def test_every_clip_of_a_bank_starts_with_its_picture(pairs: list[Pair]) -> None:
    pair = dataclasses.replace(pairs[2], size=32)
    thing = pair.scene.objects[0]
    for standing, picture in ((thing, pair.clip[0]), (at_end(thing), pair.clip[-1])):
        samples = (bank_of(pair, standing, 24, seed=0).samples + 1) / 2
        assert torch.allclose(samples[:, 0], picture.expand(24, -1, -1, -1), atol=1e-4)
        assert (samples[:, -1] - samples[:, 0]).abs().amax(dim=(1, 2, 3)).gt(0.1).float().mean() > 0.8


def test_a_directed_bank_leaves_in_the_direction_of_the_nose(pairs: list[Pair]) -> None:
    twin = dataclasses.replace(directed_twin(pairs[0], "rocket"), size=32)
    direction = twin.truth.centroids[-1] - twin.truth.centroids[0]
    for sample in (bank_of(twin, twin.scene.objects[0], 12, seed=0).samples + 1) / 2:
        moved = twin.follow(sample).steps()
        assert moved[0] @ direction > 0


def test_replacing_the_last_frame_changes_nothing_else_of_the_baseline(pairs: list[Pair]) -> None:
    pair = dataclasses.replace(pairs[0], size=32)
    model = exact_model(pair, bank=24)
    (free,) = image_to_video(model, QUICK, [pair.start], seed=1)
    (forced,) = image_to_video(model, QUICK, [pair.start], [pair.end], seed=1)
    assert psnr(forced.frames[-1], pair.clip[-1]) > 40
    assert psnr(free.frames[-1], pair.clip[-1]) < 40
    assert psnr(free.frames[0], pair.clip[0]) > 40


def test_the_exact_rows_see_the_same_scenes_and_cost_what_they_should(pairs: list[Pair]) -> None:
    test = PairExperiment(77, SILENT)
    exact_rows(test, QUICK, pairs[3:5], "rocket", bank=64)
    found = {row.variant: row for row in test.rows}
    assert {row.n for name, row in found.items() if "directed" not in name} == {2}
    assert found["method@exact"].metrics["model_calls"] == 12
    assert found["image-to-video@exact"].metrics["model_calls"] == 6
    assert found["sequential@exact"].metrics["model_calls"] == 12
    assert found["crossfade@exact"].metrics["model_calls"] == 0
    gain = claims(test, exact=True)[0]
    assert gain.holds
    assert gain.value > 20
    assert "exact" in notes(test)[0]


def test_the_whole_experiment_runs_on_any_image_to_video_model(pairs: list[Pair]) -> None:
    twin = directed_twin(pairs[0], "rocket")
    model = ExactImageToVideo([*exact_model(pairs[0], bank=24).banks, *exact_model(twin, bank=24).banks])
    report = measure(model, seed=77, count=1, exact=False, split="tune", settings=QUICK)
    bare = {"method", "image-to-video", "crossfade", "cut", "replace-last", "no-reinjection", "sequential"}
    assert bare <= {row.variant for row in report.rows}
    assert len(report.claims) == 8
    assert report.row("frozen@loop").metrics["motion_px"] == 0
