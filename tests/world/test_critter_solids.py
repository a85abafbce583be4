"""Critters in three dimensions: what the rays meet, cameras, correspondences, captions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.errors import InputError
from calotype.world.critters.anatomy import FACINGS, MIRRORED, PARTS, corresponding_points, facing_words
from calotype.world.critters.cameras import TableCamera, cameras_around
from calotype.world.critters.primitives import Box, Capsule
from calotype.world.critters.raycasting import NOTHING, TABLE, render_pictures, render_views
from calotype.world.critters.sampling import CritterScene, picture_caption, sample_critter_picture, sample_critter_scene

INDICES = st.integers(0, 10_000)
TOUCHING = 1e-4
"""Metres. Rounding of squared distances (a few 1e-7 m^2 at 0.9 m) over twice the least radius (6 mm), where a ray grazes a surface."""


def _scene(index: int) -> CritterScene:
    return sample_critter_scene(split="tune", seed=3, index=index)


@given(index=INDICES, angle=st.floats(-math.pi, math.pi), elevation=st.floats(0.1, 1.3))
@settings(max_examples=12, deadline=None)
def test_every_ray_ends_on_the_surface_that_it_names(index: int, angle: float, elevation: float) -> None:
    scene = _scene(index)
    (camera,) = cameras_around((0.0, 0.0, 0.05), count=1, distance=0.9, elevation=elevation, first=angle)
    seen = render_views(scene, [camera], 48, samples=1)
    thing, part, points = seen.thing[0], seen.part[0], seen.point[0].permute(1, 2, 0)
    distances = torch.stack([solid.distance(points.flatten(0, 1)) for solid, _ in scene.solids()]).view(-1, 48, 48)
    on_things = thing >= 0
    assert on_things.any()
    assert distances.amin(0)[on_things].abs().max() < TOUCHING
    # Nothing lies between the camera and the point: no point that is seen is inside of a solid.
    assert distances.amin(0)[thing > NOTHING].min() > -TOUCHING
    assert points[..., 2][thing == TABLE].abs().max() < 1e-5
    nearest = distances.argmin(0)
    owner = torch.tensor([number for _, number in scene.solids()])[nearest]
    named = torch.tensor([-1 if solid.part is None else PARTS.index(solid.part) for solid, _ in scene.solids()])[nearest]
    # Where two solids meet, either is right.
    alone = distances.topk(2, 0, largest=False).values[1] > 2 * TOUCHING
    assert torch.equal(owner[on_things & alone], thing[on_things & alone])
    assert torch.equal(named[on_things & alone], part[on_things & alone])


def test_normals_are_the_gradients_of_the_distance() -> None:
    scene = _scene(2)
    seen = render_views(scene, cameras_around((0.0, 0.0, 0.05), count=2, distance=0.9, elevation=0.6), 48, samples=1)
    on = seen.thing >= 0
    points = seen.point.permute(0, 2, 3, 1)[on].double().requires_grad_()
    distance = torch.stack([solid.distance(points) for solid, _ in scene.solids()]).abs().amin(0)
    outside = points + 1e-4 * seen.normal.permute(0, 2, 3, 1)[on]
    assert distance.max() < TOUCHING
    farther = torch.stack([solid.distance(outside) for solid, _ in scene.solids()]).amin(0)
    assert (farther - 1e-4).abs().quantile(0.97) < 2e-5  # the rest lies where two solids meet
    assert (seen.normal.norm(dim=1)[seen.thing > NOTHING] - 1.0).abs().max() < 1e-5


def test_depth_and_projection_agree() -> None:
    scene = _scene(5)
    cameras = cameras_around((0.05, 0.0, 0.05), count=3, distance=0.8, elevation=0.5, first=1.0)
    seen = render_views(scene, cameras, 40, samples=1)
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    for number, camera in enumerate(cameras):
        found = seen.depth[number] > 0
        projected = camera.project(seen.point[number][:, found].T, 40)
        expected = torch.stack([columns[found] + 0.5, rows[found] + 0.5, seen.depth[number][found]], 1)
        assert (projected - expected).abs().max() < 2e-3
        turn = camera.camera_from_world()[:3, :3]
        assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)
        assert torch.linalg.det(turn) > 0


def test_a_ball_has_the_depth_of_the_closed_form() -> None:
    ball = Capsule(start=(0.0, 0.0, 0.5), end=(0.0, 0.0, 0.5), radius=0.1, colour=(1.0, 0.0, 0.0))
    box = Box(centre=(0.5, 0.0, 0.5), half=(0.1, 0.1, 0.1), yaw=0.0, colour=(0.0, 1.0, 0.0))
    scene = CritterScene(critters=_scene(0).critters[:1], distractors=(ball, box), table="white", light=(0.0, 0.0, 1.0))
    camera = TableCamera(eye=(0.0, -1.0, 0.5), target=(0.0, 0.0, 0.5), focal=1.0)
    seen = render_pictures([scene], [camera], 64, samples=1)
    x = torch.tensor(0.5 / 64)
    assert abs(float(seen.depth[0, 32, 32]) - float((1 - (1 - (1 + 2 * x**2) * 0.99).sqrt()) / (1 + 2 * x**2))) < 1e-5
    assert seen.thing[0, 32, 32] == 1
    assert seen.thing[0, 32, 62] == 2
    assert abs(float(seen.depth[0, 32, 62]) - 0.9) < 1e-5
    assert seen.normal[0, :, 32, 62].tolist() == [0.0, -1.0, 0.0]


@given(index=INDICES, part=st.sampled_from(PARTS))
@settings(max_examples=40, deadline=None)
def test_corresponding_points_lie_on_the_same_part_and_come_back(index: int, part: str) -> None:
    one, other = _scene(index).critters[:2]
    solid, target = (thing.primitives()[PARTS.index(part)] for thing in (one, other))
    generator = torch.Generator().manual_seed(index)
    away = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator, dtype=torch.float64), dim=1)
    share = torch.rand(20, 1, generator=generator, dtype=torch.float64)
    start, end = torch.tensor(solid.start, dtype=torch.float64), torch.tensor(solid.end, dtype=torch.float64)
    points = start + share * (end - start) + solid.radius * away
    on = points - solid.distance(points)[:, None] * _gradient(solid, points)
    carried = corresponding_points(one, part, on, other)
    assert target.distance(carried).abs().max() < 1e-9
    assert (corresponding_points(other, part, carried, one) - on).abs().max() < 1e-6


def _gradient(solid: Capsule, points: torch.Tensor) -> torch.Tensor:
    variable = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(solid.distance(variable).sum(), variable)
    return gradient


def test_arms_and_legs_are_alike_and_only_the_side_differs() -> None:
    for index in range(20):
        for critter in _scene(index).critters:
            solids = dict(zip(PARTS, critter.primitives(), strict=True))
            left = torch.tensor([-math.sin(critter.yaw), math.cos(critter.yaw), 0.0])
            middle = torch.tensor([critter.x, critter.y, 0.0])
            for pair in ("arm", "leg", "eye"):
                one, other = solids[f"{pair}_left"], solids[f"{pair}_right"]
                assert (one.radius, one.colour) == (other.radius, other.colour)
                assert (torch.tensor(one.end) - middle) @ left > 0 > (torch.tensor(other.end) - middle) @ left
            assert min(min(solid.start[2], solid.end[2]) - solid.radius for solid in solids.values()) > -1e-9
    assert MIRRORED[PARTS.index("arm_left")] == "arm_right"
    assert MIRRORED[PARTS.index("tail")] == "tail"


@given(index=INDICES)
@settings(max_examples=30, deadline=None)
def test_things_stand_apart(index: int) -> None:
    scene = _scene(index)
    assert scene == _scene(index)
    points = {}
    for solid, number in scene.solids():
        ends = [solid.start, solid.end] if isinstance(solid, Capsule) else [solid.centre]
        points.setdefault(number, []).extend(ends)
    for solid, number in scene.solids():
        for other, places in points.items():
            if other != number:
                assert solid.distance(torch.tensor(places)).min() > 0.0


def test_captions_say_where_the_critter_faces() -> None:
    critter = _scene(1).critters[0]
    left = (-math.sin(critter.yaw), math.cos(critter.yaw))
    # If it faces along +x, a viewer at its left stands at +y and looks along -y: +x is on the viewer's left.
    assert facing_words(critter, (critter.x + left[0], critter.y + left[1], 0.2)) == "left"
    assert facing_words(critter, (critter.x - critter.facing[0], critter.y - critter.facing[1], 0.2)) == "behind"
    seen = {
        picture_caption(*sample_critter_picture(split="tune", seed=1, index=index)).split(" facing ")[1].rsplit(" on ")[0]
        for index in range(80)
    }
    assert seen == set(FACINGS)
    for index in range(20):
        scene, camera = sample_critter_picture(split="tune", seed=1, index=index, turn=0.3)
        assert facing_words(scene.critters[0], camera.eye).startswith("front")


def test_samples_smooth_edges_only() -> None:
    scene, camera = sample_critter_picture(split="tune", seed=1, index=4)
    sharp, smooth = (render_pictures([scene], [camera], 64, samples=samples) for samples in (1, 2))
    assert torch.equal(sharp.depth, smooth.depth)
    assert torch.equal(sharp.part, smooth.part)
    assert (sharp.image - smooth.image).abs().amax(1).gt(0.02).float().mean() < 0.2


def test_bad_calls_are_refused() -> None:
    scene, camera = sample_critter_picture(split="tune", seed=1, index=4)
    wide = TableCamera(eye=(0.0, -1.0, 0.5), target=(0.0, 0.0, 0.0), focal=1.0, across=2.0)
    for given_scenes, given_cameras, height in (([], [], 64), ([scene], [], 64), ([scene], [camera], 8), ([scene] * 2, [camera, wide], 64)):
        with pytest.raises(InputError):
            render_pictures(given_scenes, given_cameras, height)
    assert render_pictures([scene], [wide], 32).image.shape == (1, 3, 32, 64)
    with pytest.raises(InputError, match="split"):
        sample_critter_scene(split="test", seed=0, index=0)
    with pytest.raises(InputError, match="part"):
        corresponding_points(scene.critters[0], "wing", torch.zeros(1, 3), scene.critters[0])
