"""How well a clip closes to a loop, and how much of its pattern survives on the way round."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.metrics.block_matching import moving_detail
from calotype.metrics.pictures import rmse


def seam_ratio(clip: Float[Tensor, "frames channels height width"]) -> float:
    """Step from the last frame to the first over the mean of the steps before and after it (RMSE): 1 where the loop closes unseen.

    The clip is without a repeated first frame at its end. NaN where nothing moves beside the seam.

    Example:
        >>> ramp = torch.tensor([0.0, 0.1, 0.2, 0.1]).view(4, 1, 1, 1)
        >>> round(seam_ratio(ramp), 3), round(seam_ratio(ramp[:3]), 3)
        (1.0, 2.0)
    """
    step = float(rmse(clip[1], clip[0]) + rmse(clip[-1], clip[-2])) / 2
    return float(rmse(clip[-1], clip[0])) / step if step > 0 else float("nan")


def contrast(clip: Float[Tensor, "frames 3 height width"], mask: Bool[Tensor, "height width"]) -> Float[Tensor, " frames"]:
    """Standard deviation of the moving pattern (`moving_detail`) in the mask, over that of frame 0; NaN where frame 0 has none.

    Example:
        >>> dots = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> contrast(torch.cat([dots, dots / 2]), torch.ones(32, 32, dtype=torch.bool)).tolist()
        [1.0, 0.5]
    """
    if not bool(mask.any()):
        return torch.full((len(clip),), torch.nan)
    spread = moving_detail(clip, mask)[:, 0][:, mask].std(1, correction=0)
    return spread / torch.where(spread[0] > 0, spread[0], torch.nan)
