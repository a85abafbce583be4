"""Pictures with depth from calibrated cameras, and scenes that several of them see.

Camera axes are OpenCV's: x to the right, y down, z forwards along the optical axis. Pixel coordinates are continuous, with their origin at
the top left corner of the picture: the centre of the pixel in row i and column j is (j + 0.5, i + 0.5), and a centred camera's principal
point is (width / 2, height / 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image, described


@dataclass(frozen=True, eq=False)
class RGBDView:
    """What one calibrated camera sees.

    Raises:
        ShapeError: a tensor of another shape or type, or a depth map of another size than the picture.
        InputError: intrinsics that are no pinhole camera's, a camera pose that is no rigid motion, depths that are no numbers or negative.

    Example:
        >>> camera = torch.tensor([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]], dtype=torch.float64)
        >>> view = RGBDView(torch.zeros(3, 48, 64), torch.full((48, 64), 2.0), camera, torch.eye(4, dtype=torch.float64))
        >>> pixels, distances = view.project(torch.tensor([[0.0, 0.0, 2.0], [0.2, 0.0, 2.0]]))
        >>> pixels.tolist(), distances.tolist()
        ([[32.0, 24.0], [42.0, 24.0]], [2.0, 2.0])
    """

    rgb: Float[Tensor, "3 height width"]
    """sRGB in [0, 1]."""
    depth: Float[Tensor, "height width"]
    """Metres along the optical axis, float32; 0 where none was measured."""
    intrinsics: Float64[Tensor, "3 3"]
    """[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels."""
    camera_from_world: Float64[Tensor, "4 4"]
    """World metres to camera metres."""

    def __post_init__(self) -> None:
        Image(self.rgb)
        if self.depth.shape != self.rgb.shape[1:] or self.depth.dtype != torch.float32:
            raise ShapeError(f"a depth map was given as {described(self.depth)}; it must be float32 {list(self.rgb.shape[1:])}, in metres")
        if not bool(self.depth.isfinite().all()) or bool((self.depth < 0).any()):
            raise InputError("a depth map holds negative values or values that are no numbers; write 0 where no depth was measured")
        check_intrinsics(self.intrinsics)
        check_rigid(self.camera_from_world)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[2]

    @property
    def image(self) -> Image:
        """The picture alone."""
        return Image(self.rgb)

    @property
    def valid(self) -> Bool[Tensor, "height width"]:
        """Where a depth was measured."""
        return self.depth > 0

    @property
    def world_from_camera(self) -> Float64[Tensor, "4 4"]:
        """Camera metres to world metres."""
        rotation, shift = self.camera_from_world[:3, :3], self.camera_from_world[:3, 3]
        inverse = torch.eye(4, dtype=torch.float64)
        inverse[:3, :3], inverse[:3, 3] = rotation.T, -rotation.T @ shift
        return inverse

    @property
    def centre(self) -> Float64[Tensor, 3]:
        """Where the camera is in the world."""
        return self.world_from_camera[:3, 3]

    def project(self, points: Float[Tensor, "*rest 3"]) -> tuple[Float[Tensor, "*rest 2"], Float[Tensor, "*rest"]]:
        """Where world points are in the picture.

        Args:
            points: in metres.

        Returns:
            Pixel coordinates (x, y), and the distance along the optical axis in metres. Pixels of points at or behind the camera, whose
            distance is not positive, mean nothing.
        """
        pose, camera = self.camera_from_world.to(points), self.intrinsics.to(points)
        seen = points @ pose[:3, :3].T + pose[:3, 3]
        distances = seen[..., 2]
        plane = seen[..., :2] / torch.where(distances.abs() < 1e-9, torch.full_like(distances, 1e-9), distances)[..., None]
        pixels = torch.stack([plane[..., 0] * camera[0, 0] + camera[0, 2], plane[..., 1] * camera[1, 1] + camera[1, 2]], -1)
        return pixels, distances

    def unproject(self, pixels: Float[Tensor, "*rest 2"], distances: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest 3"]:
        """World points in metres at pixel coordinates (x, y) and distances along the optical axis."""
        pose, camera = self.world_from_camera.to(distances), self.intrinsics.to(distances)
        x = (pixels[..., 0] - camera[0, 2]) / camera[0, 0]
        y = (pixels[..., 1] - camera[1, 2]) / camera[1, 1]
        seen = torch.stack([x, y, torch.ones_like(x)], -1) * distances[..., None]
        return seen @ pose[:3, :3].T + pose[:3, 3]

    def points(self) -> Float[Tensor, "height width 3"]:
        """The world point, in metres, at the centre of every pixel; where no depth was measured, the camera's own place."""
        height, width = self.size
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return self.unproject(torch.stack([columns, rows], -1).to(self.depth), self.depth)


@dataclass(frozen=True, eq=False)
class RGBDScene:
    """Views of one scene that stands still.

    Raises:
        InputError: there is no view.
    """

    views: tuple[RGBDView, ...]

    def __post_init__(self) -> None:
        if not self.views:
            raise InputError("a scene without views was given; give one view or more")

    def __len__(self) -> int:
        return len(self.views)


def check_intrinsics(matrix: Tensor) -> None:
    """Refuse what is no pinhole camera.

    Raises:
        ShapeError: not float64 [3, 3].
        InputError: focal lengths that aren't positive numbers, skew, or another last row.
    """
    if matrix.shape != (3, 3) or matrix.dtype != torch.float64:
        raise ShapeError(f"intrinsics were given as {described(matrix)}; they must be float64 [3, 3]")
    focal = (float(matrix[0, 0]), float(matrix[1, 1]))
    if not bool(matrix.isfinite().all()) or min(focal) <= 0:
        raise InputError(f"the focal lengths are {focal[0]:g} and {focal[1]:g} px and the matrix is singular; give positive ones")
    if matrix[2].tolist() != [0.0, 0.0, 1.0] or float(matrix[1, 0]) or float(matrix[0, 1]):
        raise InputError(
            "intrinsics with skew, or with another last row than 0 0 1, were given; give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
        )


def check_rigid(matrix: Tensor, tolerance: float = 1e-6) -> None:
    """Refuse what is no rotation with a shift.

    Args:
        matrix: to be checked.
        tolerance: of each entry of the rotation times its transpose.

    Raises:
        ShapeError: not float64 [4, 4].
        InputError: no rigid motion.
    """
    if matrix.shape != (4, 4) or matrix.dtype != torch.float64:
        raise ShapeError(f"a camera pose was given as {described(matrix)}; it must be float64 [4, 4]")
    rotation = matrix[:3, :3]
    whole = bool(matrix.isfinite().all()) and matrix[3].tolist() == [0.0, 0.0, 0.0, 1.0]
    if not whole or float((rotation @ rotation.T - torch.eye(3).to(rotation)).abs().max()) > tolerance or float(rotation.det()) < 0:
        raise InputError("the camera pose is no rotation with a shift (scaled, mirrored, or its last row isn't 0 0 0 1); give a rigid one")
