"""Scenes of critters and distractors on a table, and pictures of single critters, from numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from calotype.errors import InputError
from calotype.world.critters.anatomy import COLOURS, Critter, facing_words
from calotype.world.critters.cameras import TableCamera
from calotype.world.critters.primitives import Box, Capsule, Primitive, Vector
from calotype.world.painting.rng import Rng
from calotype.world.scenes.sampling import SPLITS

SCENE_STREAM, PICTURE_STREAM = 94, 95
TABLES: dict[str, Vector] = {
    "white": (0.86, 0.86, 0.84),
    "grey": (0.55, 0.56, 0.58),
    "brown": (0.52, 0.40, 0.30),
    "cyan": (0.55, 0.75, 0.78),
}
HEIGHTS = (0.16, 0.19)
"""Of critters, in metres."""
REACH = 0.17
"""Critters and distractors stand within this distance of the middle of the table."""
CLEARANCE = 0.03
"""Least distance between two things, in metres."""
FOCAL = 1.4
"""Of the cameras of single pictures, in units of the height: a field of view of 39 degrees."""
CROWDED = 0.3
"""Share of the training pictures with a second critter and a distractor."""


@dataclass(frozen=True, kw_only=True)
class CritterScene:
    """Critters and distractors on the table z = 0."""

    critters: tuple[Critter, ...]
    distractors: tuple[Primitive, ...]
    table: str
    """Its colour; see `TABLES`."""
    light: Vector
    """Unit vector to the light."""

    def solids(self) -> tuple[tuple[Primitive, int], ...]:
        """Every solid and the number of the thing that it belongs to: first the critters, then the distractors."""
        made: list[tuple[Primitive, int]] = []
        for number, critter in enumerate(self.critters):
            made += [(solid, number) for solid in critter.primitives()]
        made += [(solid, len(self.critters) + number) for number, solid in enumerate(self.distractors)]
        return tuple(made)


def sample_critter_scene(*, split: str, seed: int, index: int) -> CritterScene:
    """The scene of that number: two or three critters that face anywhere and one to three distractors, none touching another.

    Raises:
        InputError: an unknown split, a negative number.

    >>> len(sample_critter_scene(split="tune", seed=1, index=0).critters)
    2
    """
    rng = _rng(split, seed, index, SCENE_STREAM)
    return _scene(rng, critters=2 + rng.chance(0.5), distractors=1 + int(3 * rng.next()))


def sample_critter_picture(
    *, split: str, seed: int, index: int, turn: float | None = None, crowded: float = CROWDED
) -> tuple[CritterScene, TableCamera]:
    """The scene of that number with one critter (in some, with another critter and a distractor), and a camera that looks at it.

    Args:
        split: `train`, `tune` or `eval`.
        seed: 0 or more.
        index: of the picture.
        turn: most angle in radians between where the critter faces and the camera, as seen from above; None is any angle.
        crowded: share of the pictures with another critter and a distractor.

    Raises:
        InputError: an unknown split, a negative number.

    >>> scene, camera = sample_critter_picture(split="tune", seed=1, index=0, turn=1.0)
    >>> picture_caption(scene, camera)
    'a yellow critter facing front on white'
    """
    rng = _rng(split, seed, index, PICTURE_STREAM)
    many = rng.chance(crowded)
    scene = _scene(rng, critters=1 + many, distractors=int(many))
    critter = scene.critters[0]
    angle = rng.between(-math.pi, math.pi) if turn is None else critter.yaw + rng.between(-turn, turn)
    elevation, share = rng.between(0.15, 0.9), rng.between(0.28, 0.5) if many else rng.between(0.4, 0.75)
    distance = critter.height * FOCAL / share
    flat = distance * math.cos(elevation)
    shift = 0.35 * (1.0 - share) * distance / FOCAL
    target = (
        critter.x + rng.between(-shift, shift),
        critter.y + rng.between(-shift, shift),
        0.5 * critter.height + rng.between(-shift, shift),
    )
    eye = (target[0] + flat * math.cos(angle), target[1] + flat * math.sin(angle), target[2] + distance * math.sin(elevation))
    return scene, TableCamera(eye=eye, target=target, focal=FOCAL)


def picture_caption(scene: CritterScene, camera: TableCamera) -> str:
    """What the picture shows of the first critter: its colour, where it faces as the camera sees it, and the table's colour."""
    critter = scene.critters[0]
    return f"a {critter.colour} critter facing {facing_words(critter, camera.eye)} on {scene.table}"


def _rng(split: str, seed: int, index: int, stream: int) -> Rng:
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and number {index} must be 0 or more")
    return Rng(SPLITS[split], seed, index, stream)


def _scene(rng: Rng, *, critters: int, distractors: int) -> CritterScene:
    made: list[Critter] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(critters):
        critter = _critter(rng, [one.colour for one in made])
        across = 0.55 * critter.height
        x, y = _free_place(rng, across, taken)
        taken.append((x, y, across))
        made.append(replace(critter, x=x, y=y))
    things = []
    for _ in range(distractors):
        across = rng.between(0.015, 0.032)
        x, y = _free_place(rng, across * 1.45, taken)
        taken.append((x, y, across * 1.45))
        things.append(_distractor(rng, across, x, y))
    azimuth, height = rng.between(-math.pi, math.pi), rng.between(0.9, 1.3)
    light = (math.cos(height) * math.cos(azimuth), math.cos(height) * math.sin(azimuth), math.sin(height))
    return CritterScene(critters=tuple(made), distractors=tuple(things), table=rng.choice(tuple(TABLES)), light=light)


def _critter(rng: Rng, used: Sequence[str]) -> Critter:
    colour = rng.choice([name for name in COLOURS if name not in used])
    return Critter(
        x=0.0, y=0.0, yaw=rng.between(-math.pi, math.pi), colour=colour, limbs=rng.choice([name for name in COLOURS if name != colour]),
        height=rng.between(*HEIGHTS), head=rng.between(0.19, 0.23), belly=rng.between(0.155, 0.185), leg_length=rng.between(0.28, 0.34),
        leg_radius=rng.between(0.06, 0.075), arm_length=rng.between(0.32, 0.4), arm_radius=rng.between(0.058, 0.073),
        raised=(rng.between(-0.4, 0.6), rng.between(-0.4, 0.6)), forward=(rng.between(-0.2, 0.4), rng.between(-0.2, 0.4)),
        spread=(rng.between(0.3, 0.7), rng.between(0.3, 0.7)), tail_length=rng.between(0.28, 0.36),
        tail_radius=rng.between(0.05, 0.065), tail_raised=rng.between(0.1, 0.8),
    )  # fmt: skip


def _free_place(rng: Rng, radius: float, taken: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Where a disc of that radius touches none of the others; farther out where the middle is full."""
    reach = REACH
    while True:
        for _ in range(20):
            angle, away = rng.between(-math.pi, math.pi), reach * math.sqrt(rng.next())
            x, y = round(away * math.cos(angle), 5), round(away * math.sin(angle), 5)
            if all(math.hypot(x - left, y - right) > radius + other + CLEARANCE for left, right, other in taken):
                return x, y
        reach *= 1.15


def _distractor(rng: Rng, across: float, x: float, y: float) -> Primitive:
    kind, colour = rng.choice(("ball", "box", "post")), COLOURS[rng.choice(tuple(COLOURS))]
    if kind == "ball":
        return Capsule(start=(x, y, across), end=(x, y, across), radius=across, colour=colour)
    tall = across * rng.between(0.8, 2.0)
    if kind == "box":
        return Box(centre=(x, y, tall), half=(across, across, tall), yaw=rng.between(-math.pi, math.pi), colour=colour)
    return Capsule(start=(x, y, across), end=(x, y, across + tall), radius=across, colour=colour)
