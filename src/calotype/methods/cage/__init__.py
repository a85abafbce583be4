"""CAGE: parts of pictures composed and moved by their features, in a video model that was trained on clips without annotations."""

from __future__ import annotations

from calotype.methods.cage.method import CAGE, Composition

METHOD = CAGE

__all__ = ["CAGE", "METHOD", "Composition"]
