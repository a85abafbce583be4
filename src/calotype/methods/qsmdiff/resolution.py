"""Coarse and fine grids of one volume: what a scanner that stops at a lower spatial frequency would have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError


class Resolution:
    """R: keep a fine volume's frequencies up to the coarse grid's highest and sample it in the middle of each block of `factor` voxels.

    A coarse voxel is the block of fine ones that it is divided into, so both grids cover the same box. `refine` is the band-limited
    interpolation, R's right inverse: lower(refine(y)) = y. Both are real matrices, one per axis.

    Args:
        coarse: sizes of the coarse volume.
        factor: fine voxels per coarse one, per axis.

    Raises:
        InputError: a factor below 1.

    Example:
        >>> import torch
        >>> r = Resolution((4, 4, 4), (1, 1, 2))
        >>> r.fine
        (4, 4, 8)
        >>> y = torch.rand(4, 4, 4)
        >>> bool((r.lower(r.refine(y)) - y).abs().max() < 1e-5)
        True
    """

    def __init__(self, coarse: Sequence[int], factor: Sequence[int], device: torch.device | str = "cpu") -> None:
        if len(factor) != 3 or min(factor) < 1:
            raise InputError(f"factor is {list(factor)}; it must be three whole numbers of at least 1")
        self.factor = tuple(factor)
        x, y, z = (size * times for size, times in zip(coarse, factor, strict=True))
        self.fine = (x, y, z)
        """Sizes of the fine volume."""
        axes = [(dim - 3, size, times) for dim, (size, times) in enumerate(zip(coarse, factor, strict=True)) if times > 1]
        self._lower = {dim: _dirichlet(size, times, 2.0).to(device) for dim, size, times in axes}
        self._refine = {dim: times * _dirichlet(size, times, 1.0).T.to(device) for dim, size, times in axes}

    def lower(self, fine: Float[Tensor, "*batch x y z"]) -> Float[Tensor, "*batch cx cy cz"]:
        """R fine."""
        return _along(fine, self._lower)

    def divide(self, coarse: Tensor) -> Tensor:
        """Each coarse voxel's value in all the fine voxels of its block, of masks say; [*batch, cx, cy, cz] to [*batch, x, y, z]."""
        for dim, times in enumerate(self.factor, start=-3):
            coarse = coarse.repeat_interleave(times, dim)
        return coarse

    def refine(self, coarse: Float[Tensor, "*batch cx cy cz"]) -> Float[Tensor, "*batch x y z"]:
        """The band-limited fine volume that goes through `coarse`."""
        return _along(coarse, self._refine)


def _along(volume: Tensor, matrices: Mapping[int, Tensor]) -> Tensor:
    for dim, matrix in matrices.items():
        volume = torch.tensordot(volume.movedim(dim, -1), matrix.T.to(volume.dtype), dims=1).movedim(-1, dim)
    return volume


def _dirichlet(coarse: int, times: int, highest: float) -> Float[Tensor, "coarse fine"]:
    """Dirichlet's kernel of the coarse grid's frequencies, at the distances of coarse and fine voxels.

    `highest` weighs the cosine of an even size's highest frequency. Sampling sees the waves of both signs there, 2; an interpolation may
    put in only half of each, 1.
    """
    fine = coarse * times
    middle = torch.arange(coarse, dtype=torch.float64)[:, None] * times + (times - 1) / 2
    distance = middle - torch.arange(fine, dtype=torch.float64)
    frequencies = torch.arange(coarse // 2 + 1, dtype=torch.float64)
    weights = torch.full_like(frequencies, 2.0)
    weights[0] = 1.0
    if coarse % 2 == 0:
        weights[-1] = highest
    return ((2 * pi / fine * distance[..., None] * frequencies).cos() * weights).sum(-1).div(fine).float()
