"""Creatures: one kind of object whose look is an identity (part colours, texture, head shape) and whose pose is a word of the caption.

A creature is built of limbs, a body and a head, in this order from the hindmost to the foremost. Its identity says how the parts look,
its pose where they are; so the same creature can be painted in every pose, and a picture of it can be measured part by part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

from calotype.errors import InputError
from calotype.world.painting import shapes
from calotype.world.painting.backgrounds import PREPOSITIONS, Background, make_background
from calotype.world.painting.rng import Rng
from calotype.world.painting.shapes import BOX, CIRCLE, ELLIPSE, POLYGON, RGB, Primitive
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.sampling import PRESETS, SPLITS, Scene

PARTS: tuple[str, ...] = ("limbs", "body", "head")
"""Names of the parts in the order of their ids (1, 2, 3); the texture belongs to the body, the eyes to the head."""
POSES: tuple[str, ...] = ("upright", "lying", "jumping", "curled", "facing left", "facing right")
COLOURS: tuple[str, ...] = PRESETS["small"].colours
TEXTURES: tuple[str, ...] = ("plain", "striped", "spotted")
HEADS: tuple[str, ...] = ("round", "square", "pointed")
GROUNDS: tuple[str, ...] = PRESETS["small"].backgrounds
HELD_OUT = 50
"""Identities that only the split `eval` has, and as many that only `tune` has."""
RADIUS = (19.0, 25.0)
"""Range of the radius in pixels at 64 px."""
INSIDE = 0.95
"""The centre keeps this many radii away from the picture's edge."""
PLAIN: RGB = (0.78, 0.78, 0.78)
"""The plain ground of subject pictures, sRGB."""


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """An identity: the colour words of the three parts, all different, the body's texture and the head's shape."""

    limbs: str
    body: str
    head: str
    texture: str
    shape: str

    @property
    def colours(self) -> tuple[RGB, RGB, RGB]:
        """The parts' sRGB colours in the order of `PARTS`."""
        return shapes.COLOURS[self.limbs], shapes.COLOURS[self.body], shapes.COLOURS[self.head]


@dataclass(frozen=True, kw_only=True)
class Creature(SceneObject):
    """A creature of that look in that pose; `category` is `creature`, `colour` its body's."""

    look: Appearance
    pose: str


@dataclass(frozen=True, kw_only=True)
class CreatureScene(Scene):
    """A picture of one creature; its caption says pose and ground, never the look."""

    @property
    def creature(self) -> Creature:
        """The one object."""
        (thing,) = self.objects
        if not isinstance(thing, Creature):
            raise InputError(f"a scene of creatures holds a {type(thing).__name__}; make it with sample_creature")
        return thing

    def _caption_words(self) -> tuple[list[str], tuple[tuple[int, int], ...]]:
        words = ["a", "creature", *self.creature.pose.split()]
        if self.background.name != "plain":
            words += [*PREPOSITIONS.get(self.background.name, "on").split(), self.background.name]
        return words, ((1, 2),)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CreatureScene:
        """The scene that `to_dict` described.

        >>> scene = sample_creature(index=3)
        >>> CreatureScene.from_dict(scene.to_dict()) == scene
        True
        """
        (thing,) = values["objects"]
        plain = {key: value for key, value in thing.items() if key not in ("look", "pose")}
        base = Scene.from_dict({**values, "objects": (plain,)})
        fields = {field.name: getattr(base.objects[0], field.name) for field in dataclasses.fields(SceneObject)}
        creature = Creature(**fields, look=Appearance(**thing["look"]), pose=thing["pose"])
        made = {field.name: getattr(base, field.name) for field in dataclasses.fields(Scene)}
        return cls(**{**made, "objects": (creature,)})


@lru_cache(maxsize=1)
def looks() -> tuple[Appearance, ...]:
    """Every identity, in an order that never changes: the first `HELD_OUT` are `eval`'s, the next `HELD_OUT` are `tune`'s.

    >>> len(looks()), len(set(looks()))
    (1080, 1080)
    """
    every = [
        Appearance(limbs=limbs, body=body, head=head, texture=texture, shape=shape)
        for limbs, body, head in permutations(COLOURS, 3)
        for texture in TEXTURES
        for shape in HEADS
    ]
    rng = Rng(0, 0, 0, 403)
    for last in range(len(every) - 1, 0, -1):
        other = int(rng.next() * (last + 1))
        every[last], every[other] = every[other], every[last]
    return tuple(every)


def looks_of(split: str) -> tuple[Appearance, ...]:
    """The identities of a split; no two splits share one.

    Raises:
        InputError: there is no such split.

    >>> [len(looks_of(split)) for split in ("train", "tune", "eval")]
    [980, 50, 50]
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    parts = {"eval": looks()[:HELD_OUT], "tune": looks()[HELD_OUT : 2 * HELD_OUT], "train": looks()[2 * HELD_OUT :]}
    return parts[split]


def sample_creature(
    *,
    split: str = "train",
    seed: int = 0,
    index: int = 0,
    look: Appearance | None = None,
    pose: str | None = None,
    background: str | None = None,
) -> CreatureScene:
    """Scene number `index` of a split's creatures: the same description on every machine.

    Args:
        split: `train`, `tune` or `eval`; the three never share a scene or an identity.
        seed: number of the stream, >= 0.
        index: number of the scene in it, >= 0.
        look: force the identity; place and ground stay.
        pose: force the pose; place and ground stay.
        background: force the ground's word.

    Raises:
        InputError: an unknown word or a negative number.

    >>> sample_creature(split="eval", seed=1, index=0).caption
    'a creature jumping on snow'
    """
    own = looks_of(split)
    if seed < 0 or index < 0:
        raise InputError(f"seed and index must be 0 or more, not {seed} and {index}")
    for name, value, known in (("pose", pose, POSES), ("background", background, GROUNDS)):
        if value is not None and value not in known:
            raise InputError(f"there is no {name} {value!r}; choose one of: {', '.join(known)}")
    rng = Rng(SPLITS[split], seed, index)
    drawn = (rng.choice(own), rng.choice(POSES), rng.choice(GROUNDS))
    chosen, stance, ground = look or drawn[0], pose or drawn[1], background or drawn[2]
    creature = _placed(rng, chosen, stance)
    return CreatureScene(
        objects=(creature,),
        background=make_background(ground, rng),
        mentions=(0,),
        preset="creatures",
        split=split,
        seed=seed,
        index=index,
    )


def _placed(rng: Rng, look: Appearance, pose: str) -> Creature:
    radius = rng.between(RADIUS[0] / 64.0, RADIUS[1] / 64.0)
    room = 0.5 - INSIDE * radius
    x, y = rng.between(0.5 - room, 0.5 + room), rng.between(0.5 - room, 0.5 + room)
    angle, turned = rng.between(-0.1, 0.1), rng.chance(0.5)
    flip = pose == "facing left" or (turned and not pose.startswith("facing"))
    return Creature(category="creature", colour=look.body, x=x, y=y, radius=radius, angle=angle, flip=flip, look=look, pose=pose)


def on_plain_ground(scene: CreatureScene, pose: str | None = None) -> CreatureScene:
    """The subject picture of a scene: the same creature in the same place on a plain ground, or in another pose and place.

    >>> on_plain_ground(sample_creature(index=3), "curled").caption
    'a creature curled'
    """
    creature = scene.creature
    if pose is not None:
        if pose not in POSES:
            raise InputError(f"there is no pose {pose!r}; choose one of: {', '.join(POSES)}")
        rng = Rng(SPLITS[scene.split], scene.seed, scene.index, 1 + POSES.index(pose))
        creature = _placed(rng, creature.look, pose)
    return dataclasses.replace(scene, objects=(creature,), background=Background(name="plain", top=PLAIN, bottom=PLAIN))


@lru_cache(maxsize=512)
def primitives(look: Appearance, pose: str) -> tuple[tuple[Primitive, RGB], ...]:
    """What a creature is painted of, with colours, from the hindmost to the foremost; `facing left` is `facing right` mirrored."""
    limbs, body, head = _BODIES["facing right" if pose == "facing left" else pose]
    colours = dict(zip(PARTS, look.colours, strict=True))
    made = [(shape, colours["limbs"]) for shape in limbs]
    made += [(body, colours["body"])]
    made += [(shape, shapes.ACCENTS["cream"]) for shape in _texture(look.texture, body)]
    made += [(shape, colours["head"] if shape.role == "main" else shapes.ACCENTS["ink"]) for shape in _head(look.shape, *head)]
    return tuple(made)


def _texture(name: str, body: Primitive) -> list[Primitive]:
    if name == "striped":
        made = []
        for along in (-0.56, 0.0, 0.56):
            reach, width = 0.9 * math.sqrt(1.0 - along * along), 0.15
            if body.a >= body.b:
                made.append(Primitive(ELLIPSE, "body", "cream", body.x + along * body.a, body.y, width * body.a, reach * body.b))
            else:
                made.append(Primitive(ELLIPSE, "body", "cream", body.x, body.y + along * body.b, reach * body.a, width * body.b))
        return made
    if name == "spotted":
        spots = ((-0.52, -0.22), (-0.12, 0.46), (0.08, -0.46), (0.52, 0.22))
        radius = 0.27 * min(body.a, body.b)
        return [Primitive(CIRCLE, "body", "cream", body.x + x * body.a, body.y + y * body.b, radius) for x, y in spots]
    return []


def _head(shape: str, x: float, y: float, radius: float, side: bool) -> list[Primitive]:
    if shape == "round":
        outline = Primitive(CIRCLE, "head", "main", x, y, radius)
    elif shape == "square":
        outline = Primitive(BOX, "head", "main", x, y, 0.92 * radius, 0.92 * radius, 0.12 * radius)
    else:
        corners = ((x, y - 1.15 * radius), (x + 1.12 * radius, y + 0.85 * radius), (x - 1.12 * radius, y + 0.85 * radius))
        outline = Primitive(POLYGON, "head", "main", rounding=0.12 * radius, corners=corners)
    low = y + 0.2 * radius if shape == "pointed" else y - 0.05 * radius
    eyes = (0.05, 0.6) if side else (-0.34, 0.34)
    return [outline] + [Primitive(CIRCLE, "head", "ink", x + eye * radius, low, 0.17 * radius) for eye in eyes]


def _limb(x: float, y: float, half: float, angle: float = 0.0, width: float = 0.13) -> Primitive:
    """A rounded bar that stands upright at angle 0."""
    return Primitive(BOX, "limbs", "main", x, y, width, half, width, angle=angle)


def _trunk(x: float, y: float, a: float, b: float) -> Primitive:
    return Primitive(ELLIPSE, "body", "main", x, y, a, b)


_BODIES: dict[str, tuple[tuple[Primitive, ...], Primitive, tuple[float, float, float, bool]]] = {
    "upright": (
        (_limb(-0.2, 0.7, 0.27), _limb(0.2, 0.7, 0.27), _limb(-0.42, 0.16, 0.3, 0.15), _limb(0.42, 0.16, 0.3, -0.15)),
        _trunk(0.0, 0.2, 0.36, 0.46),
        (0.0, -0.52, 0.36, False),
    ),
    "lying": (
        (_limb(-0.66, 0.42, 0.3, math.pi / 2), _limb(-0.62, 0.12, 0.3, math.pi / 2), _limb(0.3, 0.58, 0.36, math.pi / 2)),
        _trunk(-0.08, 0.28, 0.54, 0.31),
        (0.62, 0.24, 0.31, True),
    ),
    "jumping": (
        (_limb(-0.52, -0.2, 0.36, -0.85), _limb(0.52, -0.2, 0.36, 0.85), _limb(-0.44, 0.58, 0.36, 0.8), _limb(0.44, 0.58, 0.36, -0.8)),
        _trunk(0.0, 0.18, 0.34, 0.4),
        (0.0, -0.48, 0.35, False),
    ),
    "curled": (
        (Primitive(ELLIPSE, "limbs", "main", -0.1, 0.56, 0.62, 0.24),),
        _trunk(0.0, 0.06, 0.66, 0.58),
        (0.34, 0.36, 0.33, False),
    ),
    "facing right": (
        (_limb(-0.4, 0.58, 0.32), _limb(0.26, 0.58, 0.32), _limb(-0.68, -0.2, 0.32, -0.5, 0.09)),
        _trunk(-0.08, 0.1, 0.52, 0.3),
        (0.48, -0.36, 0.34, True),
    ),
}
"""Limbs, body, and the head's place, radius and whether it is seen from the side, for each pose that isn't another one mirrored."""
