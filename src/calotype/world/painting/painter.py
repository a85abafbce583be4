"""The painter: scenes to pixels in batched torch, anti-aliased by signed distances, on any device.

Every primitive of the batch is evaluated on its object's crop only. Coverage is clamp(0.5 - distance in pixels, 0, 1).
A part lies over the parts before it, an object over the objects before it, all over the ground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.world.creatures.drawing import PARTS, Appearance, Creature, primitives
from calotype.world.painting import shapes
from calotype.world.painting.backgrounds import restyle_background
from calotype.world.painting.grounds import on_device, paint_grounds
from calotype.world.painting.motion import Array, moments
from calotype.world.scenes.objects import SceneObject
from calotype.world.scenes.sampling import Scene

Whole = npt.NDArray[np.int64]

PLANES = 6
CHUNK_PIXELS = 1 << 18
"""Pixels painted at a time on the CPU, so that the working set stays in the cache."""


@lru_cache(maxsize=256)
def _table(category: str, colour: str, style: str) -> tuple[Array, Array, Array]:
    """The primitives of an object: numbers [n, 8] (kind, x, y, a, b, rounding, angle, grow), planes [n, 6, 3], colours [n, 4].

    Planes are normal and offset; the fourth column of the colours is the part's id, 0 for the ink line.
    """
    made = shapes.CATEGORIES[category]
    rows, planes, colours = [], [], []
    passes = ((shapes.OUTLINE, True), (0.0, False)) if style == "outlined" else ((0.0, False),)
    for grow, ink in passes:
        for shape in made.primitives:
            rows.append((shape.kind, shape.x, shape.y, shape.a, shape.b, shape.rounding, shape.angle, grow))
            planes.append(_planes(shape.corners))
            rgb = shapes.ACCENTS["ink"] if ink else shapes.role_colour(colour, shape.role, style)
            colours.append((*rgb, 0.0 if ink else float(made.parts.index(shape.part) + 1)))
    return np.array(rows, dtype=np.float64), np.array(planes), np.array(colours)


@lru_cache(maxsize=512)
def _creature_table(look: Appearance, pose: str) -> tuple[Array, Array, Array]:
    """The same for a creature."""
    rows, planes, colours = [], [], []
    for shape, rgb in primitives(look, pose):
        rows.append((shape.kind, shape.x, shape.y, shape.a, shape.b, shape.rounding, shape.angle, 0.0))
        planes.append(_planes(shape.corners))
        colours.append((*rgb, float(PARTS.index(shape.part) + 1)))
    return np.array(rows, dtype=np.float64), np.array(planes), np.array(colours)


def _planes(corners: tuple[tuple[float, float], ...]) -> Array:
    """Outward normals and offsets of a convex polygon's sides; unused rows are never the nearest."""
    made = np.tile(np.array([0.0, 0.0, 1e3]), (PLANES, 1))
    if not corners:
        return made
    centre = np.mean(np.array(corners), axis=0)
    for number, (start, end) in enumerate(zip(corners, corners[1:] + corners[:1], strict=True)):
        normal = np.array([end[1] - start[1], start[0] - end[0]])
        normal /= math.hypot(normal[0], normal[1])
        offset = float(normal @ np.array(start))
        if float(normal @ centre) > offset:
            normal, offset = -normal, -offset
        made[number] = (normal[0], normal[1], offset)
    return made


@dataclass
class Instances:
    """Objects at moments, ready to be painted: one row per object and frame. Pixels are of the picture."""

    picture: Whole
    """Number of the picture that each row belongs to, [n]."""
    rank: Whole
    """Depth of each row in its picture, 0 is hindmost, [n]."""
    centre: Array
    """Centre in pixels, [n, 2]."""
    radius: Array
    """Radius in pixels, [n]."""
    matrix: Array
    """From the picture's directions to the object's own (turned back, mirrored back), [n, 2, 2]."""
    primitives: Array
    """Numbers of the primitives of each row's object, [n, slots, 8]; kind -1 where there is none."""
    planes: Array
    """[n, slots, 6, 3]."""
    colours: Array
    """[n, slots, 4]."""

    def rows(self, which: Whole) -> Instances:
        """Some of the rows."""
        return Instances(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def gather(objects: Sequence[tuple[int, int, SceneObject, tuple[Array, Array, Array, Array]]], frames: int, size: int) -> Instances:
    """Instances of objects, each with its first picture's number, its rank and its placement at `frames` consecutive pictures."""
    tables = [
        _creature_table(thing.look, thing.pose) if isinstance(thing, Creature) else _table(thing.category, thing.colour, thing.style)
        for _, _, thing, _ in objects
    ]
    slots = max(len(table[0]) for table in tables)
    count = len(objects)
    primitives, planes, colours = np.zeros((count, slots, 8)), np.zeros((count, slots, PLANES, 3)), np.zeros((count, slots, 4))
    primitives[:, :, 0] = -1.0
    for row, (numbers, sides, rgb) in enumerate(tables):
        primitives[row, : len(numbers)], planes[row, : len(numbers)], colours[row, : len(numbers)] = numbers, sides, rgb
    placed = np.array([placement for _, _, _, placement in objects])  # [count, 4, frames]
    mirror = np.array([-1.0 if thing.flip else 1.0 for _, _, thing, _ in objects])[:, None]
    cos, sin = np.cos(placed[:, 3]), np.sin(placed[:, 3])
    matrix = np.stack([np.stack([mirror * cos, mirror * sin], -1), np.stack([-sin, cos], -1)], -2)  # [count, frames, 2, 2]
    repeat = np.repeat(np.arange(count), frames)
    return Instances(
        picture=(np.array([first for first, _, _, _ in objects], dtype=np.int64)[:, None] + np.arange(frames)).reshape(-1),
        rank=np.repeat(np.array([rank for _, rank, _, _ in objects], dtype=np.int64), frames),
        centre=placed[:, :2].transpose(0, 2, 1).reshape(-1, 2) * size,
        radius=placed[:, 2].reshape(-1) * size,
        matrix=matrix.reshape(-1, 2, 2),
        primitives=primitives[repeat],
        planes=planes[repeat],
        colours=colours[repeat],
    )


def corners(instances: Instances, crop: int) -> Whole:
    """Top left pixels (x, y) of square crops with an even side around the objects, [rows, 2]."""
    made: Whole = np.floor(instances.centre + 0.5).astype(np.int64) - crop // 2
    return made


def coverage(instances: Instances, crop: int, device: torch.device) -> Float[Tensor, "rows slots crop crop"]:
    """How much of each pixel each primitive covers, 0..1, on the crops at `corners`.

    Distances are counted from the crop's middle, so that they don't depend on the crop's side.
    """
    rows, slots = instances.primitives.shape[:2]
    made = torch.zeros((rows * slots, crop * crop), device=device)
    numbers = instances.primitives.reshape(-1, 8)
    centre = np.repeat(instances.centre - np.floor(instances.centre + 0.5) - 0.5, slots, axis=0)
    scale = np.repeat(instances.radius, slots)
    matrix = np.repeat(instances.matrix, slots, axis=0)
    planes = instances.planes.reshape(-1, PLANES, 3)
    grid = torch.arange(crop, device=device, dtype=torch.float32) - crop // 2
    for kind in range(7):
        which = np.flatnonzero(numbers[:, 0] == kind)
        if not len(which):
            continue
        own, radius = numbers[which], scale[which]
        cos, sin = np.cos(own[:, 6]), np.sin(own[:, 6])
        turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2) @ matrix[which]
        shift = np.einsum("nij,nj->ni", turn, centre[which])
        local = np.stack([cos * own[:, 1] + sin * own[:, 2], -sin * own[:, 1] + cos * own[:, 2]], -1)
        shift = shift + local * radius[:, None]
        grow = own[:, 7] * radius
        if kind == shapes.POLYGON:
            normal = np.einsum("npi,nij->npj", planes[which][:, :, :2], turn)
            offset = np.einsum("npi,ni->np", planes[which][:, :, :2], shift) + planes[which][:, :, 2] * radius[:, None]
            used = int((planes[which][:, :, 2] < 100.0).sum(axis=1).max())
            distance = _polygon(
                on_device(normal[:, :used], device), on_device(offset[:, :used], device), on_device(own[:, 5] * radius, device), grid
            )
        else:
            a, b, rounding = (on_device(own[:, column] * radius, device)[:, None, None] for column in (3, 4, 5))
            m, t = on_device(turn, device), on_device(shift, device)
            u = (m[:, 0, 0, None] * grid - t[:, 0, None])[:, None, :] + (m[:, 0, 1, None] * grid)[:, :, None]
            v = (m[:, 1, 0, None] * grid - t[:, 1, None])[:, None, :] + (m[:, 1, 1, None] * grid)[:, :, None]
            distance = _DISTANCES[kind](u, v, a, b, rounding)
        covered = (0.5 + on_device(grow, device)[:, None, None] - distance).clamp_(0.0, 1.0)
        made.index_copy_(0, torch.from_numpy(which).to(device), covered.flatten(1))
    return made.view(rows, slots, crop, crop)


def _polygon(normal: Tensor, offset: Tensor, rounding: Tensor, grid: Tensor) -> Tensor:
    """Distance to a convex polygon with round corners: sides are moved in by the radius, and the corner's distance is Euclidean."""
    radius = rounding[:, None, None]
    inner, square = torch.full((1,), -math.inf, device=grid.device), torch.zeros(1, device=grid.device)
    for side in range(normal.shape[1]):
        away = (normal[:, side, 0, None] * grid + (rounding - offset[:, side])[:, None])[:, None, :] + (normal[:, side, 1, None] * grid)[
            :, :, None
        ]
        inner = torch.maximum(inner, away)
        square = away.clamp(min=0.0).square_().add_(square)
    return square.sqrt_() + inner.clamp(max=0.0) - radius


def _circle(u: Tensor, v: Tensor, a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
    return (u.square() + v.square()).sqrt_() - a


def _ellipse(u: Tensor, v: Tensor, a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
    """First-order distance to an ellipse, exact on it: k (k - 1) / |gradient|."""
    p, q = u / a, v / b
    k = (p.square() + q.square()).sqrt_()
    slope = ((p / a).square_() + (q / b).square_()).sqrt_().clamp_(min=1e-6)
    return k * (k - 1.0) / slope


def _box(u: Tensor, v: Tensor, a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
    p, q = u.abs() - (a - rounding), v.abs() - (b - rounding)
    return (p.clamp(min=0.0).square_() + q.clamp(min=0.0).square_()).sqrt_() + torch.maximum(p, q).clamp_(max=0.0) - rounding


def _ring(u: Tensor, v: Tensor, a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
    return ((u.square() + v.square()).sqrt_() - a).abs_() - b


def _star(u: Tensor, v: Tensor, a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
    """Five-pointed star, one point up: folded twice into one flank of a point, then the distance to that flank's line."""
    for angle in (math.pi / 5.0, -math.pi / 5.0):
        nx, ny = math.cos(angle), math.sin(angle)
        u = u.abs() if angle > 0 else u
        # Mirror whatever lies beyond the line through the centre at that angle from the point's axis.
        beyond = (nx * u + ny * v).clamp_(min=0.0) if angle > 0 else (-nx * u - ny * v).clamp_(min=0.0)
        u, v = (u - 2.0 * beyond * nx, v - 2.0 * beyond * ny) if angle > 0 else (u + 2.0 * beyond * nx, v + 2.0 * beyond * ny)
    u = u.abs()
    inner_x, inner_y = b * math.sin(math.pi / 5.0), -b * math.cos(math.pi / 5.0)
    edge_x, edge_y = inner_x, inner_y + a
    length = (edge_x.square() + edge_y.square()).sqrt()
    return (u * edge_y - (v + a) * edge_x) / length


def _dome(u: Tensor, v: Tensor, a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
    return torch.maximum(_ellipse(u, v, a, b, rounding), v)


_DISTANCES = {
    shapes.CIRCLE: _circle,
    shapes.ELLIPSE: _ellipse,
    shapes.BOX: _box,
    shapes.RING: _ring,
    shapes.STAR: _star,
    shapes.DOME: _dome,
}
"""Signed distance in pixels to a shape around the origin, of the arguments u, v, a, b and rounding (all in pixels)."""


def part_colours(instances: Instances, device: torch.device) -> Float[Tensor, "rows slots 3"]:
    """The sRGB colour of each primitive."""
    return on_device(instances.colours[:, :, :3], device)


def blend(covered: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Parts over parts: coverage [rows, slots, pixels] to premultiplied colour [rows, 3, pixels] and the share left [rows, 1, pixels]."""
    left = torch.ones_like(covered[:, 0])
    weights = torch.empty_like(covered)
    for slot in range(covered.shape[1] - 1, -1, -1):
        torch.mul(covered[:, slot], left, out=weights[:, slot])
        left = left - weights[:, slot]
    return torch.bmm(colours.transpose(1, 2), weights), left[:, None]


def paint(
    scenes: Sequence[Scene], *, size: int = 64, num_frames: int | None = None, device: str | torch.device = "cpu"
) -> Float[Tensor, "batch channels height width"] | Float[Tensor, "batch frames channels height width"]:
    """Paint scenes as pictures (their first moment) or, with `num_frames`, as clips.

    Args:
        scenes: one or more scenes.
        size: the picture's side in pixels, 16 to 2048.
        num_frames: None for pictures, else the number of frames, evenly spaced in time.
        device: where to paint.

    Returns:
        sRGB in [0, 1], float32: [B, 3, size, size], or [B, F, 3, size, size] for clips.

    Raises:
        InputError: no scenes, or a size or number of frames out of range.

    >>> from calotype.world.scenes.sampling import sample_scene
    >>> paint([sample_scene("small", seed=0, index=i, num_frames=8) for i in range(3)], size=32, num_frames=8).shape
    torch.Size([3, 8, 3, 32, 32])
    """
    if not scenes:
        raise InputError("paint needs at least one scene, none was given")
    if not 16 <= size <= 2048:
        raise InputError(f"size must be 16 to 2048 pixels, not {size}")
    if num_frames is not None and num_frames < 1:
        raise InputError(f"num_frames must be 1 or more, not {num_frames}")
    place = torch.device(device)
    frames = num_frames or 1
    made = torch.empty((len(scenes) * frames, 3, size, size), device=place)
    chunk = max(1, CHUNK_PIXELS // (size * size * frames)) if place.type == "cpu" else max(1, (1 << 25) // (size * size * frames))
    with torch.no_grad():
        for start in range(0, len(scenes), chunk):
            part = scenes[start : start + chunk]
            _paint_chunk(part, size, frames, place, made[start * frames : (start + len(part)) * frames])
    return made if num_frames is None else made.view(len(scenes), frames, 3, size, size)


def _paint_chunk(scenes: Sequence[Scene], size: int, frames: int, device: torch.device, out: Tensor) -> None:
    u = moments(frames)
    objects = [
        (number * frames, rank, thing, thing.placement(scene.camera, u))
        for number, scene in enumerate(scenes)
        for rank, thing in enumerate(scene.objects)
    ]
    grounds = paint_grounds([(restyle_background(scene.background, scene.style), scene.camera) for scene in scenes], u, size, device)
    if not objects:
        out.copy_(grounds)
        return
    instances = gather(objects, frames, size)
    crop = 2 * math.ceil(float(instances.radius.max()) * (1.0 + shapes.OUTLINE) + 1.5)
    instances = instances.rows(np.flatnonzero(np.all(np.abs(instances.centre - size / 2) < size / 2 + crop / 2, axis=1)))
    wide = size + 2 * crop
    canvas = torch.zeros((len(out), 3, wide, wide), device=device)
    canvas[:, :, crop : crop + size, crop : crop + size] = grounds
    canvas = canvas.view(len(out), 3, wide * wide)
    corner = corners(instances, crop) + crop
    grid = torch.arange(crop, device=device)
    pixels = (grid[:, None] * wide + grid).view(-1)
    for rank in range(int(instances.rank.max()) + 1 if len(instances.rank) else 0):
        which = np.flatnonzero(instances.rank == rank)
        chosen = instances.rows(which)
        colour, left = blend(coverage(chosen, crop, device).flatten(2), part_colours(chosen, device))
        where = torch.from_numpy(corner[which, 1] * wide + corner[which, 0]).to(device)[:, None, None] + pixels
        rows = torch.from_numpy(chosen.picture).to(device)[:, None, None]
        channels = torch.arange(3, device=device)[None, :, None]
        canvas[rows, channels, where] = canvas[rows, channels, where] * left + colour
    out.copy_(canvas.view(len(out), 3, wide, wide)[:, :, crop : crop + size, crop : crop + size])
