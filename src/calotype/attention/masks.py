"""Masks of a picture, fitted to the tokens of a site."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from calotype.attention.sites import Site
from calotype.errors import ShapeError


class TokenMask:
    """A mask over key or query tokens, resized once per grid, device and precision.

    Args:
        values: 0 to 1, or bool: [height, width] of any size, [n, height, width] for the n rows of a role, or [tokens] as it is; at sites
            whose keys are words also [n, 1, tokens], the words of each of the n rows.

    Raises:
        ShapeError: another number of dimensions.
    """

    def __init__(self, values: Tensor) -> None:
        if values.ndim not in (1, 2, 3):
            raise ShapeError(f"the mask has the shape {list(values.shape)}; expected [height, width], [rows, height, width] or [tokens]")
        self.values = values.detach().float()
        self._fitted: dict[tuple[tuple[int, int] | None, torch.device, torch.dtype], Tensor] = {}

    def at(self, site: Site, tokens: int, rows: int, like: Tensor) -> Tensor:
        """[1 or rows, tokens], resized bilinearly to the site's grid.

        Raises:
            ShapeError: the site's tokens aren't a grid of picture places, or the mask doesn't fit the rows.
        """
        grid = None if self.values.ndim == 1 or site.kind == "cross" else site.grid
        key = (grid, like.device, like.dtype)
        if key not in self._fitted:
            self._fitted[key] = self._fit(site).to(like.device, like.dtype)
        fitted = self._fitted[key]
        if fitted.shape[1] != tokens or rows % fitted.shape[0]:
            raise ShapeError(
                f"the mask of shape {list(self.values.shape)} doesn't fit {site.name}, which has {tokens} tokens in {rows} rows a role"
            )
        return fitted if fitted.shape[0] == 1 else fitted.repeat_interleave(rows // fitted.shape[0], dim=0)

    def _fit(self, site: Site) -> Tensor:
        if self.values.ndim == 1:
            return self.values[None]
        if self.values.ndim == 3 and self.values.shape[1] == 1 and site.kind == "cross":
            return self.values[:, 0]
        if site.grid is None or site.kind != "self":
            raise ShapeError(f"a mask of a picture can't select tokens of {site.name} ({site.kind}); select sites(kind='self')")
        stack = self.values if self.values.ndim == 3 else self.values[None]
        return functional.interpolate(stack[:, None], size=site.grid, mode="bilinear", align_corners=False).flatten(1)
