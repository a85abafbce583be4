"""QSMDiff: susceptibility maps from the field of MRI phase."""
