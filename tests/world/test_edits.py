"""Counterfactuals change what they say and leave every other pixel alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from calotype import world
from calotype.errors import InputError
from calotype.world import Scene, ground_truth, paint, sample_scene

SCENES = [sample_scene("full", seed=30, index=index, num_frames=3, objects=2) for index in range(10)]


def touched(*scenes: Scene, number: int) -> Tensor:
    """Every pixel that object `number` may reach in any of the scenes, [F, H, W]."""
    alpha = torch.stack([ground_truth(scene, 64).layers[:, number, 3] for scene in scenes])
    return max_pool2d(alpha.amax(0), 3, 1, 1) > 0


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("moved", (0.1, -0.05)),
        ("resized", (1.3,)),
        ("rotated", (0.7,)),
        ("flipped", ()),
        ("recoloured", ("cyan",)),
        ("replaced", ("cup",)),
        ("stilled", ()),
    ],
)
def test_only_the_edited_object_changes(name: str, arguments: tuple[object, ...], number: int) -> None:
    for scene in SCENES[:6]:
        words, other = scene.objects[number].words, scene.objects[1 - number].words
        if arguments and arguments[0] in words:
            continue
        if (name == "recoloured" and other == (words[0], "cyan")) or (name == "replaced" and other == ("cup", words[1])):
            with pytest.raises(InputError, match="could not tell the two apart"):
                getattr(world, name)(scene, number, *arguments)
            continue
        edited = getattr(world, name)(scene, number, *arguments)
        before, after = paint([scene], num_frames=3)[0], paint([edited], num_frames=3)[0]
        reach = touched(scene, edited, number=number)
        assert (before - after).abs().amax(1)[~reach].max() < 1e-5
        if name not in ("stilled",) and ground_truth(scene).visible_share[0, number] > 0.3:
            assert (before - after).abs().amax(1)[reach].max() > 0.1


@pytest.mark.parametrize("number", [0, 1])
def test_without_shows_the_clean_ground_where_the_object_was(number: int) -> None:
    for scene in SCENES:
        truth, gone = ground_truth(scene, 64), world.without(scene, number)
        after = paint([gone], num_frames=3)[0]
        alone = touched(scene, number=number) & (truth.layers[:, 1 - number, 3] == 0.0)
        difference = (after - truth.background).abs().amax(1)
        assert difference[alone].max() < 1e-5
        untouched = ~touched(scene, number=number)
        assert (after - truth.frames).abs().amax(1)[untouched].max() < 1e-5
        assert scene.objects[number].category not in gone.caption.split() or scene.objects[0].category == scene.objects[1].category


def test_a_move_of_whole_pixels_moves_the_layer() -> None:
    for scene in (sample_scene("small", seed=31, index=index, objects=1) for index in range(8)):
        layer = ground_truth(scene).layers[0, 0]
        shifted = ground_truth(world.moved(scene, 0, 5 / 64, -3 / 64)).layers[0, 0]
        inside = torch.roll(layer, (-3, 5), (-2, -1))[:, :-3, 5:]
        assert (shifted[3][:-3, 5:] - inside[3]).abs().max() < 1e-4


def test_two_flips_and_back_and_forth_are_the_scene() -> None:
    for scene in SCENES:
        assert world.flipped(world.flipped(scene, 0), 0) == scene
        back = world.rotated(world.rotated(scene, 1, 0.5), 1, -0.5)
        assert (paint([back], num_frames=3) - paint([scene], num_frames=3)).abs().max() < 1e-3


def test_a_flip_is_the_layers_mirror_image() -> None:
    from calotype.world import SceneObject

    ground = sample_scene("small", seed=0, index=0, objects=0).background
    for category in ("rocket", "fish", "cup"):
        thing = SceneObject(category=category, colour="red", x=0.5, y=0.5, radius=0.3, angle=0.4)
        scene = Scene(objects=(thing,), background=ground, mentions=(0,))
        plain, mirrored = ground_truth(scene).layers[0, 0], ground_truth(world.flipped(scene, 0)).layers[0, 0]
        assert (plain.flip(-1) - mirrored)[3].abs().max() < 1e-4


def test_the_camera_shift_is_the_picture_shifted() -> None:
    for scene in SCENES:
        before = paint([scene])[0]
        after = paint([world.camera_shifted(scene, 4 / 64, -6 / 64)])[0]
        assert (after[:, 6:, :-4] - before[:, :-6, 4:]).abs().max() < 2e-3


def test_the_camera_zoom_is_the_picture_enlarged() -> None:
    for scene in SCENES[:4]:
        before, after = paint([scene], size=64)[0], paint([world.camera_zoomed(scene, 2.0)], size=128)[0]
        reduced = torch.nn.functional.avg_pool2d(after, 4)
        assert (reduced - torch.nn.functional.avg_pool2d(before[:, 16:48, 16:48], 1)).abs().mean() < 0.03


def test_ground_style_and_depth() -> None:
    for scene in SCENES:
        name = "brick" if scene.background.name != "brick" else "sand"
        other = ground_truth(world.with_background(scene, name))
        truth = ground_truth(scene)
        assert torch.equal(other.layers, truth.layers)
        assert other.caption.split()[-1] == name
        assert (other.background - truth.background).abs().mean() > 0.01
        style = "pastel" if scene.style != "pastel" else "flat"
        restyled = world.restyled(scene, style)
        assert world.restyled(restyled, scene.style) == scene
        assert (restyled.caption.split()[1] == style) == (style != "flat")
        swapped = world.reordered(scene, [1, 0])
        assert swapped.caption == scene.caption
        assert torch.equal(ground_truth(swapped).layers, truth.layers.flip(1))


def test_captions_follow_edits_and_drop_what_became_untrue() -> None:
    scene = next(s for s in (sample_scene("small", seed=32, index=index) for index in range(400)) if s.relation == "left of")
    first = scene.mentions[0]
    assert world.moved(scene, first, 1.0, 0.0).relation == "and"
    assert world.moved(scene, first, -0.1, 0.0).relation == "left of"
    assert "cyan" in world.recoloured(scene, first, "cyan").caption
    assert world.without(scene, first).caption.count(" a ") + world.without(scene, first).caption.count("an ") <= 1


def test_replaced_objects_go_nose_first() -> None:
    for index in range(20):
        scene = sample_scene("full", seed=33, index=index, num_frames=6, motion="straight", objects=1, camera="still")
        rocket, fish = world.replaced(scene, 0, "rocket").objects[0], world.replaced(scene, 0, "fish").objects[0]
        heading = math.atan2(rocket.motion.dy, rocket.motion.dx)
        assert math.cos(rocket.angle - heading) > 0.999
        assert math.cos(fish.angle + (math.pi if fish.flip else 0.0) - heading) > 0.999
        assert rocket.motion.family == "directed"
        assert world.replaced(world.replaced(scene, 0, "rocket"), 0, "ball").objects[0].motion.family == "straight"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("without", (7,)),
        ("resized", (0, 0.0)),
        ("recoloured", (0, "mauve")),
        ("replaced", (0, "spoon")),
        ("restyled", ("cubist",)),
        ("camera_zoomed", (-1.0,)),
        ("with_background", ("moon",)),
        ("reordered", ([0, 0],)),
    ],
)
def test_refusals(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(InputError) as caught:
        getattr(world, name)(SCENES[0], *arguments)
    assert "\n" not in str(caught.value)
