"""Counterfactuals: the same scene with one thing changed. Painting the result is the exact answer to an edit.

Objects keep their numbers and their depth in every edit but `without` and `reordered`; whatever isn't edited keeps its pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from calotype.errors import InputError
from calotype.world.painting.backgrounds import BACKGROUNDS, make_background
from calotype.world.painting.motion import Motion
from calotype.world.painting.rng import Rng
from calotype.world.painting.shapes import CATEGORIES, COLOURS, STYLES
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.sampling import Scene

_BACKGROUND_STREAM = 9


def without(scene: Scene, number: int) -> Scene:
    """The scene where object `number` never was; the ones in front of it move up by one number.

    >>> from calotype.world import sample_scene
    >>> len(without(sample_scene("small", seed=0, index=0, objects=2), 0).objects)
    1
    """
    _thing(scene, number)
    objects = tuple(thing for k, thing in enumerate(scene.objects) if k != number)
    mentions = tuple(k - (k > number) for k in scene.mentions if k != number)
    return _settled(dataclasses.replace(scene, objects=objects, mentions=mentions))


def moved(scene: Scene, number: int, dx: float, dy: float) -> Scene:
    """Object `number` further right by `dx` and down by `dy`, in sides of the picture at the first moment, its depth and motion kept."""
    thing = _thing(scene, number)
    zoom = scene.camera.zoom
    return _put(scene, number, dataclasses.replace(thing, x=thing.x + dx / zoom, y=thing.y + dy / zoom))


def resized(scene: Scene, number: int, factor: float) -> Scene:
    """Object `number` enlarged about its centre."""
    thing = _thing(scene, number)
    if not factor > 0.0:
        raise InputError(f"factor must be above 0, not {factor}")
    return _put(scene, number, dataclasses.replace(thing, radius=thing.radius * factor))


def rotated(scene: Scene, number: int, angle: float) -> Scene:
    """Object `number` turned clockwise about its centre, in radians; its path turns with it if it is directed."""
    thing = _thing(scene, number)
    motion = thing.motion
    if CATEGORIES[thing.category].directed:
        cos, sin = math.cos(angle), math.sin(angle)
        motion = dataclasses.replace(
            motion,
            dx=cos * motion.dx - sin * motion.dy,
            dy=sin * motion.dx + cos * motion.dy,
            bend_x=cos * motion.bend_x - sin * motion.bend_y,
            bend_y=sin * motion.bend_x + cos * motion.bend_y,
        )
    return _put(scene, number, dataclasses.replace(thing, angle=math.remainder(thing.angle + angle, 2.0 * math.pi), motion=motion))


def flipped(scene: Scene, number: int) -> Scene:
    """Object `number` mirrored left to right about its centre; a directed one goes the other way, so that it stays nose-first."""
    thing = _thing(scene, number)
    motion = thing.motion
    if CATEGORIES[thing.category].directed:
        motion = dataclasses.replace(motion, dx=-motion.dx, bend_x=-motion.bend_x)
    return _put(scene, number, dataclasses.replace(thing, flip=not thing.flip, angle=-thing.angle, motion=motion))


def recoloured(scene: Scene, number: int, colour: str) -> Scene:
    """Object `number` in another colour word."""
    thing = _thing(scene, number)
    _known(colour, COLOURS, "colour")
    return _put(scene, number, dataclasses.replace(thing, colour=colour))


def replaced(scene: Scene, number: int, category: str) -> Scene:
    """Another category at the place, in the size and colour and on the path of object `number`; a directed one is turned to its heading."""
    thing = _thing(scene, number)
    _known(category, CATEGORIES, "category")
    made, motion = CATEGORIES[category], thing.motion
    if made.directed and not CATEGORIES[thing.category].directed:
        heading = math.atan2(motion.dy + 4.0 * motion.bend_y, motion.dx + 4.0 * motion.bend_x)
        travels = math.hypot(motion.dx, motion.dy) > 0.0
        motion = dataclasses.replace(motion, family="directed" if travels else "still", hops=0, height=0.0, turn=0.0)
        turned_back = made.level and math.cos(heading) < 0.0
        angle = math.remainder(heading - math.pi if turned_back else heading, 2.0 * math.pi)
        return _put(scene, number, dataclasses.replace(thing, category=category, angle=angle, flip=turned_back, motion=motion))
    if CATEGORIES[thing.category].directed and not made.directed:
        bends = math.hypot(motion.bend_x, motion.bend_y) > 0.0
        family = motion.family if motion.family != "directed" else ("arc" if bends else "straight")
        return _put(
            scene, number, dataclasses.replace(thing, category=category, angle=0.0, motion=dataclasses.replace(motion, family=family))
        )
    return _put(scene, number, dataclasses.replace(thing, category=category))


def stilled(scene: Scene, number: int) -> Scene:
    """Object `number` without its motion."""
    return _put(scene, number, dataclasses.replace(_thing(scene, number), motion=Motion()))


def reordered(scene: Scene, order: Sequence[int]) -> Scene:
    """The objects in another depth order: `order` lists today's numbers from the hindmost to the foremost."""
    if sorted(order) != list(range(len(scene.objects))):
        raise InputError(f"order must hold each of the scene's {len(scene.objects)} objects once, not {list(order)}")
    places = {number: place for place, number in enumerate(order)}
    mentions = tuple(places[number] for number in scene.mentions)
    return dataclasses.replace(scene, objects=tuple(scene.objects[number] for number in order), mentions=mentions)


def restyled(scene: Scene, style: str) -> Scene:
    """The whole picture in another style."""
    _known(style, STYLES, "style")
    objects = tuple(dataclasses.replace(thing, style=style) for thing in scene.objects)
    return dataclasses.replace(scene, objects=objects, style=style)


def camera_shifted(scene: Scene, dx: float, dy: float) -> Scene:
    """The view further right by `dx` and down by `dy`, in sides of the picture at its first moment: what is in it moves the other way."""
    camera = scene.camera
    return dataclasses.replace(scene, camera=dataclasses.replace(camera, x=camera.x + dx / camera.zoom, y=camera.y + dy / camera.zoom))


def camera_zoomed(scene: Scene, factor: float) -> Scene:
    """Everything magnified about the middle of the picture."""
    if not factor > 0.0:
        raise InputError(f"factor must be above 0, not {factor}")
    return dataclasses.replace(scene, camera=dataclasses.replace(scene.camera, zoom=scene.camera.zoom * factor))


def with_background(scene: Scene, name: str, *, seed: int = 0) -> Scene:
    """The same objects on another ground; `seed` makes its texture."""
    _known(name, BACKGROUNDS, "background")
    return dataclasses.replace(scene, background=make_background(name, Rng(_BACKGROUND_STREAM, seed)))


def _thing(scene: Scene, number: int) -> SceneObject:
    if not 0 <= number < len(scene.objects):
        raise InputError(f"the scene has {len(scene.objects)} objects, numbered from 0; there is no object {number}")
    return scene.objects[number]


def _known(word: str, words: Iterable[str], what: str) -> None:
    names = tuple(words)
    if word not in names:
        raise InputError(f"there is no {what} {word!r}; choose one of: {', '.join(names)}")


def _put(scene: Scene, number: int, thing: SceneObject) -> Scene:
    for k, other in enumerate(scene.objects):
        if k != number and other.words == thing.words and thing.words != scene.objects[number].words:
            raise InputError(f"the scene has a {thing.colour} {thing.category} already; its caption could not tell the two apart")
    objects = tuple(thing if k == number else other for k, other in enumerate(scene.objects))
    return _settled(dataclasses.replace(scene, objects=objects))


def _settled(scene: Scene) -> Scene:
    """Without `left of` or `right of` where the edit made it untrue."""
    if scene.relation == "and":
        return scene
    if len(scene.mentions) > 1:
        gap = scene.objects[scene.mentions[1]].x - scene.objects[scene.mentions[0]].x
        if abs(gap) > 0.25 and (gap > 0.0) == (scene.relation == "left of"):
            return scene
    return dataclasses.replace(scene, relation="and")
