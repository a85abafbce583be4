"""Pictures of critters with exact depth, parts, things and normals: rays against capsules, boxes and the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError
from calotype.world.critters.anatomy import PARTS
from calotype.world.critters.cameras import TableCamera
from calotype.world.critters.primitives import Box, Capsule, Primitive
from calotype.world.critters.sampling import TABLES, CritterScene

NOTHING, TABLE = -2, -1
"""Values of the map of things where a ray meets none of them: it goes past the table, or it meets the table."""
AMBIENT = 0.55
"""Share of a colour that needs no light."""
FAR = 1e6
TABLE_EDGE = 3.0
"""Metres from the middle to where the table ends."""
SKY = (0.80, 0.84, 0.88)


@dataclass(frozen=True, eq=False)
class Rendering:
    """Pictures of scenes, and what is seen in every pixel."""

    image: Float[Tensor, "pictures 3 height width"]
    """In [0, 1]."""
    depth: Float[Tensor, "pictures height width"]
    """Metres along the camera's axis at the middle of each pixel; 0 where there is nothing."""
    part: Int[Tensor, "pictures height width"]
    """Number in `PARTS`; -1 where there is no part of a critter."""
    thing: Int[Tensor, "pictures height width"]
    """Number of the critter or, after all critters, of the distractor; `TABLE` or `NOTHING`."""
    normal: Float[Tensor, "pictures 3 height width"]
    """Unit vectors out of the surfaces, in the world's axes; 0 where there is nothing."""
    point: Float[Tensor, "pictures 3 height width"]
    """What is seen, in metres in the world; 0 where there is nothing."""


def render_views(
    scene: CritterScene, cameras: Sequence[TableCamera], height: int, *, samples: int = 2, device: str | torch.device = "cpu"
) -> Rendering:
    """Pictures of one scene by several cameras; see `render_pictures`."""
    return render_pictures([scene] * len(cameras), cameras, height, samples=samples, device=device)


@torch.no_grad()
def render_pictures(
    scenes: Sequence[CritterScene], cameras: Sequence[TableCamera], height: int, *, samples: int = 2, device: str | torch.device = "cpu"
) -> Rendering:
    """A picture of each scene by the camera of the same number. Depth and the rest are those of the rays through the pixels' middles.

    Args:
        scenes: one or more.
        cameras: as many, all of one shape.
        height: of the pictures in pixels, 16 to 2048.
        samples: colours are the mean of `samples` x `samples` rays a pixel.
        device: where to compute.

    Raises:
        InputError: no scenes, not as many cameras, cameras of different shapes, or a number out of range.

    Example:
        >>> from calotype.world.critters.sampling import sample_critter_picture
        >>> scene, camera = sample_critter_picture(split="tune", seed=1, index=0)
        >>> made = render_pictures([scene], [camera], 32)
        >>> tuple(made.image.shape), made.part.max().item() < len(PARTS)
        ((1, 3, 32, 32), True)
    """
    if not scenes or len(scenes) != len(cameras):
        raise InputError(f"{len(scenes)} scenes and {len(cameras)} cameras; give at least one scene, and a camera for each")
    if not 16 <= height <= 2048 or not 1 <= samples <= 8:
        raise InputError(f"pictures of {height} px with {samples} x {samples} rays a pixel; give 16 to 2048 px and 1 to 8 rays")
    if len({camera.across for camera in cameras}) > 1:
        raise InputError("the cameras have pictures of different shapes; render them apart")
    made = [_render(scene, camera, height, samples, torch.device(device)) for scene, camera in zip(scenes, cameras, strict=True)]
    return Rendering(*(torch.stack(maps) for maps in zip(*made, strict=True)))


def _render(scene: CritterScene, camera: TableCamera, height: int, samples: int, device: torch.device) -> tuple[Tensor, ...]:
    """The maps of one `Rendering`, in its order."""
    caster = _Caster(scene, camera, device)
    seen = caster.cast(height)
    image = caster.colours(seen if samples == 1 else caster.cast(height * samples))
    if samples > 1:
        image = functional.avg_pool2d(image[None], samples)[0]
    found = seen.thing > NOTHING
    return image, seen.depth * found, seen.part, seen.thing, seen.normal * found, seen.point * found


@dataclass(frozen=True, eq=False)
class _Seen:
    """What rays meet; maps [H, W], vectors [3, H, W]. `solid` counts capsules, then boxes, then the table, then nothing."""

    depth: Tensor
    solid: Tensor
    part: Tensor
    thing: Tensor
    normal: Tensor
    point: Tensor


class _Caster:
    """One scene as tables of numbers, seen by one camera. Only rays near a solid's outline in the picture are tried against it."""

    def __init__(self, scene: CritterScene, camera: TableCamera, device: torch.device) -> None:
        self.camera, self.device = camera, device
        solids = scene.solids()
        self.capsules = [(solid, thing) for solid, thing in solids if isinstance(solid, Capsule)]
        self.boxes = [(solid, thing) for solid, thing in solids if isinstance(solid, Box)]
        ordered: list[tuple[Capsule | Box, int]] = [*self.capsules, *self.boxes]
        self.colour = self._table([*(solid.colour for solid, _ in ordered), TABLES[scene.table], SKY])
        self.part = torch.tensor([*(-1 if solid.part is None else PARTS.index(solid.part) for solid, _ in ordered), -1, -1], device=device)
        self.thing = torch.tensor([*(thing for _, thing in ordered), TABLE, NOTHING], device=device)
        self.light, self.eye = self._table(scene.light), self._table(camera.eye)
        self.moved = camera.camera_from_world().to(device)

    def _table(self, rows: object) -> Tensor:
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def cast(self, height: int) -> _Seen:
        """What the rays through the pixels' middles meet first."""
        width, focal = self.camera.width(height), self.camera.focal * height
        down = (torch.arange(height, device=self.device) + 0.5 - height / 2).view(-1, 1) / focal
        across = (torch.arange(width, device=self.device) + 0.5 - width / 2).view(1, -1) / focal
        local = torch.stack([across.expand(height, width), down.expand(height, width), torch.ones(height, width, device=self.device)])
        length = (across**2 + down**2 + 1.0).sqrt()
        ray = (self.moved[:3, :3].T @ (local / length).flatten(1)).view(3, height, width)
        distance, solid = self._first(ray)
        point = self.eye.view(3, 1, 1) + distance * ray
        return _Seen(distance / length, solid, self.part[solid], self.thing[solid], self._normals(point, solid), point)

    def colours(self, seen: _Seen) -> Tensor:
        """Lambert's law with one distant light."""
        lit = torch.einsum("chw,c->hw", seen.normal, self.light).clamp(min=0.0)
        bright = torch.where(seen.thing == NOTHING, 1.0, AMBIENT + (1.0 - AMBIENT) * lit)
        return (self.colour[seen.solid].permute(2, 0, 1) * bright).clamp(0.0, 1.0)

    def _first(self, ray: Tensor) -> tuple[Tensor, Tensor]:
        """Distance along each ray, and the solid that it meets first."""
        table = len(self.capsules) + len(self.boxes)
        plane = -self.eye[2] / torch.where(ray[2] < -1e-6, ray[2], -1e-9)
        reached = self.eye[:2].view(2, 1, 1) + plane * ray[:2]
        on_table = (plane > 0) & (reached.abs().amax(0) < TABLE_EDGE)
        best = torch.where(on_table, plane, FAR)
        solid = torch.where(on_table, table, table + 1)
        ordered: list[tuple[Capsule | Box, int]] = [*self.capsules, *self.boxes]
        for number, (thing, _) in enumerate(ordered):
            place = self._window(thing, ray.shape[1], ray.shape[2])
            here = ray[:, place[0], place[1]]
            if here.numel():
                met = self._capsule(here, thing) if isinstance(thing, Capsule) else self._box(here, thing)
                nearer = met < best[place]
                best[place] = torch.where(nearer, met, best[place])
                solid[place] = torch.where(nearer, number, solid[place])
        return torch.where(best < FAR, best, 0.0), solid

    def _window(self, thing: Primitive, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the picture that a solid can be seen in."""
        if isinstance(thing, Capsule):
            middles, size = self._table([thing.start, thing.end]), thing.radius
        else:
            middles, size = self._table([thing.centre]), math.hypot(*thing.half)
        x, y, z = (middles @ self.moved[:3, :3].T + self.moved[:3, 3]).T
        if float(z.min()) <= size * 1.01:
            return slice(0, height), slice(0, width)
        made = []
        for middle, pixels in ((y, height), (x, width)):
            ends = torch.stack([(middle + side * size) / (z + depth * size) for side in (-1, 1) for depth in (-1, 1)])
            low, high = float(ends.min()), float(ends.max())
            focal = self.camera.focal * height
            first, last = math.floor(low * focal + pixels / 2 - 1), math.ceil(high * focal + pixels / 2 + 1)
            made.append(slice(min(max(first, 0), pixels), min(max(last, 0), pixels)))
        return made[0], made[1]

    def _capsule(self, ray: Tensor, capsule: Capsule) -> Tensor:
        """Distance to a capsule: the nearest of its side and of the two balls at its ends."""
        start = self._table(capsule.start)
        axis, away = self._table(capsule.end) - start, self.eye - start
        square = capsule.radius**2
        long, offset, rest = float(axis @ axis), float(axis @ away), float(away @ away)
        towards = torch.einsum("chw,c->hw", ray, away)
        met = _ball(towards, rest - square)
        if not long:
            return met
        along = torch.einsum("chw,c->hw", ray, axis)
        met = torch.minimum(met, _ball(towards - along, rest - 2.0 * offset + long - square))
        a, b = long - along**2, long * towards - offset * along
        inside = b**2 - a * (long * rest - offset**2 - square * long)
        side = (-b - inside.clamp(min=0.0).sqrt()) / a.clamp(min=1e-12)
        place = offset + side * along
        on_side = (inside > 0) & (place > 0) & (place < long) & (side > 0)
        return torch.where(on_side, torch.minimum(met, side), met)

    def _box(self, ray: Tensor, box: Box) -> Tensor:
        """Distance to a box, by its three pairs of planes."""
        turn, half = self._upright(box), self._table(box.half).view(3, 1, 1)
        local = torch.einsum("ij,jhw->ihw", turn, ray)
        origin = (turn @ (self.eye - self._table(box.centre))).view(3, 1, 1)
        inverse = 1.0 / torch.where(local.abs() < 1e-9, 1e-9, local)
        middle, reach = -origin * inverse, half * inverse.abs()
        enter, leave = (middle - reach).amax(0), (middle + reach).amin(0)
        return torch.where((enter < leave) & (enter > 0), enter, FAR)

    def _upright(self, box: Box) -> Tensor:
        """A vector of the world in the axes of a box [3, 3]."""
        cosine, sine = math.cos(box.yaw), math.sin(box.yaw)
        return self._table([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])

    def _normals(self, point: Tensor, solid: Tensor) -> Tensor:
        """Unit vectors out of the surfaces [3, H, W]."""
        start = self._table([capsule.start for capsule, _ in self.capsules])
        axis = self._table([capsule.end for capsule, _ in self.capsules]) - start
        number = solid.clamp(max=len(self.capsules) - 1)
        away, axis = point - start[number].permute(2, 0, 1), axis[number].permute(2, 0, 1)
        share = (_dot(axis, away) / _dot(axis, axis).clamp(min=1e-12)).clamp(0.0, 1.0)
        away = away - share * axis
        normal = away / _dot(away, away).clamp(min=1e-12).sqrt()
        for place, (box, _) in enumerate(self.boxes):
            turn = self._upright(box)
            local = torch.einsum("ij,jhw->ihw", turn, point - self._table(box.centre).view(3, 1, 1))
            outside = local.abs() - self._table(box.half).view(3, 1, 1)
            face = functional.one_hot(outside.argmax(0), 3).permute(2, 0, 1) * local.sign()
            normal = torch.where(solid == len(self.capsules) + place, torch.einsum("ji,jhw->ihw", turn, face), normal)
        up = self._table([0.0, 0.0, 1.0]).view(3, 1, 1)
        return torch.where(solid >= len(self.capsules) + len(self.boxes), up, normal)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Scalar products of vectors [3, H, W]."""
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _ball(towards: Tensor, rest: float) -> Tensor:
    """Distance to a ball along rays with (eye - centre) . ray = towards and |eye - centre|^2 - radius^2 = rest."""
    inside = towards**2 - rest
    met = -towards - inside.clamp(min=0.0).sqrt()
    return torch.where((inside > 0) & (met > 0), met, FAR)
