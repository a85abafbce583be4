"""Several masks of one picture made into one: their mean, their vote, or STAPLE, which weighs each by how well it agrees with all.

A mask is given by its probabilities, which sum to 1 over the classes. `mean` uses them as they are; `vote` and `staple` take each mask's
most probable class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError, ShapeError

FuseName = Literal["mean", "vote", "staple"]
LEAST = 1e-12
"""Of a prior or a reader's probability: no reader is taken for infallible, or one contradiction would have probability 0."""


def fuse_masks(probabilities: Float[Tensor, "masks batch classes *sides"], how: FuseName) -> Float[Tensor, "batch classes *sides"]:
    """One probability for each class and pixel out of several masks.

    Args:
        probabilities: of each mask.
        how: `mean`; `vote`: the share of masks that say so; `staple`: see `staple`, for each picture by itself.

    Returns:
        Probabilities, float32.

    Raises:
        InputError: no mask.

    Example:
        >>> masks = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7]]).view(3, 1, 2, 1)
        >>> [fuse_masks(masks, how)[0, :, 0].round(decimals=3).tolist() for how in ("mean", "vote")]
        [[0.6000000238418579, 0.4000000059604645], [0.6669999957084656, 0.3330000042915344]]
    """
    if not len(probabilities):
        raise InputError("no mask was given; fusing needs at least one")
    if how == "mean":
        return probabilities.float().mean(0)
    labels, classes = probabilities.argmax(2), probabilities.shape[2]
    if how == "vote":
        return functional.one_hot(labels, classes).movedim(-1, 2).float().mean(0)
    return torch.stack([staple(labels[:, row], classes).probability for row in range(labels.shape[1])]).to(probabilities.device)


@dataclass(frozen=True)
class Staple:
    """What STAPLE finds."""

    probability: Float[Tensor, classes * sides]
    """Of each class at each pixel."""
    readers: Float64[Tensor, "masks classes classes"]
    """How each mask reads each true class: [mask, true class, class that it says], rows sum to 1. The diagonal of a mask of two classes
    holds its specificity and its sensitivity."""
    log_likelihood: float
    """Of all masks."""
    steps: int
    """Of the expectation maximisation."""


def staple(labels: Int[Tensor, masks * sides], num_classes: int = 2, *, most_steps: int = 200, tolerance: float = 1e-9) -> Staple:
    """Simultaneous truth and performance level estimation (Warfield, Zou and Wells 2004, sections II-C and II-F), without a spatial prior.

    The truth of a pixel is hidden; each mask reads it with fixed probabilities of confusion. Expectation maximisation finds these and the
    truth together. The prior of a class is its share of all masks' pixels, and the first guess of the truth is the vote. Pixels that all
    masks read alike are one pattern, so the work grows with the patterns, not with the pixels. It is exact in float64.

    Args:
        labels: class numbers of each mask.
        num_classes: with the background.
        most_steps: of the maximisation.
        tolerance: it ends when no probability of a reader changes by more.

    Raises:
        ShapeError: no mask.
        InputError: class numbers out of range.

    Example:
        >>> reads = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]])
        >>> staple(reads).probability[1].round(decimals=2).tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    if labels.ndim < 2 or not labels.numel():
        raise ShapeError(f"the masks have the shape {list(labels.shape)}; give one or more of at least a pixel: [masks, sides]")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise InputError(f"the masks hold the classes {int(labels.min())} to {int(labels.max())}; they must lie in 0 to {num_classes - 1}")
    patterns, places, counts = torch.unique(labels.flatten(1).cpu(), dim=1, return_inverse=True, return_counts=True)
    weights = counts.double()
    said = functional.one_hot(patterns, num_classes).double()  # [masks, patterns, classes]
    prior = (said * weights[None, :, None]).sum((0, 1))
    prior = (prior / prior.sum()).clamp(min=LEAST)
    truth = said.mean(0)
    readers = torch.zeros(len(labels), num_classes, num_classes, dtype=torch.float64)
    likelihood, steps, moved = float("nan"), 0, float("inf")
    while steps < most_steps and moved > tolerance:
        before = readers
        # Maximisation: of the pixels of each true class, the share that each mask reads as each class.
        joint = torch.einsum("pt,mpc,p->mtc", truth, said, weights)
        seen = joint.sum(2, keepdim=True)
        # A class that no pixel may have leaves its readers open.
        readers = torch.where(seen > 0, joint / seen, 1 / num_classes).clamp(min=LEAST)
        # Expectation, in logarithms: a product over many masks underflows.
        logs = prior.log() + torch.einsum("mpc,mtc->pt", said, readers.log())
        likelihood = float((torch.logsumexp(logs, 1) * weights).sum())
        truth = logs.softmax(1)
        moved, steps = float((readers - before).abs().max()), steps + 1
    probability = truth[places].T.reshape(num_classes, *labels.shape[1:]).float()
    return Staple(probability, readers, likelihood, steps)
