"""CMD: clips from captions through a content frame and motion; see `calotype.methods.cmd.method`."""

from __future__ import annotations

from calotype.methods.cmd.method import CMD

METHOD = CMD

__all__ = ["CMD", "METHOD"]
