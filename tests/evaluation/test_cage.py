"""CAGE's evaluation: what is asked can be done, its metrics tell right from wrong, and its claims can fail."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from calotype.backbones.composable_video import ComposableVideo
from calotype.backbones.control_features import ControlEncoder
from calotype.backbones.control_video_network import ControlledVideoTransformer
from calotype.backbones.loading import load
from calotype.core.events import SILENT
from calotype.evaluation import cage as proof
from calotype.evaluation.cage import ComposedScenes, OneTime, claims, controls_of, enlarged, turned, without, wrong_objects
from calotype.evaluation.cage_cases import APART, FRAMES, Asked, animations, collisions, compositions
from calotype.methods.cage import CAGE
from calotype.world.collisions import BouncingScene, paint_bouncing

GRID = (8, 8)
METHOD = dataclasses.replace(CAGE.toy(), num_inference_steps=2)


@functools.cache
def tiny() -> ComposableVideo:
    vae = load("toy-vae-wide", device="cpu", dtype="float32")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = {
            "vae": vae.latent_space.vae, "transformer": ControlledVideoTransformer(width=16, depth=1, heads=2).eval(),
            "control_encoder": ControlEncoder().eval(),
        }  # fmt: skip
    facts = {"size": [64, 64], "targets": FRAMES, "stride": 1, "feature_layers": 1}
    return ComposableVideo(vae.source, modules, device=torch.device("cpu"), facts=facts)


def table() -> ComposedScenes:
    return ComposedScenes(tiny(), METHOD, 0, SILENT)


def done(case: Asked) -> torch.Tensor:
    """The picture that was asked for, as the world paints it."""
    moved = {}
    for placed in case.placed:
        x, y = placed.goal(GRID)
        moved[id(placed.source.sprite)] = dataclasses.replace(placed.source.sprite, x=x, y=y)
    if case.scene is None:
        sprites, ground = tuple(moved.values()), 0
    else:
        sprites, ground = tuple(moved.get(id(sprite), sprite) for sprite in case.scene.sprites), case.scene.ground
    return paint_bouncing([BouncingScene(sprites=sprites, ground=ground, num_frames=1)])[0, 0]


def test_cases_depend_on_split_and_seed_alone_and_can_be_done() -> None:
    cases = animations("tune", 3, 12, GRID)
    assert [case.placed[0].path for case in cases] == [case.placed[0].path for case in animations("tune", 3, 12, GRID)]
    assert [case.scene for case in cases] != [case.scene for case in animations("eval", 3, 12, GRID)]
    for case in cases:
        placed = case.placed[0]
        goal, sprite = placed.goal(GRID), placed.source.sprite
        assert 15 < math.dist(goal, (sprite.x, sprite.y)) < 19
        assert all(sprite.radius <= value <= 64 - sprite.radius for value in goal)
        assert sorted(placed.path) == [1, 2, 3]


def test_compositions_ask_for_one_to_three_sprites_that_stand_apart() -> None:
    cases = compositions("tune", 3, 9, GRID)
    assert [len(case.placed) for case in cases] == [1, 2, 3] * 3
    for case in cases:
        goals = [placed.goal(GRID) for placed in case.placed]
        assert all(math.dist(a, b) > APART for number, a in enumerate(goals) for b in goals[:number])
        assert len({placed.source.scene for placed in case.placed}) == len({placed.source.sprite.identity for placed in case.placed})
    for case in compositions("tune", 3, 4, GRID, most=1, far=True):
        sprite = case.placed[0].source.sprite
        assert math.dist(case.placed[0].goal(GRID), (sprite.x, sprite.y)) >= 32


def test_both_halves_of_a_collision_share_their_scene() -> None:
    hits, misses = (collisions("tune", 3, 10, GRID, hit=hit) for hit in (True, False))
    for hit, miss in zip(hits, misses, strict=True):
        assert hit.scene == miss.scene
        assert hit.scene is not None
        first, second = hit.scene.sprites
        near, far = (math.dist(case.placed[0].goal(GRID), (second.x, second.y)) for case in (hit, miss))
        assert near < first.radius + second.radius < far


def test_true_results_count_as_right_and_first_frames_as_wrong() -> None:
    rows, moves, parts = table(), animations("tune", 4, 16, GRID), compositions("tune", 4, 15, GRID)
    rows.animated("done", "ceiling", moves, torch.stack([done(case) for case in moves]))
    rows.animated("still", "baseline", moves, torch.stack([case.placed[0].source.picture for case in moves]))
    rows.composed("done@compose", "ceiling", parts, torch.stack([done(case) for case in parts]))
    assert rows.mean("done", "hit").value > 0.95
    assert rows.mean("done", "stayed").value == 0
    assert rows.mean("still", "hit").value == 0
    assert rows.mean("still", "stayed").value > 0.95
    assert rows.mean("done@compose", "found").value > 0.95
    assert rows.mean("done@compose", "count_error").value < 0.1


def test_a_sprite_that_is_pushed_counts_as_moved() -> None:
    rows, cases = table(), collisions("tune", 4, 12, GRID, hit=True)
    pushed = []
    for case in cases:
        assert case.scene is not None
        first, second = case.scene.sprites
        line = np.array([second.x - first.x, second.y - first.y]) / math.dist((first.x, first.y), (second.x, second.y))
        after = dataclasses.replace(second, x=second.x + 8 * line[0], y=second.y + 8 * line[1])
        pushed.append(paint_bouncing([dataclasses.replace(case.scene, sprites=(first, after))])[0, 0])
    rows.collided("pushed", "ceiling", cases, torch.stack(pushed))
    rows.collided("still", "ceiling", cases, torch.stack([case.placed[0].source.picture for case in cases]))
    rows.collided("empty", "ceiling", cases, torch.zeros(len(cases), 3, 64, 64))
    assert rows.mean("pushed", "moved").value > 0.95
    assert rows.mean("still", "moved_or_lost").value < 0.05
    assert (rows.mean("empty", "moved").value, rows.mean("empty", "moved_or_lost").value) == (0, 1)


def test_ablations_take_the_control_away_and_nothing_else() -> None:
    cases = animations("tune", 5, 6, GRID)
    controls = controls_of(METHOD, tiny(), cases)
    assert all(controls.given.flatten(1).sum(1) > 0)
    assert not without(controls).given.any()
    assert torch.equal(turned(controls).features[1], controls.features[0])
    for case, wrong in zip(cases, wrong_objects(cases), strict=True):
        assert case.scene is not None
        assert wrong.placed[0].path == case.placed[0].path
        assert wrong.placed[0].source.sprite.identity not in {sprite.identity for sprite in case.scene.sprites}
    single = compositions("tune", 5, 2, GRID, most=1, far=True)
    plain, large = controls_of(METHOD, tiny(), single), enlarged(single, tiny())
    assert torch.equal(plain.given, large.given)
    assert not torch.allclose(plain.features, large.features)


def test_one_time_is_the_mean_and_only_for_frames_that_are_made() -> None:
    model = tiny()
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    x, offsets = torch.randn(1, 4, 4, 16, 16, generator=torch.Generator().manual_seed(2)), torch.arange(4)[None]
    features, given = torch.zeros(1, 3, 48, 8, 8), torch.zeros(1, 3, 8, 8)
    staggered, mean = torch.tensor([[0.0, 0.2, 0.5, 0.8]]), torch.tensor([[0.0, 0.5, 0.5, 0.5]])
    one = OneTime.of(model).velocity(x, offsets, staggered, features, given)
    assert torch.allclose(one, model.velocity(x, offsets, mean, features, given), atol=1e-6)
    assert not torch.allclose(one, model.velocity(x, offsets, staggered, features, given))


def test_claims_hold_for_good_numbers_and_fail_for_an_untrained_model() -> None:
    good = table()
    for variant, value in (("method", 1.0), ("no-control", 0.0), ("wrong-object", 0.0), ("permuted", 0.0)):
        good.add(variant, "method", [{"hit": value}] * 48)
    good.add("method@compose", "method", [{"found": 1.0}] * 48)
    for variant, value in (("method@rollout", 1.0), ("one-time@rollout", 0.0)):
        good.add(variant, "method", [{"hit": value}] * 48)
    for variant, value in (("method@collision", 1.0), ("method@no-collision", 0.0)):
        good.add(variant, "method", [{"moved": value, "moved_or_lost": value}] * 48)
    assert all(claim.holds for claim in claims(good))
    bad = table()
    proof.move(bad, "tune", 2)
    proof.compose(bad, "tune", 2)
    proof.collide(bad, "tune", 2)
    assert not all(claim.holds for claim in claims(bad))


def test_a_quick_look_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof.CAGEEvaluation, "load", lambda self, device: tiny())
    monkeypatch.setattr(CAGE, "toy", classmethod(lambda cls: METHOD))
    report = proof.CAGEEvaluation()(seed=1, count=1, quick=True)
    assert not report.claims
    assert {"method", "method@compose", "method@collision", "judge", "one-time@rollout"} <= {row.variant for row in report.rows}
    assert any("too few" in note for note in report.notes)


def test_a_model_that_was_trained_without_crops_stands_beside_and_its_claims_can_fail() -> None:
    made = table()
    proof.compose(made, "tune", 3)
    found = proof.crops(made, tiny(), "tune", 3)
    rows = {row.variant: row for row in made.rows}
    assert set(rows) >= {"whole-frames", "whole-frames@compose", "whole-frames@far", "whole-frames@enlarged"}
    assert rows["whole-frames@far"].role == "ablation"
    assert rows["whole-frames@far"].metrics["found"] == rows["method@far"].metrics["found"]
    assert len(found) == 2
    assert not any(claim.holds and claim.value > 0 for claim in found)
