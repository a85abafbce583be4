"""Scenes on disk: a folder with `transforms.json` in nerfstudio's convention, its pictures, and a depth map beside each.

    {"fl_x": 600, "fl_y": 600, "cx": 320, "cy": 240, "w": 640, "h": 480,          or in each frame; `camera_angle_x` in place of fl_x
     "frames": [{"file_path": "images/0.png", "depth_file_path": "depth/0.png", "transform_matrix": [[...], [...], [...], [0, 0, 0, 1]]}]}

`transform_matrix` is world from camera, in metres, with OpenGL's camera axes (x right, y up, z backwards); `"camera_convention": "opencv"`
(x right, y down, z forwards) says otherwise. A depth map is a 16-bit PNG of millimetres (`depth_unit_scale_factor` says how many metres a
unit is), or a .npy file: floats are metres, whole numbers are units as in a PNG. 0 is no depth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.nn import functional

from calotype.core.events import SILENT, Events
from calotype.core.untrusted import choice, listed, mapping, number, read_json, text
from calotype.data.files import check_size, mapped_array, plain_file
from calotype.data.images import decoded, read_image
from calotype.errors import DataError, InputError
from calotype.imaging.files import new_folder, user_path, write_json
from calotype.imaging.rgbd import RGBDScene, RGBDView, check_intrinsics, check_rigid

SceneLike: TypeAlias = RGBDScene | Sequence[RGBDView] | str | os.PathLike[str]
"""What every call takes for a scene."""
T = TypeVar("T")
NAME = "transforms.json"
MOST_VIEWS = 64
NEAREST, FARTHEST = 0.001, 100.0
"""Metres; a depth map with nothing in between has another unit."""
_MILLIMETRE = 0.001
_MOST_SHOWN = 5
_ROUNDED = 2e-3
"""How far a rotation in a file may be from one, by rounding."""
_CAMERAS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "RADIAL", "SIMPLE_RADIAL", "FULL_OPENCV")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_AXES = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""Between OpenGL's and OpenCV's camera axes, either way."""


def as_scene(value: SceneLike, *, name: str = "views", events: Events = SILENT) -> RGBDScene:
    """Whatever a caller has for a scene.

    Raises:
        InputError: a folder that is refused, or something else.
    """
    if isinstance(value, RGBDScene):
        return value
    if isinstance(value, str | os.PathLike):
        return read_scene(value, name=name, events=events)
    views = tuple(view for view in value if isinstance(view, RGBDView)) if isinstance(value, Sequence) else ()
    if isinstance(value, Sequence) and len(views) == len(value):
        return RGBDScene(views)
    raise InputError(f"{name}: a {type(value).__name__} was given; give a folder with {NAME}, an RGBDScene, or a list of RGBDView")


def read_scene(path: str | os.PathLike[str], *, name: str = "views", events: Events = SILENT) -> RGBDScene:
    """Read a folder of views.

    Args:
        path: the folder, or its transforms.json.
        name: what messages call it.
        events: hears a note for every conversion.

    Returns:
        The views in the order of the file, with OpenCV's camera axes and depths in metres.

    Raises:
        DataError: anything about the frames; it has a line for each problem.
        InputError: no such folder or file, or no such JSON.

    Example:
        >>> import tempfile
        >>> camera = torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]], dtype=torch.float64)
        >>> view = RGBDView(torch.zeros(3, 32, 32), torch.full((32, 32), 0.5), camera, torch.eye(4, dtype=torch.float64))
        >>> folder = Path(tempfile.mkdtemp()) / "scene"
        >>> write_scene(RGBDScene((view,)), folder)
        >>> read_scene(folder).views[0].depth.unique().tolist()
        [0.5]
    """
    folder = user_path(path)
    folder = folder.parent if folder.name == NAME else folder
    if not folder.is_dir():
        raise InputError(f"{name}: {folder} is no folder; give a folder of views with a {NAME}")
    if not (folder / NAME).is_file():
        raise InputError(f"{name}: {folder} holds no {NAME}; write the cameras into one, as nerfstudio's tools do")
    content = read_json(folder / NAME)
    frames = [mapping(frame, f"{name}: frame {place}") for place, frame in enumerate(listed(content.get("frames"), f"{name}: frames"))]
    if not 1 <= len(frames) <= MOST_VIEWS:
        raise InputError(f"{name}: {folder / NAME} has {len(frames)} frames; 1 to {MOST_VIEWS} are read, so keep those that see the object")
    scale = number(content.get("applied_scale", 1.0), f"{name}: applied_scale")
    if scale != 1.0:
        raise InputError(f"{name}: the poses were scaled by applied_scale {scale:g}; give poses in metres, as the depths are, without it")
    views: list[RGBDView] = []
    problems: list[str] = []
    for place, frame in enumerate(frames):
        try:
            views.append(_read_view(folder, {**content, **frame}, f"frame {place}", events))
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise DataError(f"{name}: {folder / NAME} has {count}: {'; '.join(problems[:_MOST_SHOWN])}{more}", problems)
    return RGBDScene(tuple(views))


def write_scene(scene: RGBDScene, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None, *, exact: bool = False) -> None:
    """Write a folder that `read_scene` and nerfstudio's tools read, whole or not at all.

    Args:
        scene: its views.
        path: the folder; nothing may be in it.
        metadata: text for the JSON.
        exact: keep depths as they are, in .npy files of metres, in place of whole millimetres in 16-bit PNGs.

    Raises:
        InputError: the folder holds files, or a depth is above 65.5 m and not `exact`.
    """
    if not exact and any(float(view.depth.max()) * 1000 > 65535 for view in scene.views):
        raise InputError("a depth is above 65.535 m, which 16 bits of millimetres don't hold; write it with exact=True")
    with new_folder(path) as folder:
        (folder / "images").mkdir()
        (folder / "depth").mkdir()
        frames = []
        for place, view in enumerate(scene.views):
            picture, depth = f"images/{place:04d}.png", f"depth/{place:04d}.{'npy' if exact else 'png'}"
            view.image.save(folder / picture)
            if exact:
                np.save(folder / depth, view.depth.numpy())
            else:
                Pillow.fromarray((view.depth.double() * 1000).round().numpy().astype(np.uint16)).save(folder / depth)
            camera = view.intrinsics
            frames.append({
                "file_path": picture, "depth_file_path": depth, "w": view.size[1], "h": view.size[0], "fl_x": float(camera[0, 0]),
                "fl_y": float(camera[1, 1]), "cx": float(camera[0, 2]), "cy": float(camera[1, 2]),
                "transform_matrix": (view.world_from_camera @ _AXES).tolist(),
            })  # fmt: skip
        write_json(folder / NAME, {**(metadata or {}), "camera_model": "PINHOLE", "frames": frames})


def check_agreement(scene: RGBDScene, *, name: str = "views") -> None:
    """Refuse views whose poses, lenses or depths contradict each other.

            raise InputError(f"{name}: {source} is no depth map (a picture of mode {mode}); give a 16-bit grey PNG, or .npy in m")
    in front of it, that camera looks through what this one sees.

    Raises:
        InputError: such views, or several views of which none sees what another sees.
    """
    if len(scene) < 2:
        return
    apart = _outsiders(scene.views)
    if not apart:
        return
    turned = [RGBDView(view.rgb, view.depth, view.intrinsics, _AXES @ view.camera_from_world) for view in scene.views]
    if not _outsiders(turned):
        raise InputError(f'{name}: the views agree with OpenCV\'s camera axes only; add "camera_convention": "opencv" to {NAME}')
    listed_views = ", ".join(map(str, apart))
    which = "no view agrees with another" if len(apart) == len(scene) else f"view {listed_views} disagrees with the others (counted from 0)"
    raise InputError(f"{name}: {which}: the depths of one don't lie where another sees them; check poses, intrinsics and the depths' unit")


def _outsiders(views: Sequence[RGBDView]) -> list[int]:
    """Views that agree with no view of the largest group of views that agree; all of them where none agree."""
    groups = [{number} for number in range(len(views))]
    clouds = [_some_points(view) for view in views]
    for first in range(len(views)):
        for second in range(first):
            if _agree(views, clouds, first, second):
                joined = set().union(*(group for group in groups if first in group or second in group))
                groups = [group for group in groups if not group & joined] + [joined]
    largest = max(groups, key=len)
    return sorted(set(range(len(views))) - largest) if len(largest) > 1 else list(range(len(views)))


def _agree(views: Sequence[RGBDView], clouds: Sequence[Tensor], first: int, second: int) -> bool:
    """Whether two views see something in common, and seldom look through it."""
    on, through = 0, 0
    for here, there in ((first, second), (second, first)):
        view = views[there]
        pixels, z = view.project(clouds[here])
        size = torch.tensor([view.size[1], view.size[0]])
        inside = (z > 0) & (pixels >= 0).all(1) & (pixels < size).all(1)
        column, row = pixels[inside].floor().long().unbind(1)
        depth, z = view.depth[row, column], z[inside]
        slack = (0.02 * z).clamp_min(0.01)
        on += int(((depth > 0) & ((depth - z).abs() <= slack)).sum())
        through += int(((depth > 0) & (depth - z > slack)).sum())
    return on >= 50 and on >= 0.7 * (on + through)


def _some_points(view: RGBDView) -> Tensor:
    points = view.points()[view.valid]
    return points[:: max(1, len(points) // 4000)]


def _read_view(folder: Path, frame: Mapping[str, Any], name: str, events: Events) -> RGBDView:
    picture = _inside(folder, frame.get("file_path"), f"{name}: file_path", extra=".png")
    if frame.get("depth_file_path") is None:
        raise InputError(f"{name} has no depth_file_path; give a depth map, or leave the frame out")
    rgb = read_image(picture, name=name, events=events).pixels
    height, width = rgb.shape[1:]
    metres = number(frame.get("depth_unit_scale_factor", _MILLIMETRE), f"{name}: depth_unit_scale_factor", 1e-9, 1e3)
    depth = read_depth(_inside(folder, frame["depth_file_path"], f"{name}: depth_file_path"), unit=metres, name=name)
    if depth.shape != (height, width):
        _same_aspect(depth.shape[1], depth.shape[0], width, height, f"{name}: the depth map")
        events.note(f"{name}: the depth map of {depth.shape[1]}x{depth.shape[0]} was brought to the picture's {width}x{height}")
        depth = functional.interpolate(depth[None, None], (height, width), mode="nearest-exact")[0, 0]
    camera = _camera(frame, width, height, name)
    matrix = _pose(frame.get("transform_matrix"), f"{name}: transform_matrix")
    axes = choice(frame.get("camera_convention", "opengl"), f"{name}: camera_convention", ("opengl", "opencv"))
    world_from_camera = matrix @ _AXES if axes == "opengl" else matrix
    rotation, shift = world_from_camera[:3, :3], world_from_camera[:3, 3]
    camera_from_world = torch.eye(4, dtype=torch.float64)
    camera_from_world[:3, :3], camera_from_world[:3, 3] = rotation.T, -rotation.T @ shift
    return _told(name, lambda: RGBDView(rgb, depth, camera, camera_from_world))


def read_depth(path: str | os.PathLike[str], *, unit: float = _MILLIMETRE, name: str = "depth") -> Tensor:
    """A depth map in metres, float32 [H, W]; 0 where none was measured, which NaN and infinity stand for in .npy files too.

    Args:
        path: a 16-bit PNG, or .npy.
        unit: metres of one unit of whole numbers.
        name: what messages call it.

    Raises:
        InputError: a file of another kind, negative depths, no depth at all, or everything nearer than 1 mm or farther than 100 m.
    """
    source = plain_file(path, name)
    if source.suffix.lower() == ".npy":
        values = _array(source, name)
    else:
        with decoded(source, name) as picture:
            mode = "float" if picture is None else picture.mode
            if picture is None or not mode.startswith("I"):
                raise InputError(f"{name}: {source} is no depth map (a picture of mode {mode}); give 16-bit grey PNG, or .npy in metres")
            values = np.asarray(picture)
    whole = values.dtype.kind in "ui"
    metres = values.astype(np.float64) * (unit if whole else 1.0)
    metres[~np.isfinite(metres)] = 0.0
    measured = metres[metres != 0]
    if not measured.size:
        raise InputError(f"{name}: {source} holds no depth at all (only 0); give another depth map, or leave the frame out")
    if measured.min() < 0:
        raise InputError(f"{name}: {source} holds negative depths, {measured.min():g} m; write 0 where no depth was measured")
    if not ((measured >= NEAREST) & (measured <= FARTHEST)).any():
        side = "farther than 100 m" if measured.min() > FARTHEST else "nearer than 1 mm"
        told = f"{measured.min():g} to {measured.max():g} m" if measured.min() < measured.max() else f"{measured.min():g} m"
        fix = "whole numbers are millimetres, or set depth_unit_scale_factor" if whole else ".npy floats are metres"
        raise InputError(f"{name}: in {source} everything is {side} ({told}), so its unit is another; {fix}")
    return torch.from_numpy(metres.astype(np.float32))


def _array(source: Path, name: str) -> np.ndarray:
    values = mapped_array(source, name)
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise InputError(f"{name}: {source} holds no map [height, width] of numbers; save one with numpy.save")
    check_size(values.shape[1], values.shape[0], name, source)
    return values


def _inside(folder: Path, told: Any, name: str, extra: str = "") -> Path:
    """A file in the folder that an entry names."""
    path = folder / text(told, name, expected="the path of a file below the folder")
    if extra and not path.suffix and not path.exists():
        path = path.with_name(path.name + extra)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{name} names {path}, which lies outside of the folder; copy the file into it")
    return plain_file(path, name)


def _camera(frame: Mapping[str, Any], width: int, height: int, name: str) -> Tensor:
    model = text(frame.get("camera_model", "PINHOLE"), f"{name}: camera_model", most=100)
    if model not in _CAMERAS:
        raise InputError(f"{name}: the camera model is {model}, and pinhole cameras are read; undistort the pictures first")
    bent = [key for key in _DISTORTION if abs(number(frame.get(key, 0.0), f"{name}: {key}")) > 1e-6]
    if bent:
        raise InputError(f"{name}: the lens is distorted ({bent[0]} = {frame[bent[0]]:g}); undistort pictures and depths first")
    told = [number(frame.get(key, side), f"{name}: {key}", 1, 1e6) for key, side in (("w", width), ("h", height))]
    _same_aspect(told[0], told[1], width, height, f"{name}: w and h of the camera")
    scale = width / told[0], height / told[1]
    if "fl_x" in frame:
        across = number(frame["fl_x"], f"{name}: fl_x")
    elif "camera_angle_x" in frame:
        across = told[0] / 2 / math.tan(number(frame["camera_angle_x"], f"{name}: camera_angle_x", 1e-3, 3.1) / 2)
    else:
        raise InputError(f"{name}: neither fl_x nor camera_angle_x is given; write the focal length in pixels as fl_x")
    down = number(frame.get("fl_y", across), f"{name}: fl_y")
    middle = [number(frame.get(key, side / 2), f"{name}: {key}") for key, side in zip(("cx", "cy"), told, strict=True)]
    camera = torch.tensor(
        [[across * scale[0], 0, middle[0] * scale[0]], [0, down * scale[1], middle[1] * scale[1]], [0, 0, 1]], dtype=torch.float64
    )
    _told(name, lambda: check_intrinsics(camera))
    return camera


def _same_aspect(width: float, height: float, other_width: float, other_height: float, name: str) -> None:
    if abs(width * other_height - height * other_width) > 0.01 * width * other_height:
        raise InputError(
            f"{name}: {width:g}x{height:g} px for a picture of {other_width:g}x{other_height:g} px; both need one aspect ratio"
        )


def _pose(rows: Any, name: str) -> Tensor:
    values = [[number(value, name) for value in listed(row, name, most=4)] for row in listed(rows, name, most=4)]
    if len(values) == 3:
        values.append([0.0, 0.0, 0.0, 1.0])
    if len(values) != 4 or any(len(row) != 4 for row in values):
        raise InputError(f"{name} is no 4x4 matrix; give world from camera")
    matrix = torch.tensor(values, dtype=torch.float64)
    _told(name, lambda: check_rigid(matrix, _ROUNDED))
    left, _, right = torch.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = left @ right
    return matrix


def _told(name: str, made: Callable[[], T]) -> T:
    """What `made` makes; its refusals begin with a name."""
    try:
        return made()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
