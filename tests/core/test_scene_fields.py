"""Scene fields against exact surfaces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from calotype.core.scene_fields import NOTHING, SceneField, depth_edges, sample_map, surface_normals, surface_points
from calotype.errors import InputError, ShapeError
from calotype.imaging.rgbd import RGBDView
from tests.analytic_scene import Capsule, distances, intrinsics, render, ring

BALL = Capsule((0.0, 0.0, 0.06), (0.0, 0.0, 0.06), 0.06, 0)
ARM = Capsule((0.0, 0.12, 0.03), (0.08, 0.12, 0.03), 0.02, 1)
THINGS = [BALL, ARM]


@pytest.fixture(scope="module")
def seen() -> list[tuple[RGBDView, Tensor]]:
    return [render(THINGS, pose) for pose in ring()]


@pytest.fixture(scope="module")
def scene(seen: list[tuple[RGBDView, Tensor]]) -> SceneField:
    return SceneField(tuple(view for view, _ in seen))


def test_one_view_of_a_wall_is_the_written_out_formula() -> None:
    wall = RGBDView(torch.zeros(3, 32, 32), torch.ones(32, 32), intrinsics((32, 32), 32.0), torch.eye(4, dtype=torch.float64))
    depths = [0.9, 0.985, 1.0, 1.01, 1.03]
    points = torch.tensor([[0.01, 0.0, depth] for depth in depths])
    features = torch.full((2, 8, 8), 3.0)
    field = SceneField((wall,), {"a": [features]}, truncation=0.02)
    expected = torch.tensor([0.02, 0.015, 0.0, -0.01, NOTHING])
    assert torch.allclose(field.signed_distance(points), expected, atol=1e-6)
    assert field.signed_distance(points, hidden=-0.5)[-1] == -0.5
    apart = 1 - torch.tensor(depths)
    weights = torch.exp(torch.minimum(0.02 - apart.abs(), torch.tensor(0.0)) / 0.02)
    weights[-1] = 0
    assert torch.allclose(field.features(points, "a")[:, 0], 3 * weights, atol=1e-4)


def test_a_view_that_does_not_see_a_point_has_no_part_in_it(seen: list[tuple[RGBDView, Tensor]]) -> None:
    """On the ball's side that faces a camera, the camera across sees the other side."""
    views = tuple(view for view, _ in seen)
    middle = torch.tensor([0.0, 0.0, 0.06])
    for number, view in enumerate(views):
        towards = (view.centre.float() - middle) * torch.tensor([1.0, 1.0, 0.0])
        point = (middle + 0.06 * towards / towards.norm())[None]
        own, across = ([torch.full((1, 16, 16), float(each == named)) for each in range(4)] for named in (number, (number + 2) % 4))
        field = SceneField(views, {"own": own, "across": across})
        assert bool(field.seen(point)[number])
        assert not bool(field.seen(point)[(number + 2) % 4])
        assert float(field.features(point, "own")) > 0.3
        assert float(field.features(point, "across")) == 0


def test_surface_points_lie_on_the_surfaces(scene: SceneField) -> None:
    points = surface_points(scene)
    apart = distances(THINGS, points.double()).abs().min(0).values
    assert len(points) > 3000
    assert apart.max() < 0.004
    above = points[points[:, 2] > 0.006]
    on_ball, on_arm = (each.distance(above.double()).abs() < 0.004 for each in THINGS)
    assert on_ball.sum() > 800
    assert on_arm.sum() > 150


def test_the_sign_says_on_which_side_of_a_surface_a_point_is(scene: SceneField) -> None:
    points = surface_points(scene)
    ball = points[(BALL.distance(points) < 0.003) & (points[:, 2] > 0.05)]
    outwards = (ball - torch.tensor(BALL.start)) / (ball - torch.tensor(BALL.start)).norm(dim=1, keepdim=True)
    assert (scene.signed_distance(ball + 0.012 * outwards) > 0.003).float().mean() > 0.98
    assert (scene.signed_distance(ball - 0.012 * outwards, hidden=-0.02) < -0.003).float().mean() > 0.98
    assert scene.signed_distance(torch.tensor([[0.0, 0.0, 0.06]]), hidden=-0.02) == pytest.approx(-0.02)
    assert scene.signed_distance(torch.tensor([[0.0, 0.0, 9.0]]), hidden=-0.02) == NOTHING


def test_normals_of_a_ball_point_outwards(scene: SceneField) -> None:
    points = surface_points(scene)
    above = points[points[:, 2] > 0.006]
    centres = torch.stack([view.centre for view in scene.views]).float()
    nearest = torch.cdist(above, centres).argmin(1)
    normals = surface_normals(above, centres[nearest])
    ball = (BALL.distance(above) < 0.003) & (above[:, 2] > 0.03)
    outwards = (above[ball] - torch.tensor(BALL.start)) / (above[ball] - torch.tensor(BALL.start)).norm(dim=1, keepdim=True)
    cosines = (normals[ball] * outwards).sum(1)
    assert cosines.median() > 0.98
    assert (cosines > 0.8).float().mean() > 0.97


def test_a_map_is_sampled_between_the_centres_of_its_cells(seen: list[tuple[RGBDView, Tensor]]) -> None:
    """A map that holds each cell's own place gives every point's own place: a shift by half a cell would be 4 px here."""
    view, _ = seen[0]
    rows, columns = torch.meshgrid((torch.arange(16) + 0.5) * 8, (torch.arange(16) + 0.5) * 8, indexing="ij")
    places = torch.stack([columns, rows])
    pixels = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) * 112 + 8
    assert torch.allclose(sample_map(places, pixels, view.size), pixels, atol=1e-3)
    points = view.points()[view.valid]
    field = SceneField((view,), {"place": [places]})
    found, expected = field.features(points, "place"), view.project(points)[0]
    inner = ((expected > 8) & (expected < 120)).all(1)
    assert torch.allclose(found[inner], expected[inner], atol=0.05)


def test_features_do_not_bleed_over_a_silhouette(seen: list[tuple[RGBDView, Tensor]]) -> None:
    """Part ids at a quarter of the resolution: fused over views, ball points are the ball's."""
    maps = [torch.nn.functional.interpolate((part == 0).float()[None, None], size=(32, 32), mode="area")[0] for _, part in seen]
    field = SceneField(tuple(view for view, _ in seen), {"ball": maps})
    points = surface_points(field)
    ball = points[(BALL.distance(points) < 0.003) & (points[:, 2] > 0.02)]
    table = points[(points[:, 2] < 0.003) & (BALL.distance(points) > 0.03)]
    assert (field.features(ball, "ball") > 0.5).float().mean() > 0.97
    assert (field.features(table, "ball") < 0.2).float().mean() > 0.97


def test_depth_edges_are_jumps_and_no_slopes(seen: list[tuple[RGBDView, Tensor]]) -> None:
    view, part = seen[0]
    edges = depth_edges(view, 0.01)
    ball = (part == 0).float()[None, None]
    outline = (torch.nn.functional.max_pool2d(ball, 3, 1, 1) - ball)[0, 0] > 0
    upper = outline & (torch.arange(128)[:, None] < 60)
    assert edges[upper].float().mean() > 0.9
    plain = (part == -1) & (torch.nn.functional.max_pool2d((part >= 0).float()[None, None], 5, 1, 2)[0, 0] == 0)
    assert edges[plain].float().mean() < 0.01


@pytest.mark.bad_input
def test_fields_that_fit_nothing_are_refused(seen: list[tuple[RGBDView, Tensor]]) -> None:
    view = seen[0][0]
    with pytest.raises(InputError, match="0 views"):
        SceneField(())
    with pytest.raises(ShapeError, match="2 maps for 1 views"):
        SceneField((view,), {"a": [torch.zeros(1, 4, 4)] * 2})
    with pytest.raises(InputError, match="no feature maps 'b'"):
        SceneField((view,), {"a": [torch.zeros(1, 4, 4)]}).features(torch.zeros(1, 3), "b")
