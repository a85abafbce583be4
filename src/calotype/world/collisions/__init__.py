"""The collisions world: clips of one to three sprites that bounce off the edges and off each other, without captions."""

from __future__ import annotations

from calotype.world.collisions.judging import FoundSprite, judge_accuracy, locate_sprites, recognise_sprites
from calotype.world.collisions.painting import paint_bouncing, sprite_masks
from calotype.world.collisions.sampling import (
    IDENTITIES,
    SIDE,
    BouncingScene,
    Sprite,
    sample_bouncing,
)

__all__ = [
    "IDENTITIES", "SIDE", "BouncingScene", "FoundSprite", "Sprite", "judge_accuracy", "locate_sprites", "paint_bouncing",
    "recognise_sprites", "sample_bouncing", "sprite_masks",
]  # fmt: skip
