"""Calotype: fifteen published generative-vision methods on one shared core."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from calotype.index import METHODS

__version__ = "0.1.0"

_LAZY = {
    "load": "calotype.backbones",
    "Image": "calotype.imaging.types",
    "Mask": "calotype.imaging.types",
    "Video": "calotype.imaging.types",
    "Volume": "calotype.imaging.types",
    "ImageLike": "calotype.data.images",
    "MaskLike": "calotype.data.images",
    "VideoLike": "calotype.data.videos",
    "VolumeLike": "calotype.data.volumes",
    "word_mask": "calotype.methods.ovam",
    **{name: module for module, _, name in (row.target.partition(":") for row in METHODS.values() if row.target)},
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Import torch and diffusers only when something that needs them is asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'calotype' has no attribute {name!r}")
