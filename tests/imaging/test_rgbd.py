"""Views with depth: projecting, its inverse, and what is refused."""

from __future__ import annotations

import pytest
import torch

from calotype.errors import InputError, ShapeError
from calotype.imaging.rgbd import RGBDScene, RGBDView
from tests.analytic_scene import Capsule, intrinsics, look_at, render

IDENTITY = torch.eye(4, dtype=torch.float64)


def view(**changes: torch.Tensor) -> RGBDView:
    given = {
        "rgb": torch.zeros(3, 24, 32),
        "depth": torch.ones(24, 32),
        "intrinsics": intrinsics((24, 32), 40.0),
        "camera_from_world": IDENTITY,
    }
    return RGBDView(**{**given, **changes})


def test_unprojecting_undoes_projecting() -> None:
    seen = view(camera_from_world=look_at((0.4, -0.3, 0.5)))
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    pixels, distances = seen.project(points)
    assert (seen.unproject(pixels, distances) - points).abs().max() < 1e-12
    assert (seen.camera_from_world @ seen.world_from_camera - IDENTITY).abs().max() < 1e-12


def test_a_pixel_is_half_a_pixel_from_its_corner() -> None:
    pixels, distances = view().project(view().points())
    assert torch.allclose(pixels[3, 5], torch.tensor([5.5, 3.5]), atol=1e-4)
    assert torch.allclose(distances, torch.ones(24, 32))


def test_a_sphere_has_the_depth_of_its_closed_form() -> None:
    """Along the optical axis and not along the ray: a sphere of 0.1 m whose centre is 1 m ahead, 0.2 m to the right."""
    size, focal = (64, 96), 120.0
    camera = torch.eye(4, dtype=torch.float64)
    seen, part = render([Capsule((0.2, 0.0, 1.0), (0.2, 0.0, 1.0), 0.1, 0)], camera, size=size, focal=focal)
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    rays = torch.stack([(columns - 48) / focal, (rows - 32) / focal, torch.ones(64, 96)], -1).double()
    middle = torch.tensor([0.2, 0.0, 1.0], dtype=torch.float64)
    a, b, c = rays.square().sum(-1), rays @ middle, middle.square().sum() - 0.01
    root = b.square() - a * c
    depth = (b - root.clamp_min(0).sqrt()) / a
    hit = root > 1e-4
    assert hit.sum() > 200
    assert (part[hit] == 0).all()
    assert (seen.depth[hit] - depth[hit]).abs().max() < 1e-4
    row, column = hit.nonzero()[0].tolist()
    assert torch.allclose((seen.points()[row, column].double() - middle).norm(), torch.tensor(0.1, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": torch.ones(24, 30)}, "depth map was given"),
        ({"depth": torch.full((24, 32), float("nan"))}, "no numbers"),
        ({"depth": torch.full((24, 32), -1.0)}, "negative"),
        ({"intrinsics": torch.zeros(3, 3, dtype=torch.float64)}, "singular"),
        ({"intrinsics": torch.eye(3)}, "float64"),
        ({"camera_from_world": 2 * IDENTITY}, "no rotation"),
        ({"camera_from_world": torch.diag(torch.tensor([1.0, 1, -1, 1], dtype=torch.float64))}, "mirrored"),
    ],
)
def test_what_is_no_view_is_refused_in_one_line(changes: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises((InputError, ShapeError), match=message) as raised:
        view(**changes)
    assert "\n" not in str(raised.value)


def test_a_scene_has_views() -> None:
    assert len(RGBDScene((view(),))) == 1
    with pytest.raises(InputError, match="without views"):
        RGBDScene(())
