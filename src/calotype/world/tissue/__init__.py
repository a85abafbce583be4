"""The tissue world: stained tissue of known layout and known style, several pictures a patient, soft borders read by two annotators."""

from __future__ import annotations

from calotype.world.tissue.measuring import StyleMeasures, measure_style
from calotype.world.tissue.painting import TissuePictures, paint_tissue
from calotype.world.tissue.sampling import (
    VARIANTS,
    Blob,
    TissueLayout,
    TissueScene,
    TissueStyle,
    Variant,
    sample_layout,
    sample_style,
    sample_tissue,
)

__all__ = [
    "VARIANTS",
    "Blob",
    "StyleMeasures",
    "TissueLayout",
    "TissuePictures",
    "TissueScene",
    "TissueStyle",
    "Variant",
    "measure_style",
    "paint_tissue",
    "sample_layout",
    "sample_style",
    "sample_tissue",
]
