"""Where the voxels of a volume lie: spacing and orientation read off the affine, and whether two volumes share one grid.

An affine takes voxel indices to world millimetres, with x to the patient's right, y to the front and z up (RAS+, as in NIfTI).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import ArrayLike

from calotype.errors import InputError, ShapeError

_FLAT = 1e-4
"""Below this share of the box that axes of their lengths could span, they are taken to lie in one plane."""


def check_affine(affine: ArrayLike, name: str = "affine") -> Float64[np.ndarray, "4 4"]:
    """The affine as float64, if voxels can be placed with it.

    Raises:
        ShapeError: it is not 4x4.
        InputError: a value is not finite, the last row is not 0 0 0 1, or the axes don't span the space.

    Example:
        >>> check_affine([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
        Traceback (most recent call last):
        calotype.errors.InputError: affine: its axes are 2, 2 and 0 mm long and don't span the space; give voxels their true size
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ShapeError(f"{name}: it has the shape {list(matrix.shape)}; an affine is [4, 4], voxel index to millimetres")
    if not np.isfinite(matrix).all():
        raise InputError(f"{name}: some of its values are NaN or infinite; an affine takes voxel indices to millimetres")
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise InputError(f"{name}: its last row is {[float(value) for value in matrix[3]]}; it must be 0, 0, 0, 1")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < _FLAT:
        told = "{:g}, {:g} and {:g}".format(*lengths)
        raise InputError(f"{name}: its axes are {told} mm long and don't span the space; give voxels their true size")
    return matrix


def spacing(affine: Float64[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Distance of neighbouring voxels along each array axis, in mm."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z


def divided(affine: Float64[np.ndarray, "4 4"], factor: Sequence[int]) -> Float64[np.ndarray, "4 4"]:
    """The affine of the grid that cuts every voxel into `factor` finer ones, per array axis: both cover the same box.

    Example:
        >>> divided(np.diag([1.0, 1, 4, 1]), (1, 1, 2))[2].tolist()
        [0.0, 0.0, 2.0, -1.0]
    """
    made: Float64[np.ndarray, "4 4"] = affine @ np.diag([*(1 / times for times in factor), 1.0])
    for axis, times in enumerate(factor):
        made[:3, 3] -= (times - 1) / 2 * made[:3, axis]
    return made


@dataclass(frozen=True)
class Orientation:
    """Which way the array's axes point, to the nearest of the patient's."""

    axes: tuple[int, int, int]
    """The array axis that runs closest to left-right, to back-front, to feet-head."""
    flipped: tuple[bool, bool, bool]
    """For each of these three, whether it runs to the left, to the back, to the feet."""

    @property
    def codes(self) -> str:
        """Where each array axis points, such as "RAS" or "LPI".

        Example:
            >>> orientation(np.diag([-2.0, 2, 2, 1])).codes
            'LAS'
        """
        letters = [""] * 3
        for world, axis in enumerate(self.axes):
            letters[axis] = ("RL", "AP", "SI")[world][self.flipped[world]]
        return "".join(letters)

    def upright(self, array: Float32[np.ndarray, "x y z"]) -> Float32[np.ndarray, "right front up"]:
        """A view of the array with its axes turned to right, front and up."""
        turned: Float32[np.ndarray, "right front up"] = array.transpose(self.axes)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]


def orientation(affine: Float64[np.ndarray, "4 4"]) -> Orientation:
    """The assignment of array axes to the patient's that agrees best with the affine's directions."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    orders = list(itertools.permutations(range(3)))
    x, y, z = max(orders, key=lambda order: sum(abs(cosines[world, axis]) for world, axis in enumerate(order)))
    return Orientation((x, y, z), (bool(cosines[0, x] < 0), bool(cosines[1, y] < 0), bool(cosines[2, z] < 0)))


@runtime_checkable
class Gridded(Protocol):
    """What has voxels in a place, such as a `Volume`."""

    @property
    def size(self) -> tuple[int, int, int]:
        """(X, Y, Z) in voxels."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis, in mm."""

    @property
    def affine(self) -> Float64[torch.Tensor, "4 4"]:
        """Voxel index to world millimetres."""


def check_same_grid(
    volume: Gridded, reference: Gridded, *, name: str = "mask", reference_name: str = "field", tolerance: float = 0.01
) -> float:
    """Refuse a volume whose voxels are not those of another one.

    Args:
        tolerance: how far apart voxels of the same index may lie, as a share of the shortest voxel side.

    Returns:
        How far apart they lie at the most, in mm.

    Raises:
        InputError: another number of voxels, or another place for them; the message says what differs.

    Example:
        >>> import torch
        >>> from calotype.imaging.types import Volume
        >>> there = Volume(torch.zeros(4, 4, 4), torch.diag(torch.tensor([1.0, 1, 2, 1], dtype=torch.float64)))
        >>> check_same_grid(Volume(torch.zeros(4, 4, 3), there.affine), there)
        Traceback (most recent call last):
        calotype.errors.InputError: mask: it has 4x4x3 voxels, field has 4x4x4; resample it to that grid
    """
    if volume.size != reference.size:
        told = "x".join(map(str, volume.size)), "x".join(map(str, reference.size))
        raise InputError(f"{name}: it has {told[0]} voxels, {reference_name} has {told[1]}; resample it to that grid")
    ours, theirs = volume.affine.numpy(), reference.affine.numpy()
    # The difference of two affines is affine: it is largest at a corner.
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, side - 1) for side in volume.size))], dtype=np.float64)
    apart = float(np.linalg.norm((corners @ (ours - theirs).T)[:, :3], axis=1).max())
    tolerance *= min(reference.spacing)
    if apart <= tolerance:
        return apart
    if not np.allclose(volume.spacing, reference.spacing, atol=tolerance):
        sizes = ["{:.4g} x {:.4g} x {:.4g}".format(*each.spacing) for each in (volume, reference)]
        differs = f"voxels of {sizes[0]} mm, {reference_name} has {sizes[1]}"
    elif orientation(ours) != orientation(theirs):
        differs = f"axes {orientation(ours).codes}, {reference_name} has {orientation(theirs).codes}"
    elif not np.allclose(ours[:3, :3], theirs[:3, :3], atol=tolerance / max(volume.size)):
        cosine = np.clip(((ours[:3, :3] / volume.spacing) * (theirs[:3, :3] / reference.spacing)).sum(axis=0), -1, 1)
        differs = f"axes that are turned by up to {np.degrees(np.arccos(cosine)).max():.3g} degrees against those of {reference_name}"
    else:
        shift = "({:.4g}, {:.4g}, {:.4g})".format(*(ours - theirs)[:3, 3])
        differs = f"voxels that are shifted by {shift} mm against those of {reference_name}"
    raise InputError(f"{name}: it has {differs}; resample it to that grid (voxels of the same index lie up to {apart:.3g} mm apart)")
