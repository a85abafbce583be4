"""Style-extracting diffusion: the method and its training."""

from __future__ import annotations

from calotype.methods.style_extracting_diffusion.method import StyleExtractingDiffusion

METHOD = StyleExtractingDiffusion

__all__ = ["METHOD", "StyleExtractingDiffusion"]
