"""The recogniser reads rendered scenes, says nothing where nothing whole is, and its parts do what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from calotype.errors import MissingError, ShapeError
from calotype.world import paint, sample_scene
from calotype.world.scenes.recogniser import CHECKPOINT, Found, Recogniser, RecogniserNet, Recognition, load_recogniser, recognise
from calotype.world.scenes.recogniser_accuracy import blur, blurred_objects, clean_ground, recogniser_accuracy, right

SEED = 4


def test_it_reads_new_scenes_and_nothing_where_there_is_nothing() -> None:
    figures = recogniser_accuracy(SEED, 256, split="tune")
    assert figures["scene"] >= 0.97
    assert figures["found"] >= 0.97
    assert figures["background"] >= 0.97
    assert figures["place_px"] <= 1.5
    assert figures["none_empty"] >= 0.95
    assert figures["none_crossfade"] >= 0.95
    assert figures["none_blurred"] >= 0.95


def test_places_are_in_the_given_pictures_pixels() -> None:
    scenes = [sample_scene("small", split="tune", seed=SEED, index=i) for i in range(24)]
    for size in (48, 128):
        for scene, seen in zip(scenes, recognise(paint(scenes, size=size)), strict=True):
            for thing in scene.objects:
                same = [found for found in seen.objects if found.words == thing.words]
                if same:
                    assert abs(same[0].x - thing.x * size) < 0.06 * size
                    assert abs(same[0].y - thing.y * size) < 0.06 * size
                    assert 0.75 < same[0].radius / (thing.radius * size) < 1.33
        read = [right(scene, seen) for scene, seen in zip(scenes, recognise(paint(scenes, size=64)), strict=True)]
    assert sum(read) >= 22


def test_a_picture_is_read_the_same_alone_and_in_a_batch() -> None:
    pictures = paint([sample_scene("small", split="tune", seed=SEED, index=i) for i in range(6)])
    assert [str(one) for one in recognise(pictures)] == [str(recognise(picture[None])[0]) for picture in pictures]


def test_it_follows_objects_through_a_clip() -> None:
    scene = sample_scene("small", split="tune", seed=SEED, index=0, num_frames=8, objects=1, motion="straight", camera="still")
    wanted = scene.objects[0].words
    assert all(seen.has(*wanted) for seen in recognise(paint([scene], num_frames=8)[0]))


def test_what_a_recognition_says() -> None:
    ball = Found(category="ball", colour="red", x=1.0, y=2.0, radius=3.0, score=0.7)
    seen = Recognition(objects=(ball,), background="sand", background_score=0.9)
    assert str(seen) == "red ball on sand"
    assert seen.has("ball", "red")
    assert not seen.has("ball", "blue")
    assert seen.above(0.8).none
    assert str(seen.above(0.8)) == "none on sand"


def test_it_refuses_other_shapes_and_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"\[B, 3, H, W\]"):
        recognise(torch.zeros(3, 64, 64))
    with pytest.raises(MissingError, match="calotype train recogniser"):
        load_recogniser(tmp_path)


def test_the_shipped_files_fit_the_budget_and_the_world() -> None:
    from calotype.world import PRESETS

    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    world = PRESETS[config["preset"]]
    assert set(world.categories) <= set(config["categories"])
    assert set(world.colours) <= set(config["colours"])
    assert set(world.backgrounds) <= set(config["backgrounds"])
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 1_500_000
    assert (CHECKPOINT / "README.md").is_file()


def test_an_untrained_network_finds_nothing() -> None:
    torch.manual_seed(0)
    net = RecogniserNet(("ball",), ("red", "blue"), ("sand",), width=8).eval()
    seen = Recogniser(net, 0.5)(torch.rand(2, 3, 40, 70))
    assert [one.none for one in seen] == [True, True]
    assert seen[0].background == "sand"


def test_blur_is_gaussian_and_keeps_each_pictures_own_width() -> None:
    point = torch.zeros(2, 1, 33, 33)
    point[:, 0, 16, 16] = 1.0
    made = blur(point, torch.tensor([1.5, 3.0]))
    offsets = torch.arange(33) - 16.0
    for picture, sigma in zip(made, (1.5, 3.0), strict=True):
        across = picture[0].sum(0)
        assert abs(float((across * offsets.square()).sum() / across.sum()) ** 0.5 - sigma) < 0.05


def test_blurring_the_objects_leaves_the_ground() -> None:
    scene = sample_scene("small", split="tune", seed=SEED, index=2, objects=1)
    ground = paint([clean_ground(scene)])[0]
    assert torch.allclose(blurred_objects([scene], 0.0)[0], paint([scene])[0], atol=1e-5)
    far = (paint([scene])[0] - ground).abs().amax(0) == 0
    far &= blur((~far).float()[None, None], torch.tensor([8.0]))[0, 0] < 1e-4
    assert bool(far.any())
    assert torch.allclose(blurred_objects([scene], 0.5)[0][:, far], ground[:, far], atol=2e-3)
