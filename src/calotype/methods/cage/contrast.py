"""Control features learnt from plain frames: a part of the picture looks like itself in another view, and like nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.methods.cage.crops import Crops

CELLS = 16
"""Of each frame that are compared."""
TEMPERATURE = 0.1
_LEAST_TEXTURE = 0.05
"""What is added to the standard deviation of a cell's pixels, by which cells are chosen."""


def contrast(
    features: Callable[[Tensor], Tensor], frames: Float[Tensor, "frames 3 height width"], views: tuple[Crops, Crops],
    choice: Float[Tensor, "frames rows columns"],
) -> Float[Tensor, ""]:  # fmt: skip
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4) in both directions, over the chosen cells of all frames.

    Args:
        features: of pictures, on the grid of `choice`.
        frames: in [-1, 1].
        views: two views of each frame.
        choice: numbers in (0, 1) by which cells that both views show are drawn, textured ones more often.
    """
    grid = (choice.shape[1], choice.shape[2])
    pasted = [functional.normalize(view.paste(features(view.view(frames)).float()), dim=1).flatten(2) for view in views]
    shown = (views[0].covered(grid) * views[1].covered(grid)).flatten(1)
    side = (frames.shape[2] // grid[0], frames.shape[3] // grid[1])
    cells = frames[:, :, : side[0] * grid[0], : side[1] * grid[1]].unfold(2, side[0], side[0]).unfold(3, side[1], side[1])
    texture = cells.permute(0, 2, 3, 1, 4, 5).flatten(3).std(-1).flatten(1) + _LEAST_TEXTURE
    order = (texture * shown + 1e-9).log() - (-choice.flatten(1).clamp(1e-6, 1 - 1e-6).log()).log()
    picked = order.topk(min(CELLS, order.shape[1]), dim=1).indices
    valid = shown.gather(1, picked).flatten() > 0
    first, second = (each.gather(2, picked[:, None].expand(-1, each.shape[1], -1)).transpose(1, 2).flatten(0, 1)[valid] for each in pasted)
    scores = first @ second.T / TEMPERATURE
    same = torch.arange(len(scores), device=scores.device)
    return (functional.cross_entropy(scores, same) + functional.cross_entropy(scores.T, same)) / 2
