"""The grid that is sampled on: the user's volume turned upright, brought to the prior's voxels where they differ, cut to the brain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError
from calotype.imaging.grids import divided, orientation
from calotype.imaging.nifti import divided_header, kept_affine
from calotype.imaging.types import Volume

SAME = 0.2
"""Voxels whose sides differ by less than this share from the prior's are taken as they are."""


def finer_grid(volume: Volume, factor: Sequence[int]) -> Volume:
    """An empty volume in ppm on the grid that cuts every voxel into `factor` finer ones, with the placements and codes of the header."""
    affine, header = divided(volume.affine.numpy(), factor), b""
    if volume.header and np.array_equal(kept_affine(volume.header), volume.affine.numpy()):
        header = divided_header(volume.header, factor)
        affine = kept_affine(header)
    size = [side * times for side, times in zip(volume.size, factor, strict=True)]
    return Volume(torch.zeros(size), torch.from_numpy(affine), "ppm", header)


class WorkingGrid:
    """The way there and back. There, axes run right, front, up, as in what priors are trained on.

    Args:
        mask: [X, Y, Z] bool, the brain in the order of the file's axes.
        affine: of the file.
        spacing: voxel size in mm to work at, along right, front, up; sides that are nearly so already are left as they are.
        least: shortest sides of the working grid, in voxels.
        factor: fine voxels per voxel of the file, per axis of the file; then nothing is resampled.
        same: what share sides may differ by and count as nearly so.

    Raises:
        InputError: the mask is empty.
    """

    def __init__(
        self,
        mask: Bool[Tensor, "x y z"],
        affine: Float[Tensor, "4 4"],
        *,
        spacing: Sequence[float],
        least: Sequence[int],
        factor: tuple[int, int, int] = (1, 1, 1),
        same: float = SAME,
    ) -> None:
        if not bool(mask.any()):
            raise InputError("mask: it is empty; give the brain's voxels")
        found = orientation(affine.numpy())
        self._axes, self._flipped = found.axes, found.flipped
        own = np.linalg.norm(affine.numpy()[:3, :3], axis=0)
        sizes = [own[axis] for axis in self._axes]
        self.factor = tuple(factor[axis] for axis in self._axes)
        """Fine voxels per voxel, along right, front, up."""
        self._whole = [mask.shape[axis] for axis in self._axes]
        counts = list(self._whole)
        if self.factor == (1, 1, 1):
            counts = [
                count if abs(size / wanted - 1) <= same else max(2, round(count * size / wanted))
                for count, size, wanted in zip(self._whole, sizes, spacing, strict=True)
            ]
        self._counts = counts
        self.resampled = counts != self._whole
        self.spacing = tuple(float(size * whole / count) for size, whole, count in zip(sizes, self._whole, counts, strict=True))
        """Voxel size in mm of the measurement on the working grid."""
        inside = torch.nonzero(self._resample(self._upright(mask.float())) >= 0.5)
        if not len(inside):
            raise InputError(f"mask: nothing is left of it at voxels of {_told(self.spacing)} mm; give the brain's voxels")
        low, high = inside.min(0).values.tolist(), (inside.max(0).values + 1).tolist()
        self._box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        cut = [last - first for first, last in zip(low, high, strict=True)]
        shortest = [-(-side // times) for side, times in zip(least, self.factor, strict=True)]
        self.shape = tuple(max(side, short) for side, short in zip(cut, shortest, strict=True))
        """Of the measurement on the working grid."""
        self._cut = cut

    def direction(self, b0: Sequence[float]) -> tuple[float, float, float]:
        """A direction in the file's axes, in the working grid's."""
        x, y, z = (-b0[axis] if flip else b0[axis] for axis, flip in zip(self._axes, self._flipped, strict=True))
        return float(x), float(y), float(z)

    def enter(self, values: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"]) -> tuple[Tensor, Tensor]:
        """Values and mask of the file on the working grid; values are averaged over what lies in the mask, 0 outside."""
        inside = mask.float()
        share = self._resample(self._upright(inside))
        summed = self._resample(self._upright(values * inside))
        known = share >= 0.5
        made = torch.where(known, summed / share.clamp(min=1e-6), torch.zeros(()))
        return self._pad(made[self._box]), self._pad(known[self._box])

    def leave(self, values: Float[Tensor, "x y z"], *, fine: bool = False) -> Float[Tensor, "x y z"]:
        """Back on the file's grid, or on the one that is `factor` times finer; 0 outside the box."""
        times = self.factor if fine else (1, 1, 1)
        whole = values.new_zeros([count * by for count, by in zip(self._counts, times, strict=True)])
        box = tuple(slice(part.start * by, part.stop * by) for part, by in zip(self._box, times, strict=True))
        whole[box] = values[tuple(slice(0, side * by) for side, by in zip(self._cut, times, strict=True))]
        if self.resampled:
            whole = functional.interpolate(whole[None, None], size=self._whole, mode="trilinear", align_corners=False)[0, 0]
        back = whole.flip([dim for dim, flip in enumerate(self._flipped) if flip])
        return back.permute([self._axes.index(axis) for axis in range(3)]).contiguous()

    def _upright(self, values: Tensor) -> Tensor:
        return values.permute(self._axes).flip([dim for dim, flip in enumerate(self._flipped) if flip])

    def _resample(self, values: Tensor) -> Tensor:
        """Mean over the finer voxels, or linear between coarser ones."""
        shrunk = [min(count, whole) for count, whole in zip(self._counts, self._whole, strict=True)]
        made = values[None, None]
        if shrunk != self._whole:
            made = functional.interpolate(made, size=shrunk, mode="area")
        if shrunk != self._counts:
            made = functional.interpolate(made, size=self._counts, mode="trilinear", align_corners=False)
        return made[0, 0]

    def _pad(self, values: Tensor) -> Tensor:
        added = [side - cut for side, cut in zip(self.shape, self._cut, strict=True)]
        return functional.pad(values, [part for more in reversed(added) for part in (0, more)])


def _told(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:.3g}" for side in sides)
