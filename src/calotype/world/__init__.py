"""The toy world: captioned, layered, animated scenes from a seed, painted at any size on any device, with every ground truth."""

from __future__ import annotations

from calotype.world.painting.motion import FAMILIES, Camera, Motion
from calotype.world.painting.painter import paint
from calotype.world.scenes.dataset import write_dataset
from calotype.world.scenes.edits import (
    camera_shifted,
    camera_zoomed,
    flipped,
    moved,
    recoloured,
    reordered,
    replaced,
    resized,
    restyled,
    rotated,
    stilled,
    with_background,
    without,
)
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.recogniser import Found, Recognition, recognise
from calotype.world.scenes.recogniser_accuracy import recogniser_accuracy
from calotype.world.scenes.sampling import PRESETS, SPLITS, Preset, Scene, sample_scene
from calotype.world.scenes.truth import GroundTruth, ground_truth

__all__ = [
    "FAMILIES",
    "PRESETS",
    "SPLITS",
    "Camera",
    "Found",
    "GroundTruth",
    "Motion",
    "Preset",
    "Recognition",
    "Scene",
    "SceneObject",
    "camera_shifted",
    "camera_zoomed",
    "flipped",
    "ground_truth",
    "moved",
    "paint",
    "recognise",
    "recogniser_accuracy",
    "recoloured",
    "reordered",
    "replaced",
    "resized",
    "restyled",
    "rotated",
    "sample_scene",
    "stilled",
    "with_background",
    "without",
    "write_dataset",
]
