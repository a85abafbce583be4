"""What noise does to a mask, without a network: how long a mask can be read, and the least loss that is possible.

Everything is a function of the ratio of signal to noise s = alpha / (1 - alpha) of a mask of -1 and 1.

    |epsilon - epsilon_hat|^2 = s |x0 - x0_hat|^2         the identity that links the two losses
    MMSE(s) = 1 - E tanh(s + sqrt(s) z), z ~ N(0, 1)      of one pixel that may be either with equal odds
    s MMSE(n s)                                           the least epsilon-loss of a pixel in a group of n that are known to be equal

The last one is 0 at low noise, where the mask is read from x_t, and again at high noise, where the weight s vanishes: a hump.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from calotype.core.schedule import VPSchedule
from calotype.errors import InputError

READABLE = 2.5
"""A group of n equal pixels is half readable where n s is this. A trial on objects of 12 to 19 and of 2 to 4 pixels gave 2 to 3."""
WANTED = 0.4
"""Share of the timesteps at which an advised schedule has the mask half readable."""


def signal_to_noise(schedule: VPSchedule, timesteps: ArrayLike) -> NDArray[np.float64]:
    """The ratio of signal to noise at some timesteps.

    Example:
        >>> linear = VPSchedule.of("linear", beta_start=1e-4, beta_end=0.02)
        >>> signal_to_noise(linear, [50, 300]).round(2).tolist()
        [32.28, 0.65]
    """
    sigmas = np.array([schedule.sigma(float(t)) for t in np.asarray(timesteps, dtype=np.float64).ravel()])
    return sigmas**-2.0


def binary_error(snr: ArrayLike) -> NDArray[np.float64]:
    """Least mean squared error of a pixel that is -1 or 1 with equal odds (Guo, Shamai, Verdu 2005, eq. 17), by quadrature.

    Example:
        >>> binary_error([0.0, 1.0, 10.0]).round(4).tolist()
        [1.0, 0.4496, 0.0024]
    """
    s = np.asarray(snr, dtype=np.float64)[..., None]
    if (s < 0).any():
        raise InputError("a ratio of signal to noise is below 0")
    z = np.linspace(-16.0, 16.0, 8001)
    density = np.exp(-0.5 * z**2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    # 1 - tanh u = 2 / (1 + exp 2u), which keeps its digits where the error is small.
    values = 2.0 / (1.0 + np.exp(np.clip(2 * (s + np.sqrt(s) * z), -700, 700)))
    return np.asarray((values * density).sum(-1))


def least_epsilon_loss(snr: ArrayLike, pixels: float = 1.0) -> NDArray[np.float64]:
    """Least epsilon-loss of a pixel in a group of so many that are known to be equal and may be -1 or 1.

    Example:
        >>> linear = VPSchedule.of("linear", beta_start=1e-4, beta_end=0.02)
        >>> least_epsilon_loss(signal_to_noise(linear, [100, 200, 400])).round(3).tolist()
        [0.046, 0.467, 0.193]
    """
    s = np.asarray(snr, dtype=np.float64)
    return s * binary_error(pixels * s)


def object_area(masks: Int[Tensor, count * sides]) -> float:
    """Size of the object that a pixel of the foreground is in, in pixels or voxels: the mean over all these pixels.

    Objects are connected groups of pixels of one class, diagonal neighbours not included.

    Raises:
        InputError: no mask has any foreground.

    Example:
        >>> import torch
        >>> object_area(torch.tensor([[[1, 1, 0, 1], [1, 1, 0, 0]]]))
        3.4
    """
    from scipy.ndimage import label

    total = squares = 0.0
    for mask in masks.cpu().numpy():
        for number in np.unique(mask[mask > 0]):
            found, _ = label(mask == number)
            areas = np.bincount(found.ravel())[1:].astype(np.float64)
            total += areas.sum()
            squares += (areas**2).sum()
    if not total:
        raise InputError("no mask has any foreground, so its objects have no size")
    return float(squares / total)


def predicted_half_time(area: float, schedule: VPSchedule) -> float:
    """The timestep at which an object of that size is half readable: area x s = `READABLE`.

    Example:
        >>> linear = VPSchedule.of("linear", beta_start=1e-4, beta_end=0.02)
        >>> [round(predicted_half_time(area, linear)) for area in (6.0, 180.0)]
        [345, 649]
    """
    return schedule.t((area / READABLE) ** 0.5)


def half_time(timesteps: Sequence[float], errors: Float64[Tensor, " levels"] | NDArray[np.float64]) -> float:
    """The first timestep at which an error reaches half of its last value, between the measured ones by a straight line.

    NaN where it is never below: that network has learnt nothing of masks yet.

    Args:
        timesteps: rising; the last one is where nothing is left of the mask.
        errors: of x0.

    Example:
        >>> half_time([0, 100, 200, 999], np.array([0.0, 0.2, 0.6, 0.8]))
        150.0
    """
    values = np.asarray(errors, dtype=np.float64)
    half = values[-1] / 2
    above = int(np.argmax(values >= half))
    if above == 0:
        return float("nan")
    low, high = values[above - 1], values[above]
    return float(timesteps[above - 1] + (half - low) / (high - low) * (timesteps[above] - timesteps[above - 1]))


def advised_scaling(half: float, schedule: VPSchedule, wanted: float = WANTED) -> float:
    """The input scaling b that moves the half-error timestep to a share of all timesteps: b^2 s(wanted T) = s(half).

    A mask that is readable for long gets b < 1, a harder schedule; small objects get b > 1.

    Example:
        >>> linear = VPSchedule.of("linear", beta_start=1e-4, beta_end=0.02)
        >>> [round(advised_scaling(half, linear), 2) for half in (400.0, 610.0)]
        [1.0, 0.31]
    """
    if not np.isfinite(half):
        return float("nan")
    there = schedule.sigma(wanted * schedule.num_train_timesteps)
    return there / schedule.sigma(half)
