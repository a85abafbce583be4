"""The collisions world: sprites bounce as they should, are painted where they are, and the judge finds them and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.errors import InputError, ShapeError
from calotype.world.collisions import (
    IDENTITIES,
    BouncingScene,
    Sprite,
    judge_accuracy,
    locate_sprites,
    paint_bouncing,
    recognise_sprites,
    sample_bouncing,
    sprite_masks,
)


def centres(scene: BouncingScene) -> np.ndarray:
    return scene.paths()


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10_000), split=st.sampled_from(("train", "tune", "eval")))
def test_scenes_are_repeatable_and_begin_apart_and_inside(index, split):
    scene = sample_bouncing(split=split, seed=3, index=index)
    assert scene == sample_bouncing(split=split, seed=3, index=index)
    assert 1 <= len(scene.sprites) <= 3
    assert len({sprite.identity for sprite in scene.sprites}) == len(scene.sprites)
    radii = np.array([sprite.radius for sprite in scene.sprites])
    first = centres(scene)[0]
    assert (first >= radii[:, None]).all()
    assert (first <= 64 - radii[:, None]).all()
    for a in range(len(radii)):
        for b in range(a):
            assert np.hypot(*(first[a] - first[b])) > radii[a] + radii[b] - 1e-6


@settings(max_examples=20, deadline=None)
@given(index=st.integers(0, 10_000))
def test_sprites_stay_inside_whatever_they_hit(index):
    scene = sample_bouncing(seed=4, index=index, num_frames=40)
    radii = np.array([sprite.radius for sprite in scene.sprites])
    farthest = 7.0 * np.sqrt(len(radii)) / 4
    assert (centres(scene) >= radii[:, None] - farthest).all()
    assert (centres(scene) <= 64 - radii[:, None] + farthest).all()


def test_a_head_on_collision_hands_the_speed_over():
    mover = Sprite(identity=0, radius=8.0, x=12.0, y=32.0, speed_x=4.0)
    still = Sprite(identity=1, radius=8.0, x=32.0, y=32.0)
    paths = centres(BouncingScene(sprites=(mover, still), ground=0, num_frames=6))
    assert np.allclose(paths[-1, 0], paths[-2, 0])
    assert np.allclose(paths[-1, 1] - paths[-2, 1], (4.0, 0.0))


def test_a_wall_turns_a_sprite_around():
    paths = centres(BouncingScene(sprites=(Sprite(identity=0, radius=8.0, x=12.0, y=32.0, speed_x=-5.0),), ground=0, num_frames=4))
    assert paths[-1, 0, 0] > paths[1, 0, 0]
    assert np.allclose(paths[:, 0, 1], 32.0)


def test_masks_lie_where_the_centres_are():
    scene = sample_bouncing(split="eval", seed=1, index=3, num_frames=4)
    masks = sprite_masks(scene)
    for frame, places in enumerate(centres(scene)):
        for number, (x, y) in enumerate(places):
            rows, columns = torch.where(masks[frame, number])
            assert abs(columns.float().mean().item() - x) < 2.0
            assert abs(rows.float().mean().item() - y) < 3.0
    assert not (masks.sum(1) > 1).any()


def test_clips_are_painted_alike_alone_and_together():
    scenes = [sample_bouncing(seed=1, index=index, num_frames=2) for index in range(5)]
    assert torch.equal(paint_bouncing(scenes)[3:4], paint_bouncing(scenes[3:4]))
    with pytest.raises(InputError, match="frames were given"):
        paint_bouncing([scenes[0], dataclasses.replace(scenes[1], num_frames=3)])


@pytest.mark.parametrize("bad", [{"split": "test"}, {"seed": -1}, {"sprites": 4}, {"num_frames": 0}])
def test_impossible_scenes_are_refused(bad):
    with pytest.raises(InputError):
        sample_bouncing(**bad)


def test_the_judge_is_right_on_true_pictures_and_silent_on_others():
    figures = judge_accuracy(2, 96, split="tune")
    assert figures["found"] >= 0.97
    assert figures["invented"] <= 0.03
    assert figures["place_px"] < 1.0
    for nothing in ("grounds", "blends", "blurs"):
        assert figures[f"none_of_{nothing}"] >= 0.95


def test_the_judge_finds_nothing_in_coloured_fragments():
    fragments = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert recognise_sprites(fragments) == [[]] * 16


def test_the_best_place_of_a_sprite_is_its_own():
    scenes = [sample_bouncing(split="tune", seed=6, index=index, num_frames=1) for index in range(24)]
    found = locate_sprites(paint_bouncing(scenes)[:, 0], torch.tensor([scene.sprites[0].identity for scene in scenes]))
    truth = np.array([(scene.sprites[0].x, scene.sprites[0].y) for scene in scenes])
    assert (np.hypot(*(found.numpy() - truth).T) < 1.5).mean() > 0.95
    assert len(IDENTITIES) == 8


def test_the_judge_refuses_other_sizes():
    with pytest.raises(ShapeError, match="expected"):
        recognise_sprites(torch.zeros(1, 3, 32, 32))
