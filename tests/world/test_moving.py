"""The moving world: captions tell the motion, the painter shows it, and the judge reads it back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.errors import InputError, ShapeError
from calotype.world import ground_truth, paint, without
from calotype.world.moving import DIRECTIONS, SPEEDS, VARIANTS, MovingScene, judge_accuracy, judge_clips, redirected, sample_moving


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10_000), variant=st.sampled_from(VARIANTS), split=st.sampled_from(("train", "tune", "eval")))
def test_paths_stay_inside_and_captions_tell_them(index, variant, split):
    scene = sample_moving(split=split, seed=3, index=index, variant=variant)
    assert scene == sample_moving(split=split, seed=3, index=index, variant=variant)
    words = scene.caption.split()
    for thing, direction in zip(scene.objects, scene.directions, strict=True):
        assert {thing.category, thing.colour, scene.background.name, "moving", *direction.split("-")} <= set(words)
        way = np.sum([DIRECTIONS[word] for word in direction.split("-")], axis=0)
        moved = np.array([thing.motion.dx, thing.motion.dy])
        assert np.allclose(np.sign(np.round(moved, 4)), way)
        assert np.isclose(64.0 * np.hypot(*moved), SPEEDS, atol=1e-2).any()
        x, y, radius, _ = thing.placement(scene.camera, np.linspace(0.0, 1.0, 5))
        assert (np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) >= 0.85 * radius).all()
    if variant == "crossing":
        first, second = scene.objects
        assert first.motion.dx == -second.motion.dx
        assert first.motion.dy == -second.motion.dy
        assert first.words != second.words
        assert abs(first.y - second.y) < 1e-4 if first.motion.dx else abs(first.x - second.x) < 1e-4


def test_a_scene_survives_json_and_the_splits_differ():
    scene = sample_moving(seed=1, index=2, variant="crossing")
    assert MovingScene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
    assert len({sample_moving(split=split, seed=1, index=2).objects for split in ("train", "tune", "eval")}) == 3


def test_the_four_directions_are_equally_likely():
    found = [sample_moving(seed=5, index=index).direction for index in range(400)]
    assert all(70 <= found.count(direction) <= 130 for direction in DIRECTIONS)


def test_masks_move_the_way_the_caption_says():
    scene = sample_moving(split="eval", seed=1, index=0)
    truth = ground_truth(scene, 64)
    y, x = (values.float().mean() for values in torch.where(truth.masks[-1, 0]))
    y0, x0 = (values.float().mean() for values in torch.where(truth.masks[0, 0]))
    assert (x - x0).item() == pytest.approx(64 * scene.objects[0].motion.dx, abs=1.0)
    assert (y - y0).item() == pytest.approx(64 * scene.objects[0].motion.dy, abs=1.0)


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10_000), direction=st.sampled_from(sorted(DIRECTIONS)))
def test_redirected_keeps_all_but_the_way(index, direction):
    scene = sample_moving(split="eval", seed=2, index=index)
    other = redirected(scene, direction)
    assert other.direction == direction
    assert other.background == scene.background
    assert other.words == scene.words
    assert np.hypot(other.objects[0].motion.dx, other.objects[0].motion.dy) == pytest.approx(
        np.hypot(scene.objects[0].motion.dx, scene.objects[0].motion.dy), abs=1e-4
    )
    same = redirected(scene, scene.direction).objects[0]
    assert (same.x, same.y, same.angle) == pytest.approx((scene.objects[0].x, scene.objects[0].y, scene.objects[0].angle), abs=1e-4)


def test_the_judge_reads_true_clips_and_no_others():
    figures = judge_accuracy(7, 24, split="tune")
    assert figures["words"] >= 0.95
    assert figures["direction"] >= 0.95
    assert figures["place_px"] < 1.0
    scenes = [sample_moving(split="tune", seed=7, index=index) for index in range(8)]
    clips = paint(scenes, num_frames=8)
    backwards = judge_clips(clips.flip(1))
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    assert [seen.direction for seen in backwards] == [opposite[scene.direction] for scene in scenes]
    assert all(seen.direction is None for seen in judge_clips(clips[:, :1].expand(-1, 8, -1, -1, -1)))
    grounds = [without(scene, 0) for scene in scenes]
    assert all(seen.words is None and seen.direction is None for seen in judge_clips(paint(grounds, num_frames=8)))


def test_bad_input_is_refused():
    for bad in ({"split": "all"}, {"variant": "spiral"}, {"num_frames": 1}, {"index": -1}):
        with pytest.raises(InputError):
            sample_moving(**bad)
    with pytest.raises(ShapeError):
        judge_clips(torch.zeros(2, 3, 64, 64))
