"""Scenes whose captions tell the motion: frozen descriptions from a seed, painted by the world's painter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calotype.errors import InputError
from calotype.world.painting.backgrounds import make_background
from calotype.world.painting.motion import Motion
from calotype.world.painting.rng import Rng
from calotype.world.painting.shapes import CATEGORIES
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.sampling import PRESETS, SPLITS, Scene

DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Unit steps to the right and downwards."""
SPEEDS: tuple[float, ...] = (14.0, 28.0)
"""Lengths of the whole path in pixels at 64 px: 2 or 4 pixels a frame in a clip of 8."""
Variant = Literal["straight", "diagonal", "crossing"]
VARIANTS: tuple[Variant, ...] = ("straight", "diagonal", "crossing")
"""One object along an axis; one object along a diagonal; two objects with opposite motion on one row or column."""

_STREAM = 15
"""Keeps these scenes apart from those of `sample_scene`."""
_RADIUS = {"straight": (12.0, 15.0), "diagonal": (12.0, 15.0), "crossing": (12.0, 13.0)}
_INSIDE = 0.9
"""The centre keeps this many radii away from the picture's edge."""


@dataclass(frozen=True, kw_only=True)
class MovingScene(Scene):
    """A clip whose caption tells its motion, such as `a red ball on grass moving left`.

    It is a `Scene`, so `calotype.world.paint` and `calotype.world.ground_truth` (masks, places, clean ground) take it.

    >>> scene = sample_moving(split="eval", seed=1, index=0)
    >>> scene.caption, scene.direction
    ('an orange rocket on grass moving down', 'down')
    """

    directions: tuple[str, ...] = ()
    """Where each object goes, from the hindmost to the foremost: `left`, `right`, `up`, `down`, or for a diagonal `up-left` and so on."""

    @property
    def direction(self) -> str:
        """Where the object goes that the caption names first."""
        return self.directions[self.mentions[0]]

    @property
    def caption(self) -> str:
        """What is there, on what ground, and how it moves; with two objects their directions in the order of their names."""
        ways = " and ".join(self.directions[number].replace("-", " and ") for number in self.mentions)
        return f"{' '.join(self._caption_words()[0])} moving {ways}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MovingScene:
        """The scene that `to_dict` described."""
        made = super().from_dict({**values, "directions": tuple(values["directions"])})
        assert isinstance(made, MovingScene)
        return made


def sample_moving(
    *, split: str = "train", seed: int = 0, index: int = 0, num_frames: int = 8, variant: Variant = "straight"
) -> MovingScene:
    """Moving scene number `index` of a split: the same description on every machine.

    The objects, colours and grounds are those of the preset `small`. A path is straight, has one of two lengths and stays in the picture;
    an object with a nose goes nose-first.

    Args:
        split: `train`, `tune` or `eval`; the three never share a scene.
        seed: number of the stream, >= 0.
        index: number of the scene in it, >= 0.
        num_frames: frames that the clip is meant to have, 2 or more; `paint` can make any number.
        variant: `straight`, `diagonal` or `crossing`.

    Raises:
        InputError: an unknown name or a number out of range.

    >>> sample_moving(split="eval", seed=1, index=3, variant="diagonal").caption
    'a green ball at night moving down and left'
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if variant not in VARIANTS:
        raise InputError(f"there is no variant {variant!r}; choose one of: {', '.join(VARIANTS)}")
    if seed < 0 or index < 0 or num_frames < 2:
        raise InputError(f"seed and index must be 0 or more and num_frames 2 or more, not {seed}, {index} and {num_frames}")
    world, rng = PRESETS["small"], Rng(SPLITS[split], seed, index, _STREAM + VARIANTS.index(variant))
    ground = make_background(rng.choice(world.backgrounds), rng)
    path = rng.choice(SPEEDS) / 64.0
    directions = _directions(rng, variant)
    middle = rng.next(), rng.next()
    radius = rng.between(*(length / 64.0 for length in _RADIUS[variant]))
    things: list[SceneObject] = []
    for direction in directions:
        category, colour = rng.choice(world.categories), rng.choice(world.colours)
        while things and things[0].words == (category, colour):
            category, colour = rng.choice(world.categories), rng.choice(world.colours)
        attitude, mirrored = rng.next(), rng.chance(0.5)
        thing = SceneObject(category=category, colour=colour, x=0.5, y=0.5, radius=radius)
        length = max(SPEEDS) / 64.0 if variant == "crossing" else path
        things.append(_placed(thing, direction, length, middle, 2.0 * attitude - 1.0, mirrored, scaled=True))
    mentions = list(range(len(things)))
    if rng.chance(0.5):
        mentions.reverse()
    return MovingScene(
        objects=tuple(things), background=ground, num_frames=num_frames, mentions=tuple(mentions), directions=directions,
        preset="small", split=split, seed=seed, index=index,
    )  # fmt: skip


def redirected(scene: MovingScene, direction: str) -> MovingScene:
    """The same object on the same ground, moving in another direction through the same middle of its path (or as near as stays inside).

    >>> redirected(sample_moving(split="eval", seed=1, index=0), "up").caption
    'an orange rocket on grass moving up'
    """
    (thing,) = scene.objects
    motion = thing.motion
    middle = thing.x + motion.dx / 2.0, thing.y + motion.dy / 2.0
    tilt = CATEGORIES[thing.category].tilt
    attitude = thing.angle / tilt if tilt else 0.0
    placed = _placed(thing, direction, math.hypot(motion.dx, motion.dy), middle, attitude, thing.flip, scaled=False)
    return dataclasses.replace(scene, objects=(placed,), directions=(direction,))


def _directions(rng: Rng, variant: Variant) -> tuple[str, ...]:
    """A direction for each object."""
    first, second = rng.choice(tuple(DIRECTIONS)), rng.choice(("left", "right"))
    if variant == "diagonal":
        return (f"{'up' if first in ('left', 'up') else 'down'}-{second}",)
    if variant == "crossing":
        opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
        return first, opposite[first]
    return (first,)


def _placed(
    thing: SceneObject, direction: str, length: float, middle: tuple[float, float], attitude: float, mirrored: bool, *, scaled: bool
) -> SceneObject:
    """The object on a straight path through `middle`, in sides; `scaled`: `middle` runs from 0 to 1 over the places where the path fits."""
    ways = [DIRECTIONS[word] for word in direction.split("-")]
    dx, dy = (length * sum(way[axis] for way in ways) / math.sqrt(len(ways)) for axis in (0, 1))
    at = []
    for place, move in zip(middle, (dx, dy), strict=True):
        edge = min(_INSIDE * thing.radius + abs(move) / 2.0, 0.5)
        at.append(edge + (1.0 - 2.0 * edge) * place if scaled else min(max(place, edge), 1.0 - edge))
    category = CATEGORIES[thing.category]
    angle = math.atan2(dy, dx) if category.directed else category.tilt * attitude
    return dataclasses.replace(
        thing,
        x=round(at[0] - dx / 2.0, 5),
        y=round(at[1] - dy / 2.0, 5),
        angle=round(angle, 5),
        flip=mirrored and not category.directed,
        motion=Motion(family="directed" if category.directed else "straight", dx=round(dx, 5), dy=round(dy, 5)),
    )
