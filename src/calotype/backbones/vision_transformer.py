"""The role `VisionTransformer`: a picture to a feature for each of its patches, by DINOv2 (Oquab et al. 2023, arXiv 2304.07193)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.backbones.components import Components
from calotype.backbones.source import CheckpointSource
from calotype.data.fitting import resize_pixels, working_size
from calotype.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class VisionTransformer(Protocol):
    """Gives features of patches: DINOv2, or a network of its class that was trained on other pictures."""

    role: str
    name: str
    """The name that it was loaded by."""
    size: tuple[int, int]
    """Height and width in pixels that it was trained at."""

    def patch_features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Maps that cover the pictures, which are in [0, 1]."""
        ...


class Dinov2Encoder:
    """transformers' `Dinov2Model`; see `VisionTransformer`.

    Raises:
        InputError: its config has no whole numbers as sides.
    """

    role = "VisionTransformer"

    def __init__(self, source: CheckpointSource, modules: Mapping[str, Any], *, device: torch.device) -> None:
        self.source, self.name, self.device = source, source.name, device
        self.modules = dict(modules)
        side, patch = self.vit.config.image_size, self.vit.config.patch_size
        if not all(isinstance(value, int) and value > 0 for value in (side, patch)):
            raise InputError(f"{self.name}: config.json says image_size {side!r} and patch_size {patch!r}; whole numbers are expected")
        self.size: tuple[int, int] = (side, side)

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        return cls(found.source, found.modules, device=found.device)

    @property
    def vit(self) -> Any:
        """The network."""
        return self.modules["vit"]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        return {"vit": self.vit}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        kind: torch.dtype = next(self.vit.parameters()).dtype
        return kind

    @torch.no_grad()
    def patch_features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Last layer's patch tokens after the final normalisation, float32.

        Args:
            images: in [0, 1]; each is brought to about the area that the network was trained at, its sides to multiples of a patch.

        Returns:
            A map that covers the picture: the token (i, j) is the cell (i, j).
        """
        patch: int = self.vit.config.patch_size
        size = working_size((images.shape[-2], images.shape[-1]), self.size, patch)
        return patch_features(self.vit, resize_pixels(images, size).to(self.device))


def patch_features(vit: Any, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
    """Patch tokens of a `Dinov2Model` as a map; the pictures in [0, 1] have sides that are multiples of a patch. Keeps gradients.

    Example:
        >>> import torch
        >>> from transformers import Dinov2Config, Dinov2Model
        >>> vit = Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8))
        >>> patch_features(vit, torch.rand(1, 3, 32, 64)).shape
        torch.Size([1, 8, 4, 8])
    """
    weight = next(vit.parameters())
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = ((images - mean) / std).to(weight.dtype)
    patch: int = vit.config.patch_size
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    tokens = vit(pixel_values=pixels).last_hidden_state[:, -grid[0] * grid[1] :]
    found: Tensor = tokens.transpose(1, 2).unflatten(2, grid).float()
    return found
