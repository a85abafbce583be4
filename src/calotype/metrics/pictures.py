"""Distances between pictures and between clips. Pixels are sRGB in [0, 1]."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PSNR_CAP_DB = 99.0
"""Equal pictures have this many decibels, so that a mean over pictures stays finite."""


def rmse(
    picture: Float[Tensor, "*batch channels height width"], truth: Float[Tensor, "*batch channels height width"]
) -> Float[Tensor, "*batch"]:
    """Root mean square difference of each picture from its truth, in the pixels' unit.

    Example:
        >>> import torch
        >>> rmse(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)).tolist()
        [0.5, 0.5]
    """
    return (picture.double() - truth.double()).square().mean(dim=(-3, -2, -1)).sqrt().float()


def psnr(
    picture: Float[Tensor, "*batch channels height width"], truth: Float[Tensor, "*batch channels height width"]
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio of each picture in dB for a peak of 1, at most `PSNR_CAP_DB`.

    Example:
        >>> import torch
        >>> psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)).tolist()
        [20.0]
    """
    return (-20.0 * rmse(picture, truth).log10()).clamp(max=PSNR_CAP_DB)


def psnr_within(picture: Float[Tensor, channels * space], truth: Float[Tensor, channels * space], mask: Bool[Tensor, "*space"]) -> float:
    """PSNR over the pixels of a mask, in dB for a peak of 1, at most `PSNR_CAP_DB`; NaN where the mask is empty.

    Example:
        >>> import torch
        >>> psnr_within(torch.zeros(3, 1, 1), torch.full((3, 1, 1), 0.1), torch.ones(1, 1, dtype=torch.bool))
        20.0
    """
    if not bool(mask.any()):
        return math.nan
    error = float((picture - truth)[:, mask].double().square().mean())
    return PSNR_CAP_DB if error < 10 ** (-PSNR_CAP_DB / 10) else round(min(-10 * math.log10(error), PSNR_CAP_DB), 6)


def flicker(
    clip: Float[Tensor, "frames channels height width"],
    reference: Float[Tensor, "frames channels height width"],
    background: Bool[Tensor, "frames height width"],
) -> float:
    """How much more the background of `clip` changes from frame to frame than that of `reference`, in the pixels' unit.

    The mean absolute difference of consecutive frames over the pixels that are background in both, minus the same number of `reference`.
    With the autoencoder's reconstruction of the true clip as the reference, what remains is the video model's own flicker. NaN where no
    pixel is background in two consecutive frames.

    Args:
        clip: pixels in [0, 1].
        reference: pixels in [0, 1].
        background: True where the true clip shows background.
    """
    both = (background[1:] & background[:-1])[:, None].expand_as(clip[1:])
    if not bool(both.any()):
        return float("nan")
    change = (clip[1:] - clip[:-1]).abs()[both].mean() - (reference[1:] - reference[:-1]).abs()[both].mean()
    return float(torch.as_tensor(change))
