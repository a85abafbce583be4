"""AnyV2V: a clip edited through its first frame; see `calotype.methods.anyv2v.method`."""

from __future__ import annotations

from calotype.methods.anyv2v.method import AnyV2V

METHOD = AnyV2V

__all__ = ["METHOD", "AnyV2V"]
