"""Creatures: the same descriptions everywhere, identities that no two splits share, ground truth, and an untrained recogniser."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
import torch

from calotype.errors import InputError, ShapeError
from calotype.world import ground_truth, paint, sample_scene
from calotype.world.creatures.drawing import (
    GROUNDS,
    HELD_OUT,
    PARTS,
    PLAIN,
    POSES,
    CreatureScene,
    looks,
    looks_of,
    on_plain_ground,
    sample_creature,
)
from calotype.world.creatures.recogniser import colour_distance, identity_distance, recognise_creatures

# toy-subject was trained on these descriptions; a change here makes its training data another world.
STORED = (
    ("train", 0, 0, "a creature lying on sand", ("orange", "blue", "green", "plain", "square"), (0.63782, 0.46491, 0.34951)),
    ("tune", 3, 7, "a creature upright on grass", ("yellow", "blue", "purple", "spotted", "square"), (0.52172, 0.33884, 0.33361)),
    ("eval", 1_000_000, 2, "a creature upright on grass", ("yellow", "orange", "green", "striped", "round"), (0.49807, 0.4241, 0.38349)),
)


@pytest.mark.parametrize(("split", "seed", "index", "caption", "look", "place"), STORED)
def test_descriptions_are_the_stored_ones(
    split: str, seed: int, index: int, caption: str, look: tuple[str, ...], place: tuple[float, ...]
) -> None:
    scene = sample_creature(split=split, seed=seed, index=index)
    creature = scene.creature
    assert scene.caption == caption
    assert dataclasses.astuple(creature.look) == look
    assert (creature.x, creature.y, creature.radius) == place


def test_identities_are_disjoint_and_many() -> None:
    parts = [set(looks_of(split)) for split in ("train", "tune", "eval")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert len(parts[0]) >= 500
    assert len(parts[1]) == len(parts[2]) == HELD_OUT
    assert all(len({look.limbs, look.body, look.head}) == 3 for look in looks())


def test_descriptions_survive_json_and_are_independent_of_order() -> None:
    for index in (0, 9):
        scene = sample_creature(split="tune", seed=4, index=index)
        assert CreatureScene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
        assert sample_creature(split="tune", seed=4, index=index) == scene
    assert sample_creature(index=1) != sample_creature(index=2) != sample_creature(split="eval", index=2)


def test_captions_tell_pose_and_ground_and_never_the_look() -> None:
    for index in range(40):
        scene = sample_creature(seed=2, index=index)
        words = scene.caption.split()
        assert scene.creature.pose in scene.caption
        assert words[-1] == scene.background.name
        assert words[-1] in GROUNDS
        assert not {scene.creature.look.body, scene.creature.look.head, scene.creature.look.limbs} & set(words)
        assert words[scene.word_positions[0][0]] == "creature"


def test_a_forced_pose_leaves_the_rest_alone() -> None:
    free = sample_creature(index=3)
    forced = sample_creature(index=3, pose="curled")
    assert forced.creature.pose == "curled"
    assert forced.creature.look == free.creature.look
    assert (forced.creature.x, forced.creature.radius, forced.background) == (free.creature.x, free.creature.radius, free.background)
    with pytest.raises(InputError, match="no pose"):
        sample_creature(pose="flying")
    with pytest.raises(InputError, match="no split"):
        sample_creature(split="test")


def test_the_subject_picture_is_the_same_painting_on_a_plain_ground() -> None:
    scene = sample_creature(index=6)
    picture, subject = paint([scene, on_plain_ground(scene)])
    truth = ground_truth(scene)
    mask = truth.layers[0, 0, 3] >= 0.999
    assert torch.allclose(picture[:, mask], subject[:, mask], atol=1e-3)
    assert torch.allclose(subject[:, truth.layers[0, 0, 3] == 0], torch.tensor(PLAIN)[:, None].expand(-1, 1), atol=1e-3)


def test_parts_have_the_looks_colours() -> None:
    for pose in POSES:
        scene = sample_creature(index=8, pose=pose)
        truth = ground_truth(scene)
        assert truth.part_names == (PARTS,)
        assert set(truth.parts.unique().tolist()) == {0, 1, 2, 3}
        for number, colour in enumerate(scene.creature.look.colours, start=1):
            inside = truth.frames[0][:, truth.parts[0, 0] == number]
            assert float((inside - torch.tensor(colour)[:, None]).abs().amax(0).quantile(0.25)) < 0.02


def test_left_is_right_mirrored() -> None:
    scene = on_plain_ground(sample_creature(index=4))
    middle = dataclasses.replace(scene.creature, x=0.5, y=0.5, angle=0.0, pose="facing right", flip=False)
    other = dataclasses.replace(middle, pose="facing left", flip=True)
    right, left = paint([dataclasses.replace(scene, objects=(thing,)) for thing in (middle, other)])
    assert torch.allclose(right.flip(-1), left, atol=1e-5)


def test_a_creature_costs_about_as_much_to_paint_as_other_scenes() -> None:
    """How fast that is depends on the processor: see `make bench`."""
    creatures = [sample_creature(seed=5, index=index) for index in range(96)]
    others = [sample_scene("small", split="tune", seed=5, index=index) for index in range(96)]

    def cost(scenes: list[Any]) -> float:
        began = time.process_time()
        paint(scenes)
        return time.process_time() - began

    first, second = (min(cost(scenes) for _ in range(4)) for scenes in (creatures, others))
    assert first < 4 * second


def test_the_recogniser_names_everything_on_renders() -> None:
    scenes = [sample_creature(split="tune", seed=21, index=index) for index in range(18)]
    seen = recognise_creatures(paint(scenes))
    assert all(one.background == scene.background.name for one, scene in zip(seen, scenes, strict=True))
    found = [(one.creature, scene.creature) for one, scene in zip(seen, scenes, strict=True) if one.creature]
    assert len(found) == len(scenes)
    assert all(one.pose == truth.pose for one, truth in found)
    assert sum(one.look == truth.look for one, truth in found) >= 0.75 * len(found)
    assert max(identity_distance(one, truth.look) for one, truth in found) < 2.0
    others = [scene.creature.look for scene in (*scenes[1:], scenes[0])]
    assert min(identity_distance(one, look) for (one, truth), look in zip(found, others, strict=True) if look != truth.look) > 10.0


def test_the_recogniser_says_nothing_where_nothing_is() -> None:
    scenes = [sample_creature(split="tune", seed=22, index=index) for index in range(12)]
    empty = paint([dataclasses.replace(scene, objects=(), mentions=()) for scene in scenes])
    assert all(one.creature is None for one in recognise_creatures(empty))
    small = torch.nn.functional.avg_pool2d(paint(scenes), 16)
    blurred = torch.nn.functional.interpolate(small, size=64, mode="bilinear")
    assert sum(one.creature is None for one in recognise_creatures(blurred)) == len(scenes)
    with pytest.raises(ShapeError):
        recognise_creatures(torch.zeros(1, 3, 32, 32))


def test_colour_distance_is_cies() -> None:
    assert colour_distance((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)) == pytest.approx(100.0, abs=0.01)
    assert colour_distance((0.2, 0.4, 0.6), (0.2, 0.4, 0.6)) == 0.0
