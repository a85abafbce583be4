"""Pairs of pictures with the clip that truly lies between them, and the banks that make an exact model of what may lie there."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from calotype.imaging.types import Image
from calotype.metrics import Track, centroid_error, ghost_share, jump_ratio, monotonicity, psnr, track
from calotype.world import Motion, Scene, SceneObject, paint, sample_scene
from calotype.world.painting.shapes import CATEGORIES, role_colour
from calotype.world.scenes.exact import Bank

FRAMES = 8
SIZE = 64
"""Side in pixels that errors are given for, whatever size is painted."""
LEAST_DISTANCE = 10.0
"""Pixels at `SIZE` between the object's first and last place; below it the pictures are nearly one, and little has to be made between."""


@dataclass(frozen=True)
class Pair:
    """A start and an end picture of one object, and the truth between them."""

    scene: Scene
    index: int
    """Number of the pair in its experiment; its noise is that of seed + index."""
    size: int = SIZE
    """Side in pixels that it is painted at."""

    @cached_property
    def clip(self) -> Float[Tensor, "frames 3 size size"]:
        """The true clip, pixels in [0, 1]."""
        return paint([self.scene], size=self.size, num_frames=FRAMES)[0]

    @cached_property
    def background(self) -> Float[Tensor, "1 3 size size"]:
        """The clean ground; the camera stands still."""
        return paint([dataclasses.replace(self.scene, objects=(), mentions=())], size=self.size)

    @property
    def start(self) -> Image:
        """The first true frame."""
        return Image(self.clip[0])

    @property
    def end(self) -> Image:
        """The last true frame."""
        return Image(self.clip[-1])

    @property
    def family(self) -> str:
        """The motion's family."""
        return self.scene.objects[0].motion.family

    @cached_property
    def truth(self) -> Track:
        """Where the object truly is, seen through the same eyes as a made clip."""
        return self.follow(self.clip, area=1.0)

    @cached_property
    def area(self) -> float:
        """Pixels that the object covers."""
        return float(self.truth.areas.mean())

    def follow(self, frames: Float[Tensor, "frames 3 size size"], area: float | None = None) -> Track:
        """Follow the pair's object through a clip."""
        return track(frames, self.background, palette(self.scene.objects[0]), self.area if area is None else area)

    def measure(self, frames: Float[Tensor, "frames 3 size size"]) -> dict[str, float]:
        """The metrics of a clip that was made between the two pictures; lengths are in pixels at `SIZE`."""
        found, truth = self.follow(frames), self.truth.centroids
        middle = slice(FRAMES // 2 - 1, FRAMES // 2 + 1)
        one_way = self.family in ("straight", "directed")
        return {
            "end_psnr_db": psnr(frames[-1], self.clip[-1]).item(),
            "start_psnr_db": psnr(frames[0], self.clip[0]).item(),
            "mid_centroid_error_px": float(centroid_error(found, truth)[middle].mean()) * SIZE / self.size,
            "ghost_share": ghost_share(found, self.area),
            "jump_ratio": jump_ratio(found),
            "monotonicity": monotonicity(found, truth[-1] - truth[0]) if one_way else math.nan,
        }


def palette(thing: SceneObject) -> Float[Tensor, "colours 3"]:
    """The colours that the renderer paints this object with."""
    roles = {primitive.role for primitive in CATEGORIES[thing.category].primitives}
    return torch.tensor(sorted({role_colour(thing.colour, role, thing.style) for role in roles}))


def distance(thing: SceneObject) -> float:
    """Pixels at `SIZE` between its first and its last place."""
    return math.hypot(thing.motion.dx, thing.motion.dy) * SIZE


SYMMETRIC = ("straight", "arc", "bounce")


def scenes(preset: str, split: str, seed: int, motion: str) -> Iterator[Scene]:
    """One-object scenes of a family in `SYMMETRIC` that go far enough, in the order of the stream; no two families share a scene."""
    for index in itertools.count(SYMMETRIC.index(motion), len(SYMMETRIC)):
        scene = sample_scene(preset, split=split, seed=seed, index=index, num_frames=FRAMES, objects=1, motion=motion, camera="still")
        if distance(scene.objects[0]) >= LEAST_DISTANCE:
            yield scene


def symmetric_pairs(preset: str, split: str, seed: int, count: int, size: int = SIZE) -> list[Pair]:
    """Pairs whose motion looks the same backwards: first the straight ones, half of them all, then arcs and bounces by turns."""
    streams = {family: scenes(preset, split, seed, family) for family in SYMMETRIC}
    families = ["straight"] * ((count + 1) // 2) + ["arc", "bounce"] * count
    return [Pair(next(streams[family]), index, size) for index, family in enumerate(families[:count])]


def directed_twin(pair: Pair, category: str) -> Pair:
    """The same path on the same ground by a thing that always goes nose-first."""
    thing = pair.scene.objects[0]
    motion = dataclasses.replace(thing.motion, family="directed")
    turned = dataclasses.replace(thing, category=category, angle=math.atan2(motion.dy, motion.dx), flip=False, motion=motion)
    return Pair(dataclasses.replace(pair.scene, objects=(turned,)), pair.index, pair.size)


def at_end(thing: SceneObject) -> SceneObject:
    """The object where and as it is at the last moment."""
    u = np.array([1.0])
    (dx,), (dy,) = thing.motion.offset(u)
    return dataclasses.replace(thing, x=thing.x + float(dx), y=thing.y + float(dy), angle=thing.angle + float(thing.motion.turned(u)[0]))


@lru_cache(maxsize=8)
def motions(preset: str, split: str, seed: int, count: int, directed: bool) -> tuple[tuple[Motion, ...], NDArray[np.float64]]:
    """Motions of one-object scenes as the world draws them, and their displacement at each frame, [count, frames, 2] in sides."""
    drawn: list[Motion] = []
    for index in itertools.count():
        wanted = "directed" if directed else None
        thing = sample_scene(
            preset, split=split, seed=seed, index=index, num_frames=FRAMES, objects=1, motion=wanted, camera="still"
        ).objects[0]
        if (thing.motion.family == "directed") == directed:
            drawn.append(thing.motion)
        if len(drawn) == count:
            break
    u = np.linspace(0.0, 1.0, FRAMES)
    return tuple(drawn), np.stack([np.stack(motion.offset(u), axis=-1) for motion in drawn])


def bank_of(pair: Pair, thing: SceneObject, count: int, seed: int) -> Bank:
    """Rendered clips that all start with this object as it stands, moving as the world's things move: what a perfect model knows.

    Args:
        pair: for the ground and the size.
        thing: the object at the first moment of the clips; its own motion doesn't matter.
        count: number of clips.
        seed: of the motions, which come from the train split.
    """
    directed = CATEGORIES[thing.category].directed
    pool, offsets = motions(pair.scene.preset, "train", seed, 12 * count, directed)
    if directed:
        # A directed thing leaves in the direction of its nose, so every path is turned to begin there.
        pool = tuple(_turned(motion, thing.angle) for motion in pool)
        u = np.linspace(0.0, 1.0, FRAMES)
        offsets = np.stack([np.stack(motion.offset(u), axis=-1) for motion in pool])
    centres = np.array([thing.x, thing.y]) + offsets
    outside = np.maximum(np.abs(centres - 0.5) + 0.85 * thing.radius - 0.5, 0.0).max(axis=(1, 2))
    # The paths that stay in the picture, in the order in which they were drawn; if there are too few, those that leave it least.
    chosen = np.argsort(np.where(outside < 1e-6, 0.0, outside), kind="stable")[:count]
    clips = [dataclasses.replace(pair.scene, objects=(dataclasses.replace(thing, motion=pool[k]),)) for k in chosen]
    return Bank(paint(clips, size=pair.size, num_frames=FRAMES) * 2 - 1)


def _turned(motion: Motion, heading: float) -> Motion:
    """The same path, turned so that it begins in the direction `heading`."""
    return turned_by(motion, heading - math.atan2(motion.dy + 4 * motion.bend_y, motion.dx + 4 * motion.bend_x))


def turned_by(motion: Motion, angle: float) -> Motion:
    """The same path, turned about its start."""
    cos, sin = math.cos(angle), math.sin(angle)
    return dataclasses.replace(
        motion,
        dx=cos * motion.dx - sin * motion.dy,
        dy=sin * motion.dx + cos * motion.dy,
        bend_x=cos * motion.bend_x - sin * motion.bend_y,
        bend_y=sin * motion.bend_x + cos * motion.bend_y,
    )
