"""How well a mask or a soft map finds a region."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def iou(mask: Bool[Tensor, "height width"], truth: Bool[Tensor, "height width"]) -> float:
    """Intersection over union, 0 to 1; two empty masks have 1.

    Example:
        >>> iou(torch.tensor([[True, True]]), torch.tensor([[True, False]]))
        0.5
    """
    either = int((mask | truth).sum())
    return float((mask & truth).sum()) / either if either else 1.0


def area_under_curve(values: Float[Tensor, "height width"], truth: Bool[Tensor, "height width"]) -> float:
    """Area under the ROC curve: how often a pixel inside has a larger value than one outside, ties counted half; 0.5 is chance.

    NaN where the region is empty or everything.

    Example:
        >>> area_under_curve(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[True, False, True]]))
        1.0
    """
    inside = truth.flatten()
    positive, negative = int(inside.sum()), int((~inside).sum())
    if not positive or not negative:
        return float("nan")
    _, places, counts = torch.unique(values.flatten().double(), return_inverse=True, return_counts=True)
    ends = counts.cumsum(0)
    ranks = (ends - (counts - 1) / 2)[places]
    return float((ranks[inside].sum() - positive * (positive + 1) / 2) / (positive * negative))
