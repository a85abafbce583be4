"""Checkpoints and what runs them: the only room that imports diffusers and transformers or picks a device and a precision.

`load` gives a model in a role (`calotype.core.roles`). Names are imported on first use, so that looking for a checkpoint needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calotype.backbones.folder import Checkpoint, open_checkpoint
    from calotype.backbones.hub import CHECKPOINTS, Located, download, locate
    from calotype.backbones.loading import load
    from calotype.backbones.record import checkpoint_hash, describe

_HOMES = {
    "CHECKPOINTS": "hub",
    "Checkpoint": "folder",
    "Located": "hub",
    "checkpoint_hash": "record",
    "describe": "record",
    "download": "hub",
    "load": "loading",
    "locate": "hub",
    "open_checkpoint": "folder",
}

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "Located",
    "checkpoint_hash",
    "describe",
    "download",
    "load",
    "locate",
    "open_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"calotype.backbones.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'calotype.backbones' has no attribute {name!r}")
