"""QSMDiff: susceptibility maps from MRI phase with a diffusion prior and the physics of the dipole field."""

from __future__ import annotations

from calotype.methods.qsmdiff.method import QSMDiff, SusceptibilityMap
from calotype.methods.qsmdiff.phase import radians_per_ppm

METHOD = QSMDiff

__all__ = ["METHOD", "QSMDiff", "SusceptibilityMap", "radians_per_ppm"]
