"""StyleCineGAN: a still landscape that flows, in a loop, by warping the deep features of a StyleGAN2 generator."""

from __future__ import annotations

from calotype.methods.stylecinegan.method import Cinemagraph, Loop, StyleCineGAN
from calotype.methods.stylecinegan.motion import Motion

METHOD = StyleCineGAN

__all__ = ["METHOD", "Cinemagraph", "Loop", "Motion", "StyleCineGAN"]
