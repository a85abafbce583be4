"""Reading and copying features inside of a network, in the same `with` block as the rules on its attention."""

from __future__ import annotations

from calotype.features.rules import FeatureInject, FeatureTap
from calotype.features.taps import FeatureInfo, feature_taps

__all__ = ["FeatureInfo", "FeatureInject", "FeatureTap", "feature_taps"]
