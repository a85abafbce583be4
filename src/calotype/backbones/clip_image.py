"""Pictures as a CLIP vision encoder of the Stable Video Diffusion family expects them: antialiased resize, then CLIP's normalisation.

Both in float32 torch on the CPU, so that no image processor (and no torchvision) is needed and every device sees the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _gaussian(size: int, sigma: float) -> Tensor:
    positions = torch.arange(size, dtype=torch.float32) - size // 2
    weights = torch.exp(-positions.square() / (2 * sigma**2))
    return weights / weights.sum()


def _blur(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    reach = kernel.numel() // 2
    pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
    channels = images.shape[1]
    weight = kernel.view(shape).expand(channels, 1, *kernel.view(shape).shape[2:])
    return functional.conv2d(functional.pad(images, pad, mode="reflect"), weight, groups=channels)


def resize_antialiased(images: Float[Tensor, "batch channels height width"], size: tuple[int, int]) -> Float[Tensor, "batch channels h w"]:
    """Gaussian blur with sigma = (factor - 1) / 2 along each axis, then bicubic sampling with aligned corners.

    The rule of the SVD release, which scikit-image's `resize` also uses; diffusers' SVD pipeline applies it to pixels in [-1, 1].

    Args:
        images: float32.
        size: height and width of the result.

    Example:
        >>> import torch
        >>> resize_antialiased(torch.ones(1, 3, 8, 12), (4, 4)).shape
        torch.Size([1, 3, 4, 4])
    """
    result = images
    for axis, (given, wanted) in ((3, (images.shape[3], size[1])), (2, (images.shape[2], size[0]))):
        sigma = max((given / wanted - 1.0) / 2.0, 0.001)
        taps = int(max(4.0 * sigma, 3))
        result = _blur(result, _gaussian(taps + 1 - taps % 2, sigma), axis)
    return functional.interpolate(result, size=size, mode="bicubic", align_corners=True)


def clip_pixels(
    images: Float[Tensor, "batch 3 height width"], size: tuple[int, int], mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Float[Tensor, "batch 3 h w"]:
    """Pixels in [0, 1] to what the vision encoder takes."""
    resized = (resize_antialiased(images * 2.0 - 1.0, size) + 1.0) / 2.0
    shift, scale = (torch.tensor(tuple(values)).view(1, 3, 1, 1) for values in (mean, std))
    return (resized - shift) / scale
