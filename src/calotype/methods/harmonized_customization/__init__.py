"""Harmonized customization: the subject of one picture in the pose and scene of a prompt."""

from __future__ import annotations

from calotype.methods.harmonized_customization.method import METHOD, HarmonizedCustomization

__all__ = ["METHOD", "HarmonizedCustomization"]
