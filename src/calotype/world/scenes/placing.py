"""Where an object starts and how it goes, so that it stays in the picture and clear of the others."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from calotype.world.painting.motion import Array, Camera, Motion
from calotype.world.painting.rng import Rng
from calotype.world.painting.shapes import CATEGORIES
from calotype.world.scenes.objects import SceneObject

TRIES = 96
PATH = (3.5 / 64.0, 35.0 / 64.0)
"""Shortest and longest path of a moving object, in sides."""
MOST_BEND = 0.16
"""Of a directed object's path, as a share of its length."""
INSIDE = 0.85
"""The centre keeps this many radii away from the picture's edge."""

_U = np.linspace(0.0, 1.0, 7)


def place(
    rng: Rng, thing: SceneObject, family: str, camera: Camera, others: list[SceneObject], *, spacing: float, turn: tuple[float, float]
) -> SceneObject:
    """The object with a place, an attitude and a motion of that family: the first of many tries that fits, or the one that fits best."""
    category = CATEGORIES[thing.category]
    numbers = rng.block(TRIES, 6)
    # One length for most tries: taking the first path that fits would otherwise prefer short ones.
    length = np.where(np.arange(TRIES) < 2 * TRIES // 3, numbers[0, 2], numbers[:, 2])
    dx, dy, bend_x, bend_y, hops, height = paths(numbers, length, family, category.level, turn[1])
    u = _U if family not in ("still", "turning") or camera.moves else _U[:1]
    middle = 4.0 * u * (1.0 - u)
    x0 = numbers[:, 0] * (1.0 - 1.6 * thing.radius) + 0.8 * thing.radius
    y0 = numbers[:, 1] * (1.0 - 1.6 * thing.radius) + 0.8 * thing.radius
    world_x = x0[:, None] + dx[:, None] * u + bend_x[:, None] * middle
    world_y = y0[:, None] + dy[:, None] * u + bend_y[:, None] * middle - height[:, None] * np.abs(np.sin(np.pi * hops[:, None] * u))
    view_x, view_y, zoom = camera.view(u)
    x, y, radius = (world_x - view_x) * zoom + 0.5, (world_y - view_y) * zoom + 0.5, thing.radius * zoom
    outside = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) + INSIDE * radius - 0.5
    badness = np.maximum(outside, 0.0).max(axis=1)
    for other in others:
        other_x, other_y, other_radius, _ = other.placement(camera, u)
        near = spacing * (radius + other_radius) - np.hypot(x - other_x, y - other_y)
        badness = np.maximum(badness, np.maximum(near, 0.0).max(axis=1))
    best = int(np.argmax(badness <= 1e-6)) if bool((badness <= 1e-6).any()) else int(np.argmin(badness))
    turned = 0.0
    if family == "turning":
        turned = rng.between(*turn) * (1.0 if rng.chance(0.5) else -1.0)
    moving = family != "still"
    motion = Motion(
        family=family,
        dx=_plain(dx[best]),
        dy=_plain(dy[best]),
        bend_x=_plain(bend_x[best]),
        bend_y=_plain(bend_y[best]),
        hops=int(hops[best]) if family == "bounce" else 0,
        height=_plain(height[best]),
        turn=turned,
    )
    if category.directed:
        heading = math.atan2(motion.dy + 4.0 * motion.bend_y, motion.dx + 4.0 * motion.bend_x) if moving else _heading(rng, category.level)
        angle, flip = _aim(heading, category.level)
    else:
        angle, flip = rng.between(-category.tilt, category.tilt), rng.chance(0.5)
    return dataclasses.replace(thing, x=_plain(x0[best]), y=_plain(y0[best]), angle=_plain(angle), flip=flip, motion=motion)


def paths(numbers: Array, length: Array, family: str, level: bool, most_turn: float) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Displacement, bend, hops and height of every try, made from uniform numbers: `length`, and the columns 3 to 5 of `numbers`.

    A directed object's heading changes by `most_turn` at the most, in radians.
    """
    none = np.zeros(len(numbers))
    if family in ("still", "turning"):
        return none, none, none, none, none, none
    path = PATH[0] * (PATH[1] / PATH[0]) ** length
    direction = 2.0 * math.pi * numbers[:, 3]
    if family == "directed" and level:
        direction = np.where(numbers[:, 3] < 0.5, 0.0, math.pi) + 0.5 * (numbers[:, 5] - 0.5)
    side = np.where(numbers[:, 4] < 0.5, -1.0, 1.0)
    amount = np.abs(2.0 * numbers[:, 4] - 1.0)
    if family == "bounce":
        hops = np.where(numbers[:, 4] < 0.5, 1.0, 2.0)
        across = path * (0.2 + 0.5 * amount)
        height = np.minimum((path - across) / (2.0 * hops), 0.3)
        return across * np.where(direction < math.pi, -1.0, 1.0), none, none, none, hops, height
    dx, dy = path * np.cos(direction), path * np.sin(direction)
    if family == "straight":
        return dx, dy, none, none, none, none
    if family == "directed":
        # A parabola of that bend changes its heading by 2 atan(4 bend / path) from end to end.
        most = min(MOST_BEND, math.tan(min(most_turn, math.pi / 2) / 2) / 4)
        bend = 0.0 * path if level else path * side * most * amount
        return dx, dy, -bend * np.sin(direction), bend * np.cos(direction), none, none
    bend = path * side * (0.25 + 0.25 * amount)
    return 0.8 * dx, 0.8 * dy, -0.8 * bend * np.sin(direction), 0.8 * bend * np.cos(direction), none, none


def _heading(rng: Rng, level: bool) -> float:
    if level:
        return (0.0 if rng.chance(0.5) else math.pi) + rng.between(-0.25, 0.25)
    return rng.between(-math.pi, math.pi)


def _aim(heading: float, level: bool) -> tuple[float, bool]:
    """Angle and mirroring that turn the nose to the heading."""
    if level and math.cos(heading) < 0.0:
        return math.remainder(heading - math.pi, 2.0 * math.pi), True
    return math.remainder(heading, 2.0 * math.pi), False


def _plain(value: float) -> float:
    return round(float(value), 5) + 0.0
