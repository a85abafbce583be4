"""Pixels: the same in any batch, at any size, fast, and of the shapes that the descriptions say."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest
import torch

from calotype.errors import InputError
from calotype.world import PRESETS, Scene, SceneObject, paint, sample_scene
from calotype.world.painting.backgrounds import Background
from calotype.world.painting.shapes import CATEGORIES

BYTE = 1.0 / 255.0
GREY = Background(name="snow", top=(0.5, 0.5, 0.5), bottom=(0.5, 0.5, 0.5))


def lone(category: str, **options: object) -> Scene:
    thing = SceneObject(category=category, colour="red", x=0.5, y=0.5, radius=0.4)
    return Scene(objects=(dataclasses.replace(thing, **options),), background=GREY, mentions=(0,))  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_scene_is_the_same_alone_and_in_a_batch(preset: str) -> None:
    scenes = [sample_scene(preset, seed=2, index=index, num_frames=4) for index in range(9)]
    together = paint(scenes, num_frames=4)
    assert together.shape == (9, 4, 3, 64, 64)
    assert together.dtype == torch.float32
    assert together.min() >= 0.0
    assert together.max() <= 1.0
    for scene, clip in zip(scenes, together, strict=True):
        assert (paint([scene], num_frames=4)[0] - clip).abs().max() < BYTE
        assert (paint([scene])[0] - clip[0]).abs().max() < BYTE


def test_frames_are_moments_so_more_frames_go_through_the_same_ones() -> None:
    scenes = [sample_scene("full", seed=3, index=index, num_frames=8) for index in range(4)]
    assert (paint(scenes, num_frames=15)[:, ::2] - paint(scenes, num_frames=8)).abs().max() < BYTE


@pytest.mark.parametrize("size", [32, 96, 512])
def test_sizes_show_the_same_picture(size: int) -> None:
    scenes = [sample_scene("small", seed=4, index=index) for index in range(6)]
    small = torch.nn.functional.interpolate(paint(scenes, size=size), (32, 32), mode="area")
    assert (small - torch.nn.functional.interpolate(paint(scenes), (32, 32), mode="area")).abs().mean() < 0.012


def test_a_ball_covers_the_area_of_a_circle() -> None:
    picture = paint([lone("ball")], size=128)[0]
    different = (picture - 0.5).abs().amax(0) > 0.02
    assert different.sum().item() == pytest.approx(math.pi * (0.97 * 0.4 * 128) ** 2, rel=0.02)


@pytest.mark.parametrize("category", CATEGORIES)
def test_objects_stay_in_their_circle_and_fill_a_good_part_of_it(category: str) -> None:
    different = (paint([lone(category)], size=128)[0] - 0.5).abs().amax(0) > 0.02
    middles = torch.arange(128) + 0.5 - 64
    distance = (middles[:, None].square() + middles[None].square()).sqrt()
    assert distance[different].max() <= 0.4 * 128 * 1.04 + 1.0
    assert different.sum() > 0.3 * math.pi * (0.4 * 128) ** 2


@pytest.mark.parametrize("category", CATEGORIES)
def test_mirrored_and_quarter_turned_objects_are_the_picture_mirrored_and_turned(category: str) -> None:
    plain, mirrored, turned = paint([lone(category), lone(category, flip=True), lone(category, angle=math.pi / 2)], size=64)
    assert (mirrored - plain.flip(-1)).abs().max() < BYTE
    # Clockwise on the screen: what was at the top comes to the right.
    assert (turned - torch.rot90(plain, -1, (-2, -1))).abs().max() < BYTE


def test_edges_are_antialiased() -> None:
    picture = paint([lone("house", style="outlined")], size=64)[0]
    assert len(picture.mul(255).round().flatten(1).unique(dim=1).T) > 30


def test_colours_differ_from_each_other_and_from_every_ground() -> None:
    from calotype.world.painting.shapes import COLOURS

    names = PRESETS["small"].colours
    table = torch.tensor([COLOURS[name] for name in names])
    gaps = torch.cdist(table, table) + torch.eye(len(table))
    assert gaps.min() > 0.3
    for index in range(40):
        ground = paint([sample_scene("small", seed=6, index=index, objects=0)])[0].flatten(1).T
        near = torch.cdist(ground, table).amin()
        assert near > 0.15, f"{sample_scene('small', seed=6, index=index).background.name}: {near:.3f}"


def test_painting_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    paint([sample_scene("full", seed=0, index=0, num_frames=3)], num_frames=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("options", [{"scenes": []}, {"size": 8}, {"size": 4096}, {"num_frames": 0}])
def test_refusals(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        paint(**{"scenes": [sample_scene("small")], **options})  # type: ignore[arg-type]


def test_speed() -> None:
    """The best of three, in processor time of one thread: far below what was measured (2000 pictures, 2300 frames a second)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pictures = [sample_scene("small", seed=7, index=index) for index in range(64)]
        clips = [sample_scene("small", seed=7, index=index, num_frames=8) for index in range(8)]
        paint(pictures), paint(clips, num_frames=8)
        for scenes, frames, least in ((pictures, None, 200), (clips, 8, 300)):
            seconds = []
            for _ in range(3):
                start = time.thread_time()
                paint(scenes, num_frames=frames)
                seconds.append(time.thread_time() - start)
            assert len(scenes) * (frames or 1) / min(seconds) > least
        start = time.thread_time()
        for index in range(100):
            sample_scene("small", seed=8, index=index, num_frames=8)
        assert 100 / (time.thread_time() - start) > 300
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_paints_the_same() -> None:
    scenes = [sample_scene("full", seed=9, index=index, num_frames=4) for index in range(8)]
    assert (paint(scenes, num_frames=4, device="cuda").cpu() - paint(scenes, num_frames=4)).abs().max() < BYTE
