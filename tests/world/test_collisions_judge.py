"""The judge of the collisions world: it finds true sprites, and nothing where there is none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from calotype.errors import InputError, ShapeError
from calotype.world.collisions import judge_accuracy, locate_sprites, paint_bouncing, recognise_sprites, sample_bouncing


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


def test_the_judge_refuses_other_sizes():
    with pytest.raises(ShapeError, match="expected"):
        recognise_sprites(torch.zeros(1, 3, 32, 32))
