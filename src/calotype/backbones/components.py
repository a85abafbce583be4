"""What a checkpoint is made of once it is loaded, as every adapter takes it, and what every adapter is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import nn

from calotype.backbones.source import CheckpointSource


@dataclass(frozen=True, kw_only=True)
class Components:
    """The loaded parts of a checkpoint, or of a pipeline object, and what its small files say."""

    source: CheckpointSource
    modules: Mapping[str, Any]
    """Networks and tokenizers by their names in model_index.json."""
    device: torch.device
    index: Mapping[str, Any]
    """The content of model_index.json; nothing for a folder that is one network."""
    scheduler: Mapping[str, Any]
    """Its config; nothing where there is no scheduler."""
    scheduler_class: str
    image_processor: Mapping[str, Any]
    """The config of the feature extractor; nothing where there is none."""
    max_rows: int | None
    decode_chunk_size: int | None


class Adapter(Protocol):
    """A loaded checkpoint. Beside this it has what its role asks for (`calotype.core.roles`)."""

    role: str
    """What it is for, as its layout says."""
    name: str
    """The name that it was loaded by."""
    source: CheckpointSource
    device: torch.device

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        ...

    @property
    def size(self) -> tuple[int, ...]:
        """What it was trained at: sides in pixels or voxels."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision of its weights."""
        ...

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        ...
