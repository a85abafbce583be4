"""The field that a scanner would measure of a synthetic brain: its dipoles' field, inside the brain, with noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.dipole import DipoleOperator, b0_direction
from calotype.errors import InputError
from calotype.world.brains.anatomy import Brain
from calotype.world.painting.rng import Rng
from calotype.world.scenes.sampling import SPLITS

NOISE = 74
"""Stream of the noise of one brain."""
PADDING = 3.0
"""More than any inversion pads, so that no inversion has the convolution itself to undo."""


def measured_field(
    brain: Brain,
    *,
    noise_ppm: float,
    split: str,
    seed: int,
    index: int,
    direction: Sequence[float] | None = None,
    padding: float = PADDING,
) -> Float[Tensor, "x y z"]:
    """The local field in ppm: nothing outside the brain acts on it, and nothing is known of it outside the mask.

    The noise is Gaussian and grows as the signal falls; its root mean square over the mask is `noise_ppm`. Its draws belong to the voxels
    of this volume and don't depend on `noise_ppm` or `direction`.

    Args:
        brain: what is measured; a crop counts as the whole.
        noise_ppm: 0 or more; 0.002 is a good gradient echo, 0.006 a fast one.
        split, seed, index: whose noise.
        direction: of the main field in image axes; by default the affine's.
        padding: see `DipoleOperator`.

    Returns:
        0 outside the mask.

    Raises:
        InputError: negative noise, an unknown split, a direction without length.

    Example:
        >>> import numpy as np, torch
        >>> ones, zeros = torch.ones(4, 4, 4), torch.zeros(4, 4, 4)
        >>> brain = Brain(zeros, ones, ones, zeros.long(), np.eye(4))
        >>> field = measured_field(brain, noise_ppm=0.01, split="tune", seed=0, index=0)
        >>> round(float(field.square().mean().sqrt()), 3)
        0.01
    """
    if not 0 <= noise_ppm < 10:
        raise InputError(f"the noise is {noise_ppm} ppm; it must be 0 or more, such as 0.006")
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    mask, shape = brain.mask > 0, tuple(brain.mask.shape)
    dipole = DipoleOperator(
        shape, brain.spacing, b0_direction(brain.affine) if direction is None else direction, padding=padding, mask=mask
    )
    uniform = torch.from_numpy(Rng(SPLITS[split], seed, index, NOISE).block(2, mask.numel())).clamp(min=1e-12)
    normal = (-2 * uniform[0].log()).sqrt() * torch.cos(2 * torch.pi * uniform[1])
    noise = torch.where(mask, normal.reshape(shape).float() / brain.magnitude.clamp(min=1e-3), 0)
    size = noise[mask].square().mean().sqrt() if bool(mask.any()) else torch.tensor(1.0)
    return dipole.forward(brain.susceptibility) + noise * (noise_ppm / size)
