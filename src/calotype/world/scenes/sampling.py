"""What a scene is, and how scenes are drawn: frozen descriptions in plain numbers, independent of the size they are painted at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calotype.errors import InputError
from calotype.world.painting.backgrounds import BACKGROUNDS, PREPOSITIONS, Background, Texture, make_background
from calotype.world.painting.motion import FAMILIES, Camera, Motion, moments
from calotype.world.painting.rng import Rng
from calotype.world.painting.shapes import CATEGORIES, COLOURS, STYLES
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.placing import place

SPLITS: dict[str, int] = {"train": 0, "tune": 1, "eval": 2}
"""The numbers of the splits in the scene's seed."""

FRAMES_PER_SECOND: tuple[int, ...] = (7, 7, 7, 7, 5, 10, 14)
"""What a scene's frame rate is drawn from."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture or clip of the toy world before it is painted.

    `objects` go from the hindmost to the foremost. `relation` is the words between the first two objects that the caption
    mentions, `mentions` the order in which it names them. Two scenes are equal where all their numbers are.
    """

    objects: tuple[SceneObject, ...]
    background: Background
    camera: Camera = field(default_factory=Camera)
    style: str = "flat"
    fps: int = 7
    """Frames per second the clip is meant to be played at."""
    num_frames: int = 1
    """Frames the motion was drawn for (1 for a still picture); `paint` can make any number."""
    relation: str = "and"
    mentions: tuple[int, ...] = ()
    preset: str = "small"
    split: str = "train"
    seed: int = 0
    index: int = 0

    @property
    def caption(self) -> str:
        """Such as `a red ball and a blue house on sand`; every word is one token of the toy tokenizer."""
        return " ".join(self._caption_words()[0])

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """For each object the caption's words that belong to it: (category, colour)."""
        return tuple(thing.words for thing in self.objects)

    @property
    def word_positions(self) -> tuple[tuple[int, int], ...]:
        """For each object the places of its category and its colour in `caption.split()`."""
        return self._caption_words()[1]

    def _caption_words(self) -> tuple[list[str], tuple[tuple[int, int], ...]]:
        words: list[str] = []
        if self.style != "flat":
            words += ["an" if self.style[0] in "aeiou" else "a", self.style, "picture", "of"]
        places: dict[int, tuple[int, int]] = {}
        for place_in_caption, number in enumerate(self.mentions):
            thing = self.objects[number]
            if place_in_caption:
                words += self.relation.split() if place_in_caption == 1 else ["and"]
            words += ["an" if thing.colour[0] in "aeiou" else "a", thing.colour, thing.category]
            places[number] = (len(words) - 1, len(words) - 2)
        if not self.mentions:
            words.append("nothing")
        words += [*PREPOSITIONS.get(self.background.name, "on").split(), self.background.name]
        return words, tuple(places[number] for number in range(len(self.objects)))

    @property
    def motion_bucket_id(self) -> int:
        """round(12 x mean displacement in pixels per frame at 64 px) of the things that move in the picture, between 1 and 255.

        The displacement is that of an object's centre and of four points at 0.7 of its radius, so that turning counts as motion.
        """
        frames = self.num_frames if self.num_frames > 1 else 8
        u = moments(frames)
        moved = []
        for thing in self.objects:
            x, y, radius, angle = thing.placement(self.camera, u)
            spokes = angle[:, None] + np.array([0.0, 0.5, 1.0, 1.5]) * math.pi
            reach = np.concatenate([np.zeros((frames, 1)), np.broadcast_to(0.7 * radius[:, None], (frames, 4))], axis=1)
            spokes = np.concatenate([np.zeros((frames, 1)), spokes], axis=1)
            px, py = x[:, None] + reach * np.cos(spokes), y[:, None] + reach * np.sin(spokes)
            moved.append(float(np.hypot(np.diff(px, axis=0), np.diff(py, axis=0)).mean()) * 64.0)
        moved = [distance for distance in moved if distance > 0.05]
        mean = sum(moved) / len(moved) if moved else 0.0
        return min(255, max(1, round(12.0 * mean)))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        made: dict[str, Any] = dataclasses.asdict(self)
        return made

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """The scene that `to_dict` described.

        >>> scene = sample_scene("small", seed=3, index=4)
        >>> Scene.from_dict(scene.to_dict()) == scene
        True
        """
        made = dict(values)
        objects = tuple(SceneObject(**{**thing, "motion": Motion(**thing["motion"])}) for thing in made["objects"])
        ground = dict(made["background"])
        textures = tuple(
            Texture(**{**texture, "colour": tuple(texture["colour"]), "waves": tuple(tuple(wave) for wave in texture["waves"])})
            for texture in ground["textures"]
        )
        ground.update(top=tuple(ground["top"]), bottom=tuple(ground["bottom"]), textures=textures)
        made.update(objects=objects, background=Background(**ground), camera=Camera(**made["camera"]), mentions=tuple(made["mentions"]))
        return cls(**made)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What scenes are drawn from. Radii are pixels at 64 px."""

    name: str
    categories: tuple[str, ...]
    colours: tuple[str, ...]
    backgrounds: tuple[str, ...]
    styles: tuple[str, ...] = ("flat",)
    object_shares: tuple[float, ...] = (0.6, 0.4)
    """How often a scene has 1, 2, ... objects."""
    radius: tuple[tuple[float, float], ...] = ((12.0, 20.0), (12.0, 15.0))
    """Range of the radius where there are 1, 2, ... objects."""
    spacing: float = 0.8
    """Least distance of two objects in sums of their radii."""
    relation_share: float = 0.4
    """How often a caption says `left of` or `right of` where the distance allows it."""
    camera_share: float = 0.15
    """How often the camera of a clip pans or zooms."""
    still_share: float = 0.5
    """How often an object after the first stands still in a clip."""

    turn: tuple[float, float] = (1.0, 4.2)
    """Range of the angle that an object of the family `turning` turns by during a clip, in radians; a directed object's heading changes by
    the upper end at the most."""

    @property
    def directed(self) -> tuple[str, ...]:
        """Its categories with a nose."""
        return tuple(name for name in self.categories if CATEGORIES[name].directed)


PRESETS: dict[str, Preset] = {
    "small": Preset(
        name="small",
        categories=("ball", "star", "tree", "house", "mushroom", "rocket"),
        colours=("red", "orange", "yellow", "green", "blue", "purple"),
        backgrounds=("snow", "night", "sand", "grass"),
        turn=(math.radians(8.0), math.radians(20.0)),
    ),
    "full": Preset(
        name="full",
        categories=tuple(CATEGORIES),
        colours=tuple(COLOURS),
        backgrounds=BACKGROUNDS,
        styles=STYLES,
        object_shares=(0.4, 0.4, 0.2),
        radius=((11.0, 20.0), (10.0, 16.0), (9.0, 13.0)),
        spacing=0.5,
        camera_share=0.35,
        still_share=0.4,
    ),
}
"""The two worlds: `small`, which the embedded models were trained on, and `full`."""


def find_preset(preset: str | Preset) -> Preset:
    """The preset of that name."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise InputError(f"there is no world preset {preset!r}; choose one of: {', '.join(PRESETS)}")
    return PRESETS[preset]


def sample_scene(
    preset: str | Preset = "small",
    *,
    split: str = "train",
    seed: int = 0,
    index: int = 0,
    num_frames: int = 1,
    objects: int | None = None,
    motion: str | None = None,
    camera: str | None = None,
) -> Scene:
    """Scene number `index` of a split: the same description on every machine.

    Args:
        preset: `small` or `full`, or a preset of your own.
        split: `train`, `tune` or `eval`; the three never share a scene.
        seed: number of the stream, >= 0.
        index: number of the scene in it, >= 0.
        num_frames: 1 for a still picture; more gives the objects a motion.
        objects: force the number of objects (0 is an empty ground).
        motion: force the family of every moving object (`straight`, `arc`, `bounce`, `turning`, `directed`, `still`); `directed` makes the
            first object a directed one, the other families leave directed categories out.
        camera: force `still`, `pan` or `zoom`.

    Raises:
        InputError: an unknown name or a negative number.

    >>> sample_scene("small", split="eval", seed=1, index=0).caption
    'a purple house at night'
    """
    world = find_preset(preset)
    _check(world, split, seed, index, num_frames, objects, motion, camera)
    rng = Rng(SPLITS[split], seed, index)
    style = rng.choice(world.styles)
    background = make_background(rng.choice(world.backgrounds), rng)
    count = _count(rng, world) if objects is None else objects
    view = _camera(rng, world, num_frames, camera)
    fps = rng.choice(FRAMES_PER_SECOND)
    things: list[SceneObject] = []
    for number in range(count):
        category, colour = _words(rng, world, number, motion, things)
        low, high = world.radius[min(count, len(world.radius)) - 1]
        radius = rng.between(low / 64.0, high / 64.0)
        family = _family(rng, world, category, number, num_frames, motion)
        things.append(
            place(
                rng,
                SceneObject(category=category, colour=colour, x=0.5, y=0.5, radius=radius, style=style),
                family,
                view,
                things,
                spacing=world.spacing,
                turn=world.turn,
            )
        )
    if len(things) > 1:
        things.sort(key=lambda thing: thing.y)
    mentions = list(range(len(things)))
    if rng.chance(0.5):
        mentions.reverse()
    relation = "and"
    if len(things) > 1 and rng.chance(world.relation_share):
        gap = things[mentions[1]].x - things[mentions[0]].x
        if abs(gap) > 0.25:
            relation = "left of" if gap > 0 else "right of"
    return Scene(
        objects=tuple(things),
        background=background,
        camera=view,
        style=style,
        fps=fps if num_frames > 1 else 7,
        num_frames=num_frames,
        relation=relation,
        mentions=tuple(mentions),
        preset=world.name,
        split=split,
        seed=seed,
        index=index,
    )


def _check(
    world: Preset, split: str, seed: int, index: int, num_frames: int, objects: int | None, motion: str | None, camera: str | None
) -> None:
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise InputError(f"seed and index must be 0 or more, not {seed} and {index}")
    if num_frames < 1:
        raise InputError(f"num_frames must be 1 or more, not {num_frames}")
    if objects is not None and not 0 <= objects <= 4:
        raise InputError(f"objects must be 0 to 4, not {objects}")
    if motion is not None and motion not in (*FAMILIES, "still"):
        raise InputError(f"there is no motion {motion!r}; choose one of: {', '.join((*FAMILIES, 'still'))}")
    if motion == "directed" and not world.directed:
        raise InputError(f"the preset {world.name!r} has no directed category, so it can't have the motion 'directed'")
    if camera is not None and camera not in ("still", "pan", "zoom"):
        raise InputError(f"there is no camera {camera!r}; choose one of: still, pan, zoom")


def _count(rng: Rng, world: Preset) -> int:
    left = rng.next()
    for number, share in enumerate(world.object_shares, start=1):
        left -= share
        if left < 0.0:
            return number
    return len(world.object_shares)


def _camera(rng: Rng, world: Preset, num_frames: int, wanted: str | None) -> Camera:
    """The view's path; the same numbers are drawn whatever comes out, so that a forced camera leaves the rest of the scene alone."""
    moving, kind, direction, amount = rng.chance(world.camera_share), rng.next(), rng.between(0.0, 2.0 * math.pi), rng.next()
    if num_frames == 1:
        return Camera()
    if wanted is None:
        wanted = ("pan" if kind < 0.6 else "zoom") if moving else "still"
    if wanted == "pan":
        length = 0.08 + 0.16 * amount
        return Camera(pan_x=round(length * math.cos(direction), 5), pan_y=round(length * math.sin(direction), 5))
    if wanted == "zoom":
        ratio = 1.12 + 0.18 * amount
        return Camera(zoom_ratio=round(ratio if direction < math.pi else 1.0 / ratio, 5))
    return Camera()


def _words(rng: Rng, world: Preset, number: int, motion: str | None, before: list[SceneObject]) -> tuple[str, str]:
    """A category and a colour that no earlier object has both of."""
    categories = world.categories
    if motion == "directed":
        categories = world.directed if number == 0 else tuple(name for name in categories if name not in world.directed)
    elif motion not in (None, "still"):
        categories = tuple(name for name in categories if name not in world.directed)
    taken = {thing.words for thing in before}
    while True:
        words = rng.choice(categories), rng.choice(world.colours)
        if words not in taken:
            return words


def _family(rng: Rng, world: Preset, category: str, number: int, num_frames: int, wanted: str | None) -> str:
    drawn, rests = rng.choice(FAMILIES[:4]), rng.chance(world.still_share)
    if num_frames == 1 or wanted == "still" or (number > 0 and rests):
        return "still"
    if CATEGORIES[category].directed:
        return "directed"
    return drawn if wanted in (None, "directed") else wanted
