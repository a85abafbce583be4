"""The toy world: captioned, layered, animated scenes from a seed, painted at any size on any device, with every ground truth."""

from __future__ import annotations

from calotype.world.motion import FAMILIES, Camera, Motion
from calotype.world.painter import paint
from calotype.world.scenes import PRESETS, SPLITS, Preset, Scene, SceneObject, sample_scene

__all__ = ["FAMILIES", "PRESETS", "SPLITS", "Camera", "Motion", "Preset", "Scene", "SceneObject", "paint", "sample_scene"]
