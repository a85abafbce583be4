"""Scenes of sprites that bounce off the picture's edges and off each other: frozen descriptions from a seed, and where everything is."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from calotype.errors import InputError
from calotype.world.painting.rng import Rng
from calotype.world.scenes.sampling import SPLITS

IDENTITIES: tuple[tuple[str, str], ...] = (
    ("ball", "red"),
    ("star", "yellow"),
    ("house", "blue"),
    ("mushroom", "orange"),
    ("tree", "green"),
    ("rocket", "purple"),
    ("ball", "blue"),
    ("star", "purple"),
)
"""(category, colour) of the sprites; each looks the same wherever it is, and doesn't turn."""
GROUNDS = 6
"""Different grounds, three of snow and three of night, which are the same in all scenes."""
RADII: tuple[float, ...] = (8.0, 8.5, 9.0, 9.5, 10.0)
"""Of sprites, in pixels at 64 px."""
SIDE = 64.0
"""Of the picture, in the unit of radii, places and speeds."""
COUNTS: tuple[float, ...] = (0.35, 0.40, 0.25)
"""How often a scene has 1, 2, 3 sprites."""
STILL, SPEEDS = 0.3, (1.5, 7.0)
"""How often a sprite rests at first, and the range of the others' speeds in pixels a frame."""
SUBSTEPS = 4
"""Of the motion, in each frame."""
CONTACT = 0.95
"""Distance at which sprites touch, in sums of their radii."""
_STREAM = 16
_TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One object at the first frame; lengths in pixels at 64 px."""

    identity: int
    """Which of `IDENTITIES`."""
    radius: float
    x: float
    y: float
    """Its centre, to the right and down."""
    speed_x: float = 0.0
    speed_y: float = 0.0
    """Pixels a frame."""


@dataclass(frozen=True, kw_only=True)
class BouncingScene:
    """Sprites on a ground. All have the same mass; collisions are elastic and without friction.

    Example:
        >>> scene = sample_bouncing(split="eval", seed=1, index=0)
        >>> scene.paths().shape == (16, len(scene.sprites), 2)
        True
    """

    sprites: tuple[Sprite, ...]
    ground: int
    num_frames: int = 16

    def paths(self) -> npt.NDArray[np.float64]:
        """[frames, sprites, 2], the centre (x, y) of each sprite in each frame."""
        place = np.array([[sprite.x, sprite.y] for sprite in self.sprites]).reshape(-1, 2)
        speed = np.array([[sprite.speed_x, sprite.speed_y] for sprite in self.sprites]).reshape(-1, 2)
        radius = np.array([sprite.radius for sprite in self.sprites])[:, None]
        made = np.empty((self.num_frames, len(self.sprites), 2))
        for frame in range(self.num_frames):
            made[frame] = place
            for _ in range(SUBSTEPS):
                place = place + speed / SUBSTEPS
                speed = np.where(place < radius, np.abs(speed), np.where(place > SIDE - radius, -np.abs(speed), speed))
                for first, second in itertools.combinations(range(len(self.sprites)), 2):
                    _collide(place, speed, radius[:, 0], first, second)
        return made

    def stilled(self) -> BouncingScene:
        """The same with every sprite at rest."""
        return replace(self, sprites=tuple(replace(sprite, speed_x=0.0, speed_y=0.0) for sprite in self.sprites))


def _collide(
    place: npt.NDArray[np.float64], speed: npt.NDArray[np.float64], radius: npt.NDArray[np.float64], first: int, second: int
) -> None:
    """Exchange the speeds along the line of two sprites that touch and come nearer to each other."""
    between = place[second] - place[first]
    distance = math.hypot(between[0], between[1])
    if not 0 < distance < CONTACT * (radius[first] + radius[second]):
        return
    line = between / distance
    nearing = float((speed[second] - speed[first]) @ line)
    if nearing < 0:
        speed[first] += nearing * line
        speed[second] -= nearing * line


def sample_bouncing(
    *, split: str = "train", seed: int = 0, index: int = 0, num_frames: int = 16, sprites: int | None = None
) -> BouncingScene:
    """Scene number `index` of a split: the same description on every machine.

    Args:
        split: `train`, `tune` or `eval`; the three never share a scene.
        seed: number of the stream, >= 0.
        index: number of the scene in it, >= 0.
        num_frames: frames of the clip, 1 or more.
        sprites: how many, 1 to 3; None draws it.

    Raises:
        InputError: an unknown split or a number out of range.

    Example:
        >>> [IDENTITIES[sprite.identity] for sprite in sample_bouncing(split="eval", seed=1, index=0, sprites=2).sprites]
        [('star', 'purple'), ('ball', 'blue')]
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or index < 0 or num_frames < 1 or sprites not in (None, *range(1, len(COUNTS) + 1)):
        given = f"{seed}, {index}, {num_frames} and {sprites}"
        raise InputError(f"seed and index must be 0 or more, num_frames 1 or more and sprites 1 to {len(COUNTS)}, not {given}")
    rng = Rng(SPLITS[split], seed, index, _STREAM)
    drawn = rng.next()
    count = sprites if sprites is not None else 1 + sum(drawn >= sum(COUNTS[: place + 1]) for place in range(len(COUNTS) - 1))
    left = list(range(len(IDENTITIES)))
    made: list[Sprite] = []
    for _ in range(count):
        identity = left.pop(int(rng.next() * len(left)))
        made.append(_placed(rng, identity, made))
    return BouncingScene(sprites=tuple(made), ground=int(rng.next() * GROUNDS), num_frames=num_frames)


def _placed(rng: Rng, identity: int, others: list[Sprite]) -> Sprite:
    """A sprite that touches none of the others; three of them always find room."""
    radius = rng.choice(RADII)
    for _ in range(_TRIES):
        x, y = rng.between(radius, SIDE - radius), rng.between(radius, SIDE - radius)
        if all(math.hypot(x - other.x, y - other.y) > radius + other.radius for other in others):
            break
    moves = not rng.chance(STILL)
    speed, angle = rng.between(*SPEEDS) if moves else 0.0, rng.between(0.0, 2 * math.pi)
    made: dict[str, Any] = {"speed_x": round(speed * math.cos(angle), 5), "speed_y": round(speed * math.sin(angle), 5)}
    return Sprite(identity=identity, radius=radius, x=x, y=y, **made)
