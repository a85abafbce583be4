"""Descriptions: the same everywhere, within their ranges, with captions that tell the truth."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from calotype.errors import InputError
from calotype.world import FAMILIES, PRESETS, Motion, Scene, SceneObject, sample_scene
from calotype.world.painting.shapes import CATEGORIES, COLOURS, STYLES

# The embedded models were trained on these descriptions; a change here makes their training data another world.
STORED = (
    ("small", "train", 0, 0, 1, "a purple star right of a blue star on snow", 1, 7, [0.5158, 0.22287, 0.20364]),
    ("small", "train", 0, 0, 8, "a blue star left of a purple star on snow", 37, 7, [0.55789, 0.31637, 0.23327]),
    ("small", "train", 7, 12345, 8, "a yellow rocket and a blue tree on snow", 10, 5, [0.21384, 0.39262, 0.20067]),
    ("small", "tune", 0, 3, 8, "a red house on snow", 2, 7, [0.75297, 0.53308, 0.20617]),
    ("small", "eval", 1000000, 5, 8, "a purple rocket and a blue tree on grass", 7, 7, [0.39649, 0.45766, 0.23317]),
    (
        "full",
        "train",
        0,
        2,
        8,
        "a pastel picture of a yellow rocket and a cyan cup and a yellow car at sea",
        36,
        10,
        [0.62952, 0.38811, 0.20175],
    ),
    ("full", "eval", 1000000, 9, 1, "a green ball and an orange bird on snow", 1, 7, [0.74647, 0.39822, 0.19941]),
    ("full", "tune", 3, 1, 25, "a pink star and a purple star and a cyan rocket at sea", 6, 14, [0.30213, 0.41547, 0.17817]),
)


def many(preset: str, count: int = 300, **options: object) -> list[Scene]:
    return [sample_scene(preset, split="tune", seed=5, index=index, **options) for index in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("preset", "split", "seed", "index", "frames", "caption", "bucket", "fps", "place"), STORED)
def test_descriptions_are_the_stored_ones(
    preset: str, split: str, seed: int, index: int, frames: int, caption: str, bucket: int, fps: int, place: list[float]
) -> None:
    scene = sample_scene(preset, split=split, seed=seed, index=index, num_frames=frames)
    assert (scene.caption, scene.motion_bucket_id, scene.fps) == (caption, bucket, fps)
    assert [scene.objects[0].x, scene.objects[0].y, scene.objects[0].radius] == place


@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset: str) -> None:
    for scene in many(preset, 20, num_frames=5):
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_splits_seeds_and_indices_give_different_scenes() -> None:
    keys = [(split, seed, index) for split in ("train", "tune", "eval") for seed in (0, 1) for index in range(5)]
    scenes = {sample_scene("small", split=split, seed=seed, index=index).objects for split, seed, index in keys}
    assert len(scenes) == len(keys)


@pytest.mark.parametrize("preset", PRESETS)
def test_words_are_the_captions_words(preset: str) -> None:
    for scene in many(preset):
        words = scene.caption.split()
        assert len(words) <= 22
        assert len(scene.words) == len(scene.word_positions) == len(scene.objects)
        for (category, colour), (category_at, colour_at), thing in zip(scene.words, scene.word_positions, scene.objects, strict=True):
            assert (thing.category, thing.colour) == (category, colour) == (words[category_at], words[colour_at])
            assert words[colour_at - 1] == ("an" if colour[0] in "aeiou" else "a")
        assert words[-1] == scene.background.name
        assert len(set(scene.words)) == len(scene.words)


def test_left_and_right_are_true() -> None:
    seen = Counter(scene.relation for scene in many("small"))
    assert min(seen["left of"], seen["right of"]) >= 5
    assert seen["and"] > 200
    for scene in many("small"):
        if scene.relation != "and":
            gap = scene.objects[scene.mentions[0]].x - scene.objects[scene.mentions[1]].x
            assert abs(gap) * 64 > 16
            assert (gap < 0) == (scene.relation == "left of")


def test_small_preset_is_what_the_models_were_promised() -> None:
    scenes = many("small", 1000)
    assert 0.36 < sum(len(scene.objects) == 2 for scene in scenes) / 1000 < 0.44
    assert {scene.style for scene in scenes} == {"flat"}
    assert len({scene.background.name for scene in scenes}) == 4
    things = [thing for scene in scenes for thing in scene.objects]
    assert len({thing.category for thing in things}) == len({thing.colour for thing in things}) == 6
    assert all(12.0 <= thing.radius * 64 <= 20.0 for thing in things)
    assert [name for name in PRESETS["small"].categories if CATEGORIES[name].directed] == ["rocket"]


def test_full_preset_is_rich() -> None:
    full = PRESETS["full"]
    assert len(full.categories) >= 10
    assert len(full.colours) >= 8
    assert len(full.backgrounds) >= 5
    scenes = many("full", 400)
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert all(category.parts for category in CATEGORIES.values())
    assert {thing.category for scene in scenes for thing in scene.objects} == set(CATEGORIES)
    assert {thing.colour for scene in scenes for thing in scene.objects} == set(COLOURS)


@pytest.mark.parametrize("family", FAMILIES)
def test_forced_motion(family: str) -> None:
    for scene in many("small", 40, num_frames=8, motion=family, objects=1, camera="still"):
        (thing,) = scene.objects
        assert thing.motion.family == family
        assert CATEGORIES[thing.category].directed == (family == "directed")
        assert not scene.camera.moves


@pytest.mark.parametrize("family", ["straight", "arc", "bounce", "directed"])
def test_moving_objects_stay_mostly_inside_and_move_at_the_promised_speed(family: str) -> None:
    u = np.linspace(0.0, 1.0, 8)
    speeds = []
    for scene in many("small", 150, num_frames=8, motion=family, objects=1):
        x, y, radius, _ = scene.objects[0].placement(scene.camera, u)
        assert (np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) + 0.7 * radius).max() < 0.52
        if not scene.camera.moves:
            speeds.append(float(np.hypot(np.diff(x), np.diff(y)).mean() * 64))
            if family != "directed":  # a directed object's turning moves its points too
                assert scene.motion_bucket_id == max(1, round(12 * speeds[-1]))
    assert 0.2 < min(speeds) < 1.0
    assert 3.0 < max(speeds) < 5.5


def test_directed_objects_point_where_they_go() -> None:
    u = np.linspace(0.0, 1.0, 101)
    for scene in many("full", 60, num_frames=8, motion="directed", objects=1):
        (thing,) = scene.objects
        dx, dy = thing.motion.offset(u)
        angle = thing.angle + thing.motion.turned((u[1:] + u[:-1]) / 2)
        nose = -1.0 if thing.flip else 1.0
        along = nose * (np.cos(angle) * np.diff(dx) + np.sin(angle) * np.diff(dy)) / np.hypot(np.diff(dx), np.diff(dy))
        assert along.min() > 0.999
        if CATEGORIES[thing.category].level:
            assert np.cos(angle).min() > 0.9


def test_turning_counts_as_motion() -> None:
    turn = SceneObject(category="star", colour="red", x=0.5, y=0.5, radius=0.25, motion=Motion(family="turning", turn=math.pi / 2))
    scene = sample_scene("small", seed=0, index=0, num_frames=10, objects=0, camera="still")
    scene = Scene(objects=(turn,), background=scene.background, num_frames=10, mentions=(0,))
    # Four of the five points swing at 0.7 of 16 px by 10 degrees a frame.
    assert scene.motion_bucket_id == round(12 * 0.8 * 2 * 11.2 * math.sin(math.radians(5)))


def test_still_scene_has_the_least_bucket_and_empty_scene_a_caption() -> None:
    assert sample_scene("small", seed=1, index=1, num_frames=8, motion="still", camera="still").motion_bucket_id == 1
    empty = sample_scene("small", seed=1, index=1, objects=0)
    assert empty.objects == ()
    assert empty.caption.startswith("nothing ")


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "tiny"},
        {"split": "test"},
        {"seed": -1},
        {"num_frames": 0},
        {"objects": 9},
        {"motion": "zigzag"},
        {"camera": "roll"},
    ],
)
def test_refusals_are_one_line(options: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        sample_scene(**{"preset": "small", **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(next(iter(options.values()))) in str(caught.value)
