"""Scenes as folders: what is written is read, axes by the file's convention, units, and a line for everything that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from calotype.data.rgbd_scenes import as_scene, check_agreement, read_scene, write_scene
from calotype.errors import DataError, InputError
from calotype.imaging.rgbd import RGBDScene, RGBDView
from tests.analytic_scene import Capsule, render, ring
from tests.recorder import Recorder

THINGS = [Capsule((0.0, 0.0, 0.06), (0.0, 0.0, 0.06), 0.06, 0), Capsule((0.0, 0.12, 0.03), (0.08, 0.12, 0.03), 0.02, 1)]


@pytest.fixture(scope="module")
def scene() -> RGBDScene:
    return RGBDScene(tuple(render(THINGS, pose, size=(48, 64), focal=60.0)[0] for pose in ring()))


@pytest.fixture
def folder(scene: RGBDScene, tmp_path: Path) -> Path:
    write_scene(scene, tmp_path / "scene")
    return tmp_path / "scene"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    edit(content)
    (folder / "transforms.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("exact", "error"), [(False, 0.0005001), (True, 0.0)])
def test_what_is_written_is_read(scene: RGBDScene, tmp_path: Path, exact: bool, error: float) -> None:
    write_scene(scene, tmp_path / "s", exact=exact)
    for found, view in zip(read_scene(tmp_path / "s").views, scene.views, strict=True):
        assert (found.depth - view.depth).abs().max() <= error
        assert (found.rgb - view.rgb).abs().max() < 0.003
        assert torch.allclose(found.intrinsics, view.intrinsics)
        assert torch.allclose(found.camera_from_world, view.camera_from_world, atol=1e-9)
    assert len(as_scene(tmp_path / "s" / "transforms.json")) == 4


def test_the_pose_of_a_file_has_opengl_axes(scene: RGBDScene, folder: Path) -> None:
    """World from camera: the third column points away from what is seen, the second up."""
    matrix = np.array(json.loads((folder / "transforms.json").read_text())["frames"][0]["transform_matrix"])
    view = scene.views[0]
    assert np.allclose(matrix[:3, 3], view.centre.numpy())
    middle = view.unproject(torch.tensor([[32.0, 24.0]]), torch.tensor([0.5]))[0].double().numpy()
    assert np.allclose(-matrix[:3, 2], (middle - matrix[:3, 3]) / 0.5, atol=1e-6)
    assert matrix[2, 1] > 0


def test_axes_follow_the_file_and_wrong_ones_are_named(scene: RGBDScene, folder: Path) -> None:
    def to_opencv(content: dict[str, Any]) -> None:
        for frame, view in zip(content["frames"], scene.views, strict=True):
            frame["transform_matrix"] = view.world_from_camera.tolist()

    change(folder, to_opencv)
    with pytest.raises(InputError, match='add "camera_convention": "opencv"'):
        check_agreement(read_scene(folder))
    change(folder, lambda content: content.update(camera_convention="opencv"))
    found = read_scene(folder)
    check_agreement(found)
    assert torch.allclose(found.views[1].camera_from_world, scene.views[1].camera_from_world)


def test_depths_in_other_units_and_sizes_are_converted(scene: RGBDScene, folder: Path) -> None:
    metres = scene.views[0].depth.numpy()
    np.save(folder / "metres.npy", metres.astype(np.float64))
    np.save(folder / "units.npy", (metres * 5000).round().astype(np.uint16))
    small = Pillow.fromarray((metres[1::2, 1::2] * 1000).astype(np.uint16))
    small.save(folder / "small.png")
    change(folder, lambda content: content["frames"][0].update(depth_file_path="metres.npy"))
    change(folder, lambda content: content["frames"][1].update(depth_file_path="units.npy", depth_unit_scale_factor=0.0002))
    change(folder, lambda content: content["frames"][2].update(depth_file_path="small.png"))
    recorder = Recorder()
    views = read_scene(folder, events=recorder).views
    assert np.array_equal(views[0].depth.numpy(), metres)
    assert np.abs(views[1].depth.numpy() - metres).max() < 2e-4
    assert views[2].depth.shape == (48, 64)
    assert any("brought to the picture's 64x48" in note for note in recorder.notes)


def test_intrinsics_come_from_the_frame_the_file_or_the_angle(folder: Path, scene: RGBDScene) -> None:
    def edit(content: dict[str, Any]) -> None:
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            for frame in content["frames"]:
                del frame[key]
        content.update(fl_x=120.0, cx=64.0, cy=48.0, w=128, h=96)
        content["frames"][1].update(fl_x=130.0)

    change(folder, edit)
    views = read_scene(folder).views
    assert torch.allclose(views[0].intrinsics, scene.views[0].intrinsics)  # given for twice the size
    assert float(views[1].intrinsics[0, 0]) == 65.0
    change(folder, lambda content: (content.pop("fl_x"), content.update(camera_angle_x=2 * np.arctan(32 / 60.0))))
    assert torch.allclose(read_scene(folder).views[0].intrinsics, scene.views[0].intrinsics)


FAULTS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda content: content["frames"][2].update(file_path="images/none.png"), "frame 2: file_path: .* does not exist"),
    (
        lambda content: content["frames"][1].update(depth_file_path="../secret.png"),
        "frame 1: depth_file_path names .* outside of the folder",
    ),
    (lambda content: content["frames"][1].pop("depth_file_path"), "frame 1 has no depth_file_path"),
    (lambda content: content["frames"][1].update(depth_file_path="images/0001.png"), "frame 1: .* is no depth map"),
    (lambda content: content["frames"][0].update(fl_x=0.0), "frame 0: the focal lengths are 0 .* singular"),
    (lambda content: [frame.pop("fl_x") for frame in content["frames"]], "4 problems: frame 0: neither fl_x nor camera_angle_x"),
    (lambda content: content["frames"][0].update(w=64, h=64), "frame 0: w and h of the camera: 64x64 px for a picture of 64x48"),
    (lambda content: content["frames"][0].update(k1=0.2), "frame 0: the lens is distorted"),
    (lambda content: content.update(camera_model="OPENCV_FISHEYE"), "the camera model is OPENCV_FISHEYE"),
    (lambda content: content["frames"][0].update(transform_matrix=[[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]), "frame 0: .* no rotation"),
    (lambda content: content["frames"][0].update(transform_matrix=[[1, 0]]), "frame 0: transform_matrix is no 4x4"),
    (lambda content: content["frames"][0].pop("transform_matrix"), "frame 0: transform_matrix is None"),
    (lambda content: content.update(applied_scale=0.5), "scaled by applied_scale 0.5"),
    (lambda content: content.update(camera_convention="blender"), "opengl, opencv"),
    (lambda content: content.update(frames=[]), "has 0 frames"),
    (lambda content: content.pop("frames"), "frames is None"),
    (lambda content: content["frames"][0].update(depth_unit_scale_factor=1.0), "everything is farther than 100 m .* another"),
    (lambda content: content["frames"][0].update(depth_unit_scale_factor=1e-8), "everything is nearer than 1 mm .* another"),
]


@pytest.mark.parametrize(("edit", "message"), FAULTS)
def test_every_fault_is_one_line(folder: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    change(folder, edit)
    with pytest.raises(InputError, match=message) as raised:
        read_scene(folder)
    assert "\n" not in str(raised.value)
    if isinstance(raised.value, DataError):
        assert raised.value.problems


def test_depth_files_that_hold_no_depth(folder: Path) -> None:
    for values, message in (
        (np.zeros((48, 64), np.float32), "holds no depth at all"),
        (np.full((48, 64), -1.0), "negative depths"),
        (np.full((48, 64), 700.0), r"farther than 100 m \(700 m\).* floats are metres"),
        (np.zeros((48, 64, 3), np.float32), "no map"),
        (np.ones((48, 60), np.float32), "one aspect ratio"),
    ):
        np.save(folder / "d.npy", values)
        change(folder, lambda content: content["frames"][0].update(depth_file_path="d.npy"))
        with pytest.raises(InputError, match=message):
            read_scene(folder)
    promising = BytesIO()
    np.lib.format.write_array_header_1_0(promising, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    unfinished = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'shape': ((8, 8), ".ljust(117) + b"\n"
    for content in (b"\x93NUMPY nonsense", promising.getvalue() + bytes(100), unfinished + bytes(256)):
        (folder / "d.npy").write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            read_scene(folder)


def test_a_folder_without_a_scene(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        read_scene(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no transforms\.json"):
        read_scene(tmp_path)
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        read_scene(tmp_path)
    with pytest.raises(InputError, match="a int was given"):
        as_scene(3)  # type: ignore[arg-type]


def moved(view: RGBDView, shift: float) -> RGBDView:
    pose = view.camera_from_world.clone()
    pose[:3, 3] += torch.tensor([0.0, 0.0, shift])
    return replace(view, camera_from_world=pose)


def test_views_that_contradict_each_other_are_named(scene: RGBDScene) -> None:
    check_agreement(scene)
    check_agreement(RGBDScene(scene.views[:1]))
    wrong = (*scene.views[:2], moved(scene.views[2], 0.08), scene.views[3])
    with pytest.raises(InputError, match="view 2 disagrees with the others"):
        check_agreement(RGBDScene(wrong))
    unit = (*scene.views[:3], replace(scene.views[3], depth=scene.views[3].depth / 5))
    with pytest.raises(InputError, match="view 3 disagrees"):
        check_agreement(RGBDScene(unit))
    with pytest.raises(InputError, match="no view agrees"):
        check_agreement(RGBDScene(tuple(replace(view, depth=view.depth * (1 + place)) for place, view in enumerate(scene.views, 1))))


def test_noise_of_a_depth_camera_is_no_contradiction(scene: RGBDScene) -> None:
    generator = torch.Generator().manual_seed(3)
    noisy = tuple(
        replace(view, depth=(view.depth + 0.004 * torch.randn(view.depth.shape, generator=generator)).clamp_min(0)) for view in scene.views
    )
    check_agreement(RGBDScene(noisy))
    check_agreement(RGBDScene(tuple(moved(view, 0.004) for view in scene.views)))
