"""Diffusion segmentation: masks by removing noise, and the study of what that adds."""

from __future__ import annotations

from calotype.methods.diffusion_segmentation.method import METHOD, DiffusionSegmentation, Segmentation

__all__ = ["METHOD", "DiffusionSegmentation", "Segmentation"]
