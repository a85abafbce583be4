"""The magnetic field of a susceptibility map: a convolution with the unit dipole, in k-space.

Tissue of susceptibility chi in a main field along the unit vector b changes the field by d * chi, where the transform of d is
D(k) = 1/3 - (k.b)^2 / |k|^2 (Salomir et al. 2003; Marques & Bowtell 2005). The 1/3 is the Lorentz correction. D vanishes on a double
cone at 54.7 degrees to b, which is what makes finding chi from the field ill-posed, and D(0) is undefined: it is set to 0, so the mean
of chi leaves no trace in the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from numpy.typing import ArrayLike
from torch import Tensor

from calotype.errors import InputError, ShapeError
from calotype.imaging.grids import check_affine, spacing
from calotype.imaging.types import described

SHEAR = 0.01
"""Largest cosine between two axes of a grid that still counts as a right angle."""


def b0_direction(affine: ArrayLike) -> tuple[float, float, float]:
    """The direction of the main field in image axes, R^T (0, 0, 1), where the patient lies along the bore.

    R holds the directions of the image axes in the scanner's frame: the affine's columns over their lengths. Whether the frame is RAS
    (NIfTI) or LPS (DICOM) doesn't matter: they differ in x and y alone.

    Args:
        affine: [4, 4], voxel index to millimetres.

    Returns:
        A unit vector whose components belong to array axes 0, 1, 2.

    Raises:
        ShapeError, InputError: see `calotype.imaging.grids.check_affine`; or the axes are not at right angles.

    Example:
        >>> b0_direction([[2, 0, 0, 0], [0, 0, 3, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
        (0.0, -1.0, 0.0)
    """
    matrix = check_affine(affine)
    axes = matrix[:3, :3] / spacing(matrix)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > SHEAR:
        raise InputError(f"the affine is sheared (cosine {shear:.2f} between two axes); resample the volume to a right-angled grid")
    x, y, z = (float(value) for value in axes[2] / np.linalg.norm(axes[2]) + 0.0)
    return x, y, z


def dipole_kernel(
    shape: Sequence[int], spacing: Sequence[float], direction: Sequence[float], *, half: bool = False
) -> Float[Tensor, "x y z"]:
    """D(k) on the grid of a discrete Fourier transform, zero frequency first.

    The frequencies k_i = n_i / (shape_i * spacing_i) are those of `fftfreq`, so the kernel is right for odd sizes too. At an even size's
    highest frequency, which stands for both signs, D is the mean over both: the field of a real map is then real, and the half-spectrum
    says all.

    Args:
        shape: of the grid.
        spacing: voxel size in mm, per axis.
        direction: of the main field in image axes; any length but 0.
        half: only the frequencies of `rfftn`, that is [X, Y, Z // 2 + 1].

    Returns:
        float64 in [-2/3, 1/3].

    Raises:
        InputError: a spacing that is not positive, a direction without length, not three numbers each.

    Example:
        >>> dipole_kernel((4, 4, 4), (1, 1, 1), (0, 0, 1))[0, 0].tolist()
        [0.0, -0.6666666666666667, -0.6666666666666667, -0.6666666666666667]
    """
    grid, sizes, b = _checked(shape, spacing, direction)
    square, product, rest = (torch.zeros(1, 1, 1, dtype=torch.float64) for _ in range(3))
    for axis, (n, size) in enumerate(zip(grid, sizes, strict=True)):
        k = (torch.fft.rfftfreq if half and axis == 2 else torch.fft.fftfreq)(n, size, dtype=torch.float64)
        k = k.reshape([-1 if axis == place else 1 for place in range(3)])
        # The highest frequency of an even size has no sign: its products with other axes cancel, its square stays.
        unsigned = (k.abs() == k.abs().max()) & (n % 2 == 0)
        square = square + k**2
        product = product + b[axis] * torch.where(unsigned, 0.0, k)
        rest = rest + b[axis] ** 2 * torch.where(unsigned, k**2, 0.0)
    square[0, 0, 0] = 1
    kernel = 1 / 3 - (product**2 + rest) / square
    kernel[0, 0, 0] = 0
    return kernel


class DipoleOperator:
    """A = M d *: the field in ppm that a susceptibility map in ppm makes, inside a mask if there is one.

    The map is surrounded by zeros before the transform, because the discrete convolution is periodic and would let the field of one
    side's tissue come in on the other. ||A|| <= 2/3.

    Args:
        shape: [X, Y, Z] of the volumes, any sizes.
        spacing: voxel size in mm, per axis.
        direction: of the main field in image axes, any length but 0; see `b0_direction`.
        padding: size of the padded grid over that of the volume, >= 1; rounded up to what is transformed fast. With 1 nothing is padded
            and the convolution is periodic.
        mask: [X, Y, Z] bool; where the field is known.
        device: of the kernel; volumes must lie there.

    Raises:
        InputError: a spacing or padding out of range, a direction without length.
        ShapeError: the mask has another shape or isn't bool.

    Example:
        >>> import torch
        >>> dipole = DipoleOperator((8, 8, 8), (1, 1, 1), (0, 0, 1))
        >>> chi = torch.zeros(8, 8, 8)
        >>> chi[3:5, 3:5, 3:5] = 1.0
        >>> field = dipole.forward(chi)
        >>> bool(field[3, 3, 6] > 0 > field[3, 6, 3])
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        direction: Sequence[float],
        *,
        padding: float = 2.0,
        mask: Bool[Tensor, "x y z"] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        grid, sizes, b = _checked(shape, spacing, direction)
        if not 1 <= padding < 16:
            raise InputError(f"padding is {padding}; it must be at least 1 (no padding) and below 16")
        self.shape, self.spacing, self.direction = grid, sizes, b
        """Sizes of the volumes; voxel size in mm; unit vector of the main field."""
        self.padded = grid if padding == 1 else _fast(grid, padding)
        """Sizes of the grid that is transformed."""
        self.device = torch.device(device)
        if mask is not None and (tuple(mask.shape) != self.shape or mask.dtype != torch.bool):
            raise ShapeError(f"the mask was given as {described(mask)}; it must be bool {list(self.shape)}, as the volume")
        self.mask = None if mask is None else mask.to(self.device)
        """Where the field is known; None: everywhere."""
        self._kernels: dict[torch.dtype, Tensor] = {}

    def kernel(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "x y half"]:
        """D(k) on the half-spectrum of the padded grid; made in float64 at the first use, and kept."""
        if dtype not in self._kernels:
            self._kernels[dtype] = dipole_kernel(self.padded, self.spacing, self.direction, half=True).to(self.device, dtype)
        return self._kernels[dtype]

    def spectrum(self, volume: Float[Tensor, "*batch x y z"]) -> Complex[Tensor, "*batch kx ky half"]:
        """The half-spectrum of volumes in their padding of zeros.

        Raises:
            ShapeError: another shape than the operator's, or neither float32 nor float64.
        """
        if tuple(volume.shape[-3:]) != self.shape or volume.dtype not in (torch.float32, torch.float64):
            raise ShapeError(
                f"a volume was given as {described(volume)}; it must be float32 or float64 [..., {', '.join(map(str, self.shape))}]"
            )
        spectrum: Tensor = torch.fft.rfftn(volume, s=self.padded, dim=(-3, -2, -1))
        return spectrum

    def volume(self, spectrum: Complex[Tensor, "*batch kx ky half"]) -> Float[Tensor, "*batch x y z"]:
        """The volumes of half-spectra, cut out of the padding."""
        x, y, z = self.shape
        whole: Tensor = torch.fft.irfftn(spectrum, s=self.padded, dim=(-3, -2, -1))
        return whole[..., :x, :y, :z]

    def convolve(self, volume: Float[Tensor, "*batch x y z"]) -> Float[Tensor, "*batch x y z"]:
        """d * volume without the mask. It is its own transpose."""
        return self.volume(self.kernel(volume.dtype) * self.spectrum(volume))

    def forward(self, chi: Float[Tensor, "*batch x y z"]) -> Float[Tensor, "*batch x y z"]:
        """The field in ppm of the main field, from chi in ppm: A chi = M (d * chi)."""
        field = self.convolve(chi)
        return field if self.mask is None else field * self.mask

    def adjoint(self, field: Float[Tensor, "*batch x y z"]) -> Float[Tensor, "*batch x y z"]:
        """A^T field = d * (M field), the transpose of `forward`."""
        return self.convolve(field if self.mask is None else field * self.mask)

    def without_mask(self) -> DipoleOperator:
        """The same convolution, known everywhere; shares the kernel."""
        other = object.__new__(DipoleOperator)
        other.__dict__.update(self.__dict__, mask=None)
        return other


def _checked(
    shape: Sequence[int], spacing: Sequence[float], direction: Sequence[float]
) -> tuple[tuple[int, int, int], tuple[float, float, float], tuple[float, float, float]]:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"a volume's shape is {list(shape)}; it must be three sizes of at least 1")
    if len(spacing) != 3 or not all(0 < size < math.inf for size in spacing):
        raise InputError(f"the voxel size is {list(spacing)}; it must be three positive numbers of millimetres")
    length = math.hypot(*direction) if len(direction) == 3 else 0.0
    if not 0 < length < math.inf:
        raise InputError(f"the direction of the main field is {list(direction)}; it must be three numbers that are not all 0")
    x, y, z = (float(value) / length for value in direction)
    return (int(shape[0]), int(shape[1]), int(shape[2])), (float(spacing[0]), float(spacing[1]), float(spacing[2])), (x, y, z)


def _fast(shape: tuple[int, int, int], padding: float) -> tuple[int, int, int]:
    from scipy.fft import next_fast_len

    x, y, z = (int(next_fast_len(math.ceil(size * padding), real=True)) for size in shape)
    return x, y, z
