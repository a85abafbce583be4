"""UMed: segmentation data sets that can be published and not trained on."""

from __future__ import annotations

from calotype.methods.umed.method import Protection, UMed

METHOD = UMed

__all__ = ["METHOD", "Protection", "UMed"]
