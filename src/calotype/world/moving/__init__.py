"""The moving world: clips of one object on a still ground that goes left, right, up or down, with captions that say so, and their judge."""

from __future__ import annotations

from calotype.world.moving.judging import SeenClip, judge_accuracy, judge_clips
from calotype.world.moving.sampling import (
    DIRECTIONS,
    SPEEDS,
    VARIANTS,
    MovingScene,
    Variant,
    redirected,
    sample_moving,
)

__all__ = [
    "DIRECTIONS",
    "SPEEDS",
    "VARIANTS",
    "MovingScene",
    "SeenClip",
    "Variant",
    "judge_accuracy",
    "judge_clips",
    "redirected",
    "sample_moving",
]
