"""Does a grasp raise the thing? A quasi-static test of a jaw with two pads on capsules and boxes, exact but for the friction's model.

1. *Approach.* The opened gripper comes along its own z axis. The boxes of its fingers and palm, drawn out backwards by the way that they
   come, must not reach more than `SLACK` into a solid or into the table.
2. *Contacts.* Each pad, a rectangle, moves along the closing axis until it touches the first solid. Where that is has a closed form for a
   capsule (the highest point of a ball whose middle runs along the segment) and for a box (the highest vertex of the box cut to the pad's
   prism). What lies within `YIELD` of the first touch is the patch. Both pads must touch the same thing.
3. *Closing.* The line between the two contacts must lie within both friction cones (an antipodal grasp).
4. *Raising.* Friction must carry the weight and the torque across the line of contacts. Where it can't also resist the torque about that
   line, the thing swings until its centre of mass hangs below, which costs height.

The thing is rigid and keeps its place while the jaw closes; inertia, and what the thing meets while it is raised, are left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.core.grippers import Gripper
from calotype.world.critters.primitives import Box, Capsule, Primitive

Things = Sequence[Sequence[Primitive]]
"""The solids of each thing on the table z = 0."""
SLACK, YIELD = 0.001, 0.0005
"""Metres by which the gripper may reach into a solid while it comes, and by which a pad gives way."""
GRAVITY = 9.81
SECTIONS, SAMPLES = 25, 129
"""Steps of the search along a segment, and places on one where a pad may rest."""
TURN, TURNS = math.radians(2.0), 30
"""Radians of one step of a thing that the pads turn, and most steps."""
RAISED = 0.05
"""Metres from which on a thing counts as raised."""


@dataclass(frozen=True, kw_only=True)
class Physics:
    """What the lift test assumes."""

    friction: float = 0.5
    """Coefficient between pads and things."""
    force: float = 15.0
    """Newtons of each pad."""
    density: float = 250.0
    """Kilograms a cubic metre, of all things."""
    lift: float = 0.30
    """Metres by which the gripper is raised."""
    approach: float = 0.10
    """Metres that the opened gripper comes along its z axis."""


USUAL = Physics()


@dataclass(frozen=True, kw_only=True)
class Lift:
    """What became of a grasp."""

    height: float = 0.0
    """Metres by which the centre of mass was raised."""
    thing: int | None = None
    """Which thing is between the pads."""
    parts: tuple[str | None, ...] = ()
    """Which part of it each pad touches first."""
    reason: str = ""
    """Why it was not raised."""

    @property
    def raised(self) -> bool:
        """By more than `RAISED`."""
        return self.height > RAISED


def lift(things: Things, gripper: Gripper, pose: Float[Tensor, "4 4"], width: float, *, physics: Physics = USUAL) -> Lift:
    """Try a grasp.

    Args:
        things: what stands on the table, as solids in metres, z up.
        gripper: its boxes.
        pose: world-from-gripper; y is the closing axis, z the direction in which it comes, the origin the middle between the pads.
        width: the opening with which it comes, in metres; more than the gripper has is cut.
        physics: friction, force and so on.

    Example:
        >>> from calotype.core.grippers import Gripper
        >>> can = Capsule(start=(0.0, 0.0, 0.02), end=(0.1, 0.0, 0.02), radius=0.02, colour=(1.0, 0.0, 0.0))
        >>> down = torch.tensor([[1.0, 0, 0, 0.05], [0, -1, 0, 0], [0, 0, -1, 0.02], [0, 0, 0, 1]])
        >>> lift([[can]], Gripper.panda(), down, 0.05).raised
        True
        >>> lift([[can]], Gripper.panda(), down, 0.03).reason
        'the gripper meets thing 0 before it closes'
    """
    pose, opening = pose.double(), min(width, gripper.max_width)
    boxes = _drawn_out(gripper, opening, physics.approach)
    if boxes.lowest(pose) < -SLACK:
        return Lift(reason="the gripper meets the table")
    local = _Solids.of(things, pose)
    met = boxes.met(local)
    if met is not None:
        return Lift(reason=f"the gripper meets thing {met} before it closes")
    right, left = (local.first_touch(gripper, opening, side) for side in (1, -1))
    if right is None or left is None:
        return Lift(reason="nothing is between the pads")
    parts = (right.part, left.part)
    if left.thing != right.thing:
        return Lift(reason=f"the pads touch two things, {right.thing} and {left.thing}", parts=parts)
    held = _settle(things[left.thing], gripper, opening, pose, right, left, physics)
    if held is None:
        return Lift(thing=left.thing, parts=parts, reason="the pads slip off")
    height, reason = _raise(*held, balance(things[left.thing], physics.density), physics)
    return Lift(height=height, thing=left.thing, parts=parts, reason=reason)


def balance(solids: Sequence[Primitive], density: float) -> tuple[float, Float[Tensor, 3]]:
    """Mass in kilograms and centre of mass of solids of one density that are one thing; where two overlap, both count."""
    volumes, middles = [], []
    for solid in solids:
        if isinstance(solid, Capsule):
            volumes.append(math.pi * solid.radius**2 * (math.dist(solid.start, solid.end) + 4 / 3 * solid.radius))
            middles.append([(start + end) / 2 for start, end in zip(solid.start, solid.end, strict=True)])
        else:
            volumes.append(8 * math.prod(solid.half))
            middles.append(list(solid.centre))
    volume = torch.tensor(volumes, dtype=torch.float64)
    return float(volume.sum()) * density, volume @ torch.tensor(middles, dtype=torch.float64) / volume.sum()


class _Boxes(NamedTuple):
    """Boxes in the gripper's axes: its own, or upright ones of the world."""

    centres: Float[Tensor, "boxes 3"]
    halves: Float[Tensor, "boxes 3"]
    axes: Float[Tensor, "boxes 3 3"]
    """Their own axes as rows."""

    def lowest(self, pose: Float[Tensor, "4 4"]) -> float:
        """The least z in the world of any corner of boxes along the gripper's axes."""
        up = pose[2, :3]
        return float((self.centres @ up - self.halves @ up.abs()).min() + pose[2, 3])

    def met(self, solids: _Solids) -> int | None:
        """The first thing that boxes along the gripper's axes reach into by more than `SLACK`; None where there is none.

        Of a capsule, the distance to a box is a convex function along the segment, and its least value is found by sections. Two boxes
        share room where no axis separates them.
        """
        into = torch.full((len(solids.capsule_names),), -torch.inf, dtype=torch.float64)
        if len(into):
            shape = (len(self.centres), len(into))
            low, high = torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
            for _ in range(SECTIONS):
                first, second = low + (high - low) / 3, high - (high - low) / 3
                nearer = self._distance(solids, first) < self._distance(solids, second)
                low, high = torch.where(nearer, low, first), torch.where(nearer, second, high)
            into = solids.radius - self._distance(solids, (low + high) / 2).amin(0)
        met = [solids.capsule_names[number][0] for number in (into > SLACK).nonzero()[:, 0].tolist()]
        other = solids.boxes
        met += [thing for number, (thing, _) in enumerate(solids.box_names) if self._overlap(*(part[number] for part in other)) > SLACK]
        return min(met, default=None)

    def _distance(self, solids: _Solids, share: Float[Tensor, "boxes capsules"]) -> Float[Tensor, "boxes capsules"]:
        point = solids.ends[:, 0] + share[..., None] * (solids.ends[:, 1] - solids.ends[:, 0])
        beyond = (point - self.centres[:, None]).abs() - self.halves[:, None]
        outside: Tensor = beyond.clamp(min=0).norm(dim=-1)
        return outside + beyond.amax(-1).clamp(max=0)

    def _overlap(self, centre: Float[Tensor, 3], half: Float[Tensor, 3], axes: Float[Tensor, "3 3"]) -> float:
        """The least overlap with another box over the axes that can separate them, of the box that reaches into it farthest."""
        straight = torch.eye(3, dtype=torch.float64)
        crossed = torch.linalg.cross(straight[:, None], axes[None]).reshape(-1, 3)
        length = crossed.norm(dim=-1, keepdim=True)
        lines = torch.cat([straight, axes, (crossed / length)[length[:, 0] > 1e-6]])
        reach = self.halves @ lines.abs().T + (lines @ axes.T).abs() @ half
        return float((reach - ((self.centres - centre) @ lines.T).abs()).amin(1).max())


@dataclass(frozen=True, eq=False)
class _Touch:
    """Where a pad touches first, in the gripper's axes."""

    point: Float[Tensor, 3]
    """Middle of the patch."""
    normal: Float[Tensor, 3]
    """Of the surface, outward."""
    spread: float
    """Metres from the middle of the patch to its farthest point."""
    thing: int
    part: str | None


@dataclass(frozen=True, eq=False)
class _Solids:
    """All solids in the gripper's axes."""

    ends: Float[Tensor, "capsules 2 3"]
    radius: Float[Tensor, " capsules"]
    capsule_names: tuple[tuple[int, str | None], ...]
    """Number of the thing and name of the part of each capsule."""
    boxes: _Boxes
    box_names: tuple[tuple[int, str | None], ...]

    @classmethod
    def of(cls, things: Things, pose: Float[Tensor, "4 4"]) -> _Solids:
        """Bring them there."""
        turn, origin = pose[:3, :3], pose[:3, 3]
        capsules = [(solid, thing) for thing, solids in enumerate(things) for solid in solids if isinstance(solid, Capsule)]
        boxes = [(solid, thing) for thing, solids in enumerate(things) for solid in solids if isinstance(solid, Box)]
        ends = torch.tensor([[solid.start, solid.end] for solid, _ in capsules], dtype=torch.float64).reshape(-1, 2, 3)
        radius = torch.tensor([solid.radius for solid, _ in capsules], dtype=torch.float64)
        centre, half = (
            torch.tensor([getattr(solid, name) for solid, _ in boxes], dtype=torch.float64).reshape(-1, 3) for name in ("centre", "half")
        )
        axes = [
            [[math.cos(box.yaw), math.sin(box.yaw), 0.0], [-math.sin(box.yaw), math.cos(box.yaw), 0.0], [0.0, 0.0, 1.0]] for box, _ in boxes
        ]
        table = _Boxes((centre - origin) @ turn, half, torch.tensor(axes, dtype=torch.float64).reshape(-1, 3, 3) @ turn)
        names, others = (tuple((thing, solid.part) for solid, thing in rows) for rows in (capsules, boxes))
        return cls((ends - origin) @ turn, radius, names, table, others)

    def first_touch(self, gripper: Gripper, opening: float, side: int) -> _Touch | None:
        """What the pad at `side` (1 or -1) of the closing axis meets on its way through the opening; None where that is nothing."""
        flip = torch.tensor([1.0, float(side), 1.0], dtype=torch.float64)
        pad = torch.tensor(gripper.pad_half, dtype=torch.float64)
        points, normals, owner = self._rests(flip, pad)
        # What lies beyond the finger is behind the pad.
        within = (points[:, 1] > -opening / 2) & (points[:, 1] <= opening / 2 + SLACK)
        if not bool(within.any()):
            return None
        first = int(torch.where(within, points[:, 1], -torch.inf).argmax())
        names = (*self.capsule_names, *self.box_names)
        thing, part = names[int(owner[first])]
        same = torch.tensor([name[0] == thing for name in names])[owner]
        patch = within & same & (points[:, 1] > points[first, 1] - YIELD)
        middle = (points[patch].amin(0) + points[patch].amax(0)) / 2
        normal = torch.nn.functional.normalize(normals[patch].mean(0), dim=0)
        spread = float((points[patch] - middle)[:, [0, 2]].norm(dim=-1).max())
        return _Touch(middle * flip, normal * flip, spread, thing, part)

    def _rests(
        self, flip: Float[Tensor, 3], pad: Float[Tensor, 2]
    ) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points 3"], Int[Tensor, " points"]]:
        """Points on which a pad that comes down the y axis can rest, the surface's normals there, and the number of each one's solid."""
        share = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)[:, None]
        # Of every ball along a capsule, the highest point below the pad.
        middle = ((self.ends[:, :1] + share * (self.ends[:, 1:] - self.ends[:, :1])) * flip).reshape(-1, 3)
        owner = torch.arange(len(self.radius)).repeat_interleave(SAMPLES)
        radius = self.radius[owner]
        point = torch.stack([middle[:, 0].clamp(-pad[0], pad[0]), middle[:, 1], middle[:, 2].clamp(-pad[1], pad[1])], 1)
        rest = radius**2 - (point - middle).square().sum(-1)
        point[:, 1] += rest.clamp(min=0).sqrt()
        normal = (point - middle) / radius[:, None]
        found = [(point[rest > 0], normal[rest > 0], owner[rest > 0])]
        for number in range(len(self.box_names)):
            corners, faces = _cut(self.boxes.centres[number] * flip, self.boxes.halves[number], self.boxes.axes[number] * flip, pad)
            found.append((corners, faces, torch.full((len(corners),), len(self.radius) + number)))
        points, normals, owners = (torch.cat(part) for part in zip(*found, strict=True))
        return points, normals, owners


def _cut(
    centre: Float[Tensor, 3], half: Float[Tensor, 3], axes: Float[Tensor, "3 3"], pad: Float[Tensor, 2]
) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points 3"]]:
    """The vertices of a box that is cut to the prism below a pad, and of each one the normal of its face that looks most to the pad."""
    prism = torch.eye(3, dtype=torch.float64)[[0, 2]]
    normals = torch.cat([axes, -axes, prism, -prism])
    offsets = torch.cat([axes @ centre + half, half - axes @ centre, pad, pad])
    corners = torch.tensor(list(itertools.combinations(range(len(normals)), 3)))
    matrix = normals[corners]
    regular = torch.linalg.det(matrix).abs() > 1e-9
    corners, matrix = corners[regular], matrix[regular]
    points = torch.linalg.solve(matrix, offsets[corners][..., None])[..., 0]
    within = (points @ normals.T <= offsets + 1e-9).all(-1)
    faces = torch.where(corners < 6, normals[corners, 1], -torch.inf).argmax(-1)
    return points[within], normals[corners.gather(1, faces[:, None])[:, 0]][within]


def _settle(
    solids: Sequence[Primitive], gripper: Gripper, opening: float, pose: Float[Tensor, "4 4"], right: _Touch, left: _Touch, physics: Physics
) -> tuple[_Touch, _Touch, Float[Tensor, "4 4"]] | None:
    """Turn the jaw about the thing, as the pads turn the thing, until the contacts are antipodal; the contacts then, and the jaw's pose."""
    least = 1 / math.sqrt(1 + physics.friction**2)
    for _ in range(TURNS):
        line = torch.nn.functional.normalize(right.point - left.point, dim=0)
        if float(right.normal @ line) >= least and float(left.normal @ -line) >= least:
            return right, left, pose
        # The pads push along -y and y; where their points of attack are apart, that is a torque on the thing.
        torque = torch.linalg.cross(right.point - left.point, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))
        if float(torque.norm()) < 1e-6:
            return None
        middle = (right.point + left.point) / 2
        back = _rotation(torque / torque.norm(), -TURN)
        change = torch.eye(4, dtype=torch.float64)
        change[:3, :3], change[:3, 3] = back, middle - back @ middle
        pose = pose @ change
        local, apart = _Solids.of([solids], pose), float(right.point[1] - left.point[1])
        first, second = (local.first_touch(gripper, 2 * opening, side) for side in (1, -1))
        if first is None or second is None or float(first.point[1] - second.point[1]) > apart + SLACK:
            return None
        right, left = first, second
    return None


def _rotation(axis: Float[Tensor, 3], angle: float) -> Float[Tensor, "3 3"]:
    """By Rodrigues' formula."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _raise(
    right: _Touch, left: _Touch, pose: Float[Tensor, "4 4"], whole: tuple[float, Float[Tensor, 3]], physics: Physics
) -> tuple[float, str]:
    """Height of the centre of mass above where it was, and why it is none."""
    line = right.point - left.point
    apart = float(line.norm())
    line = line / max(apart, 1e-9)
    mass, centre = whole
    turn = pose[:3, :3]
    arm = centre - (turn @ (right.point + left.point) / 2 + pose[:3, 3])
    axis = turn @ line
    weight = torch.tensor([0.0, 0.0, -GRAVITY * mass], dtype=torch.float64)
    torque = torch.linalg.cross(arm, weight)
    about = float(torque @ axis)
    across = float((torque - about * axis).norm())
    if GRAVITY * mass / 2 + across / apart > physics.friction * physics.force:
        return 0.0, "the thing is too heavy for the friction"
    if abs(about) <= 2 / 3 * physics.friction * physics.force * (right.spread + left.spread):
        return physics.lift, ""
    along = float(arm @ axis)
    aside = float((arm - along * axis).norm())
    hanging = along * float(axis[2]) - aside * math.sqrt(max(0.0, 1 - float(axis[2]) ** 2))
    height = physics.lift + hanging - float(arm[2])
    return height, "" if height > RAISED else "the thing swings down"


def _drawn_out(gripper: Gripper, opening: float, way: float) -> _Boxes:
    """The opened gripper's boxes, longer by the way that it comes along its z axis."""
    centres, halves = (one.double().clone() for one in gripper.boxes(opening))
    centres[:, 2] -= way / 2
    halves[:, 2] += way / 2
    return _Boxes(centres, halves, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
