"""The collisions world: physics that keeps energy and momentum, sprites that stay in the picture, and clips that show them."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.world.collisions import SIDE, BouncingScene, Sprite, paint_bouncing, sample_bouncing, sprite_masks


@given(st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_sprites_stay_in_the_picture_and_begin_apart(index: int) -> None:
    scene = sample_bouncing(split="tune", seed=2, index=index, num_frames=20)
    paths = scene.paths()
    assert paths.shape == (20, len(scene.sprites), 2)
    for number, sprite in enumerate(scene.sprites):
        fastest = math.hypot(sprite.speed_x, sprite.speed_y) + 8
        assert (paths[:, number] > sprite.radius - fastest).all()
        assert (paths[:, number] < SIDE - sprite.radius + fastest).all()
        for other in scene.sprites[:number]:
            assert math.hypot(sprite.x - other.x, sprite.y - other.y) > sprite.radius + other.radius
    assert len({sprite.identity for sprite in scene.sprites}) == len(scene.sprites)


def test_a_head_on_collision_exchanges_speeds() -> None:
    left = Sprite(identity=0, radius=8.0, x=12.0, y=32.0, speed_x=4.0)
    right = Sprite(identity=1, radius=8.0, x=36.0, y=32.0)
    paths = BouncingScene(sprites=(left, right), ground=0, num_frames=8).paths()
    steps = np.diff(paths[:, :, 0], axis=0)
    assert steps[0].tolist() == [4.0, 0.0]
    assert steps[-1].tolist() == [0.0, 4.0]
    np.testing.assert_allclose(steps.sum(1), 4.0)


def test_a_wall_turns_a_sprite_round() -> None:
    paths = BouncingScene(sprites=(Sprite(identity=0, radius=8.0, x=50.0, y=32.0, speed_x=4.0),), ground=0, num_frames=6).paths()
    steps = np.diff(paths[:, 0, 0])
    assert steps[0] == 4.0
    assert steps[-1] == -4.0
    assert (paths[:, 0, 1] == 32.0).all()


def test_the_same_seed_is_the_same_scene_and_splits_differ() -> None:
    assert sample_bouncing(split="eval", seed=1, index=3) == sample_bouncing(split="eval", seed=1, index=3)
    assert sample_bouncing(split="eval", seed=1, index=3) != sample_bouncing(split="tune", seed=1, index=3)


def test_pictures_show_sprites_where_they_are() -> None:
    scene = sample_bouncing(split="tune", seed=1, index=4, num_frames=3, sprites=2)
    shown = paint_bouncing([scene])[0]
    assert shown.shape == (3, 3, 64, 64)
    masks = sprite_masks(scene)
    paths = scene.paths()
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for frame in range(3):
        for number in range(2):
            mask = masks[frame, number].float()
            centre = (columns * mask).sum() / mask.sum(), (rows * mask).sum() / mask.sum()
            assert math.hypot(float(centre[0]) - paths[frame, number, 0], float(centre[1]) - paths[frame, number, 1]) < 3.0
