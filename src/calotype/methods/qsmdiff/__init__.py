"""QSMDiff: susceptibility maps from MRI phase with a diffusion prior and the physics of the dipole field."""

from calotype.methods.qsmdiff.method import QSMDiff, SusceptibilityMap

__all__ = ["QSMDiff", "SusceptibilityMap"]
