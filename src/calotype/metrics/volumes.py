"""Distances between susceptibility maps, in the brain mask.

The field doesn't tell the mean of a map, so every number here is taken after both maps lost their mean inside the mask. Maps are in ppm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calotype.core.dipole import DipoleOperator
from calotype.errors import InputError, MissingError, ShapeError

LOG_SIGMA, LOG_RADIUS = 1.5, 7
"""Of the Laplacian of a Gaussian in `hfen`, in voxels: a kernel of 15^3."""
SSIM_SIGMA, SSIM_SIZE, SSIM_K1, SSIM_K2 = 1.5, 11, 0.01, 0.03
"""Constants of `ssim`: Gaussian window in voxels, and those of Wang et al. 2004."""
CONE = 0.1
"""|D| below which a frequency belongs to the cone."""


def nrmse_percent(chi: Float[Tensor, "x y z"], truth: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"]) -> float:
    """Root mean square error in % of the truth's standard deviation; a constant map has 100.

    Raises:
        ShapeError: shapes differ.
        InputError: the mask is empty, or the truth is constant in it.

    Example:
        >>> import torch
        >>> truth = torch.arange(8.0).reshape(2, 2, 2)
        >>> everywhere = torch.ones(2, 2, 2, dtype=torch.bool)
        >>> round(nrmse_percent(0.5 * truth + 3, truth, everywhere), 3)
        50.0
    """
    found, expected = _pair(chi, truth, mask)
    return float(100 * (found - expected).norm() / _positive(expected.norm()))


def hfen(chi: Float[Tensor, "x y z"], truth: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"]) -> float:
    """High-frequency error norm in %: the error of the Laplacian of a Gaussian, over the truth's (Ravishankar & Bresler 2011).

    The filter (sigma 1.5 voxels, 15^3) goes over the maps set to 0 outside the mask; the norms are taken inside. A constant map has 100.

    Raises:
        ShapeError: shapes differ.
        InputError: the mask is empty, or the truth has no detail in it.
    """
    from scipy.ndimage import gaussian_laplace

    found, expected = _pair(chi, truth, mask)
    inside = mask.cpu().numpy()

    def detail(volume: Tensor) -> Tensor:
        edges = gaussian_laplace(volume.cpu().numpy(), LOG_SIGMA, mode="constant", radius=LOG_RADIUS)
        return torch.from_numpy(edges[inside])

    reference = detail(expected)
    return float(100 * (detail(found) - reference).norm() / _positive(reference.norm()))


def ssim(
    chi: Float[Tensor, "x y z"], truth: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"], *, data_range: float | None = None
) -> float:
    """Mean structural similarity over the mask, in 3-D (MONAI's; a Gaussian window of 1.5 voxels, 11^3, K1 0.01, K2 0.03).

    Args:
        data_range: the truth's largest less its smallest value in the mask by default.

    Raises:
        ShapeError: shapes differ.
        InputError: the mask is empty, or the truth is constant in it.
        MissingError: MONAI is not installed.
    """
    try:
        from monai.metrics.regression import compute_ssim_and_cs
    except ImportError as error:
        raise MissingError('SSIM of volumes needs MONAI, which is not installed; run: pip install "calotype[medical]"') from error
    found, expected = _pair(chi, truth, mask)
    span = float(_positive(expected[mask].max() - expected[mask].min())) if data_range is None else data_range
    # Windows that reach over the border see zeros, as they do outside the mask.
    first, second = (torch.nn.functional.pad(volume[None, None].float(), [SSIM_SIZE // 2] * 6) for volume in (found, expected))
    similarity, _ = compute_ssim_and_cs(first, second, 3, [SSIM_SIZE] * 3, [SSIM_SIGMA] * 3, span, k1=SSIM_K1, k2=SSIM_K2)
    return float(similarity[0, 0][mask].mean())


def roi_slope(chi: Float[Tensor, "x y z"], truth: Float[Tensor, "x y z"], labels: Int[Tensor, "x y z"]) -> float:
    """Slope of the least-squares line through the means of the regions, the map's over the truth's; 1 for a faithful map.

    The line has an intercept, so a constant doesn't count. NaN with fewer than two regions or where all have the same true mean.

    Args:
        chi: a map.
        truth: the true map.
        labels: region of each voxel; 0 is none.

    Raises:
        ShapeError: shapes differ.

    Example:
        >>> import torch
        >>> truth = torch.tensor([0.0, 0.1, 0.2]).reshape(3, 1, 1)
        >>> round(roi_slope(0.8 * truth + 0.5, truth, torch.tensor([1, 2, 3]).reshape(3, 1, 1)), 3)
        0.8
    """
    if not chi.shape == truth.shape == labels.shape:
        raise ShapeError(
            f"the shapes are {list(chi.shape)} (map), {list(truth.shape)} (truth), {list(labels.shape)} (labels); use equal ones"
        )
    regions = [labels == number for number in np.unique(labels.cpu().numpy()).tolist() if number != 0]
    x, y = (np.array([float(volume.double()[region].mean()) for region in regions]) for volume in (truth, chi))
    spread = x - x.mean() if len(x) > 1 else np.zeros(1)
    power = float(spread @ spread)
    return float(spread @ (y - y.mean())) / power if power > 0 else float("nan")


def cone_energy(
    chi: Float[Tensor, "x y z"],
    truth: Float[Tensor, "x y z"],
    mask: Bool[Tensor, "x y z"],
    spacing: Sequence[float],
    direction: Sequence[float],
) -> float:
    """Streak energy: the power of the error at the frequencies that the field hardly shows (|D| < 0.1), over the truth's there.

    A constant map has 1. Both maps are 0 outside the mask and padded to twice their size.

    Args:
        chi: a map.
        truth: the true map.
        mask: the brain.
        spacing: voxel size in mm.
        direction: of the main field in image axes; see `calotype.core.dipole.b0_direction`.

    Raises:
        ShapeError: shapes differ.
        InputError: the mask is empty or the truth constant in it; see `DipoleOperator`.
    """
    found, expected = _pair(chi, truth, mask)
    dipole = DipoleOperator(tuple(truth.shape), spacing, direction, device=truth.device)
    cone = dipole.kernel(torch.float64).abs() < CONE
    # A column of the half-spectrum stands for two, but for the first and, if the size is even, the last.
    twice = torch.full((cone.shape[-1],), 2.0, dtype=torch.float64, device=cone.device)
    twice[0] = 1
    if dipole.padded[-1] % 2 == 0:
        twice[-1] = 1

    def power(volume: Tensor) -> Tensor:
        return (dipole.spectrum(volume).abs().square() * cone * twice).sum()

    return float(power(found - expected) / _positive(power(expected)))


def _pair(chi: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in float64 without their mean in the mask, 0 outside."""
    if not chi.shape == truth.shape == mask.shape or mask.dtype != torch.bool:
        raise ShapeError(
            f"the shapes are {list(chi.shape)} (map), {list(truth.shape)} (truth), {list(mask.shape)} (mask, bool); use equal ones"
        )
    if not bool(mask.any()):
        raise InputError("the mask is empty; it must hold at least one voxel")
    first, second = (torch.where(mask, volume.double() - volume.double()[mask].mean(), 0.0) for volume in (chi, truth))
    return first, second


def _positive(value: Tensor) -> Tensor:
    if not float(value) > 1e-12:
        raise InputError("the true map is constant inside the mask, so no error can be measured against it")
    return value
