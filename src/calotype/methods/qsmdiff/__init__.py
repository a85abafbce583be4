"""QSMDiff: susceptibility maps from MRI phase with a diffusion prior and the physics of the dipole field."""

from calotype.methods.qsmdiff.method import QSMDiff, SusceptibilityMap
from calotype.methods.qsmdiff.phase import radians_per_ppm

__all__ = ["QSMDiff", "SusceptibilityMap", "radians_per_ppm"]
