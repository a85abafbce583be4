"""Views of a frame that are shifted and enlarged along each axis, and features of them brought back to where they belong.

Features of such views are what the network is controlled by in training, so that a feature means the object and not its place or size
(Davtyan et al. 2024, arXiv 2403.14368; numbers as in the official code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LEAST_SCALE, FARTHEST_SHIFT = 0.5, 0.75


@dataclass(frozen=True)
class Crops:
    """Which part of each frame is seen, in units of half a side about the middle.

    Example:
        >>> whole = Crops(torch.ones(1, 2), torch.zeros(1, 2))
        >>> picture = torch.rand(1, 3, 8, 8)
        >>> bool(torch.allclose(whole.view(picture), picture, atol=1e-6)), whole.covered((4, 4)).mean().item()
        (True, 1.0)
    """

    scale: Float[Tensor, "frames 2"]
    """Half the sides (across, down) of what is seen; 1 for a whole side."""
    shift: Float[Tensor, "frames 2"]
    """Its middle, to the right and down."""

    @staticmethod
    def drawn(uniform: Float[Tensor, "frames 4"], farthest: float = FARTHEST_SHIFT) -> Crops:
        """From numbers in [0, 1): sides of half to all of the frame, a middle up to `farthest` off."""
        return Crops(1.0 - (1.0 - LEAST_SCALE) * uniform[:, :2], farthest * (2.0 * uniform[:, 2:] - 1.0))

    def whole_where(self, chosen: Tensor) -> Crops:
        """The same, but the whole frame where `chosen` [frames] is true."""
        chosen = chosen[:, None]
        return Crops(torch.where(chosen, 1.0, self.scale), torch.where(chosen, 0.0, self.shift))

    def view(self, frames: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames 3 height width"]:
        """What is seen, at the frames' size; beyond their border it is the border's colour."""
        grid = self._grid(self.scale, self.shift, frames)
        return functional.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def paste(self, features: Float[Tensor, "frames numbers rows columns"]) -> Float[Tensor, "frames numbers rows columns"]:
        """Features of the view at the place of the frame that each cell shows; 0 where the view doesn't reach."""
        grid = self._grid(1.0 / self.scale, -self.shift / self.scale, features)
        return functional.grid_sample(features, grid, mode="nearest", padding_mode="zeros", align_corners=False)

    def covered(self, grid: tuple[int, int]) -> Float[Tensor, "frames rows columns"]:
        """1 for each cell of the frame that the view shows."""
        return self.paste(torch.ones(len(self.scale), 1, *grid, device=self.scale.device))[:, 0]

    @staticmethod
    def _grid(scale: Tensor, shift: Tensor, like: Tensor) -> Tensor:
        theta = torch.cat([torch.diag_embed(scale), shift[:, :, None]], dim=2)
        return functional.affine_grid(theta, [*like.shape], align_corners=False)
