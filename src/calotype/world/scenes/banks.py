"""What an exact model knows: the clips that may begin with a scene's first moment, and the pictures that fit a caption."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.world.painting.motion import FAMILIES, Array, Camera, Motion
from calotype.world.painting.painter import paint
from calotype.world.painting.shapes import CATEGORIES
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.placing import INSIDE, paths
from calotype.world.scenes.sampling import Preset, Scene, find_preset, sample_scene

_MOMENTS = np.linspace(0.0, 1.0, 8)
_ROUNDS = 40


def at_moment(scene: Scene, u: float) -> Scene:
    """The scene as it stands at a moment of its clip, nothing moving.

    >>> scene = sample_scene("small", seed=0, index=0, num_frames=8, motion="straight")
    >>> bool((paint([at_moment(scene, 1.0)], size=32)[0] - paint([scene], size=32, num_frames=8)[0, -1]).abs().max() < 1e-3)
    True
    """
    moment = np.array([u])
    x, y, zoom = (float(value[0]) for value in np.broadcast_arrays(*scene.camera.view(moment)))
    things = []
    for thing in scene.objects:
        dx, dy = (float(value[0]) for value in thing.motion.offset(moment))
        angle = thing.angle + float(thing.motion.turned(moment)[0])
        things.append(dataclasses.replace(thing, x=thing.x + dx, y=thing.y + dy, angle=angle, motion=Motion()))
    return dataclasses.replace(scene, objects=tuple(things), camera=Camera(x=x - 0.5, y=y - 0.5, zoom=zoom), num_frames=1)


def clips_from(
    scene: Scene,
    *,
    count: int = 1536,
    size: int = 32,
    num_frames: int = 8,
    seed: int = 0,
    families: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> Float[Tensor, "count frames 3 size size"]:
    """Clips that all begin with the scene's first moment, moving as its world's things move: what a perfect model of the world expects.

    The first object moves, every other one rests as often as the world's presets say; each path stays in the picture and clear of the
    other objects. A directed object keeps its heading and leaves nose-first. The camera stands still. Paths come from a scrambled Sobol
    sequence, so that they cover what is possible more evenly than independent draws would.

    Args:
        scene: for its first moment; how its objects move doesn't matter.
        count: number of clips.
        size: side in pixels.
        num_frames: frames of each clip.
        seed: of the motions.
        families: the motion families of the undirected objects, all equally likely; None: the world's.

    Returns:
        Pixels in [-1, 1], float32: the samples of a `Bank`. About 800 clips a second at 32 px on one core.

    Raises:
        InputError: no object, a family that isn't known, or an object that has nowhere to go.

    >>> scene = sample_scene("small", seed=0, index=0)
    >>> clips = clips_from(scene, count=4)
    >>> clips.shape, bool((clips[:, 0] == clips[0, 0]).all())
    (torch.Size([4, 8, 3, 32, 32]), True)
    """
    if not scene.objects or count < 1:
        raise InputError(f"{count} clips of a scene with {len(scene.objects)} objects were asked for; both must be at least 1")
    unknown = [family for family in families or () if family not in (*FAMILIES[:4], "still")]
    if unknown or (families is not None and not families):
        raise InputError(f"motion families {unknown or families} can't be forced; choose some of: {', '.join((*FAMILIES[:4], 'still'))}")
    first = at_moment(scene, 0.0)
    clips = [
        dataclasses.replace(first, objects=tuple(dataclasses.replace(t, motion=m) for t, m in zip(first.objects, motions, strict=True)))
        for motions in _motions(first, count, seed, tuple(families or FAMILIES[:4]))
    ]
    return paint(clips, size=size, num_frames=num_frames, device=device) * 2.0 - 1.0


def _motions(scene: Scene, count: int, seed: int, families: tuple[str, ...]) -> list[tuple[Motion, ...]]:
    """`count` joint motions of the objects that fit."""
    world = find_preset(scene.preset)
    engine = torch.quasirandom.SobolEngine(7 * len(scene.objects), scramble=True, seed=seed)
    chosen: list[tuple[Motion, ...]] = []
    for _ in range(_ROUNDS):
        numbers = engine.draw(2 * count).double().numpy()
        drawn = [
            _drawn(thing, numbers[:, 7 * i : 7 * i + 7], families, world.still_share if i else 0.0, world.turn)
            for i, thing in enumerate(scene.objects)
        ]
        fits = _fits(scene, [offsets for _, offsets in drawn], world.spacing)
        chosen += [tuple(motions[row] for motions, _ in drawn) for row in np.flatnonzero(fits)]
        if len(chosen) >= count:
            return chosen[:count]
    raise InputError(f"only {len(chosen)} of {count} paths fit; the objects of this scene have nowhere to go, give it more room")


def _drawn(
    thing: SceneObject, numbers: Array, families: tuple[str, ...], rests: float, turn: tuple[float, float]
) -> tuple[list[Motion], Array]:
    """A motion per row of uniform numbers [n, 7], and where it leads, [n, 2, moments] in sides."""
    category = CATEGORIES[thing.category]
    names = ("directed",) if category.directed else families
    which = np.minimum((numbers[:, 0] * len(names)).astype(int), len(names) - 1)
    motions = [Motion()] * len(numbers)
    offsets = np.zeros((len(numbers), 2, len(_MOMENTS)))
    moving = numbers[:, 6] >= rests
    for number, family in enumerate(names):
        rows = np.flatnonzero((which == number) & moving)
        if not len(rows):
            continue
        part = numbers[rows]
        dx, dy, bend_x, bend_y, hops, height = paths(part, part[:, 2], family, category.level, turn[1])
        turned = np.zeros(len(rows))
        if family == "turning":
            turned = (turn[0] + (turn[1] - turn[0]) * part[:, 2]) * np.where(part[:, 3] < 0.5, 1.0, -1.0)
        if family == "directed":
            heading = thing.angle + (math.pi if thing.flip else 0.0)
            angle = heading - np.arctan2(dy + 4.0 * bend_y, dx + 4.0 * bend_x)
            dx, dy = np.cos(angle) * dx - np.sin(angle) * dy, np.sin(angle) * dx + np.cos(angle) * dy
            bend_x, bend_y = np.cos(angle) * bend_x - np.sin(angle) * bend_y, np.sin(angle) * bend_x + np.cos(angle) * bend_y
        for place, row in enumerate(rows):
            motions[row] = Motion(
                family=family,
                dx=float(dx[place]),
                dy=float(dy[place]),
                bend_x=float(bend_x[place]),
                bend_y=float(bend_y[place]),
                hops=int(hops[place]),
                height=float(height[place]),
                turn=float(turned[place]),
            )
            offsets[row] = motions[row].offset(_MOMENTS)
    return motions, offsets


def _fits(scene: Scene, offsets: list[Array], spacing: float) -> Array:
    """Which rows keep every object in the picture and clear of the others, or at least no worse than they stand."""
    camera = scene.camera
    view_x, view_y, zoom = (float(np.asarray(value).reshape(-1)[0]) for value in camera.view(np.zeros(1)))
    centres = []
    for thing, path in zip(scene.objects, offsets, strict=True):
        start = np.array([thing.x - view_x, thing.y - view_y])
        centres.append((start[:, None] + path) * zoom)
    fits = np.ones(len(offsets[0]), dtype=bool)
    for i, (thing, centre) in enumerate(zip(scene.objects, centres, strict=True)):
        outside = np.abs(centre).max(axis=1) + INSIDE * thing.radius * zoom - 0.5
        fits &= (outside <= np.maximum(outside[:, :1], 0.0) + 1e-6).all(axis=1)
        for other, there in zip(scene.objects[:i], centres[:i], strict=True):
            near = spacing * (thing.radius + other.radius) * zoom - np.hypot(*(centre - there).transpose(1, 0, 2))
            fits &= (near <= np.maximum(near[:, :1], 0.0) + 1e-6).all(axis=1)
    return fits


def pictures(
    preset: str | Preset = "small", *, count: int = 2048, size: int = 32, caption: str | None = None, seed: int = 0, split: str = "train"
) -> Float[Tensor, "count 3 size size"]:
    """Pictures of a world, or those that a caption may mean.

    Args:
        preset: the world.
        count: number of pictures.
        size: side in pixels.
        caption: as `Scene.caption` writes it, with one or two objects; None is any scene.
        seed, split: of the scenes.

    Returns:
        Pixels in [-1, 1], float32: the samples of a `Bank`.

    Raises:
        InputError: the caption isn't of this world.

    >>> pictures(count=3, caption="a red ball on sand").shape
    torch.Size([3, 3, 32, 32])
    """
    world = find_preset(preset)
    if caption is None:
        scenes = [sample_scene(world, split=split, seed=seed, index=index) for index in range(count)]
    else:
        scenes = _captioned(world, caption, count, seed, split)
    return paint(scenes, size=size) * 2.0 - 1.0


def _captioned(world: Preset, caption: str, count: int, seed: int, split: str) -> list[Scene]:
    words = caption.split()
    things = [(words[i], words[i - 1]) for i in range(1, len(words)) if words[i] in world.categories and words[i - 1] in world.colours]
    if len(things) not in (1, 2) or words[-1] not in world.backgrounds:
        raise InputError(f"the caption {caption!r} isn't of the world {world.name!r}; write it like {sample_scene(world).caption!r}")
    names = tuple(dict.fromkeys(category for category, _ in things))
    narrow = dataclasses.replace(world, categories=names, backgrounds=(words[-1],), styles=("flat",))
    scenes: list[Scene] = []
    for index in range(200 * count):
        scene = sample_scene(narrow, split=split, seed=seed, index=index, objects=len(things))
        # The colour says nothing about place or size, so a scene of other colours is as good once it is recoloured.
        objects = list(scene.objects)
        for place, (category, colour) in zip(scene.mentions, things, strict=True):
            if objects[place].category == category:
                objects[place] = dataclasses.replace(objects[place], colour=colour)
        scene = dataclasses.replace(scene, objects=tuple(objects))
        if scene.caption == caption:
            scenes.append(scene)
            if len(scenes) == count:
                return scenes
    raise InputError(
        f"the caption {caption!r} fits only {len(scenes)} of {200 * count} scenes; write it like {sample_scene(world).caption!r}"
    )
