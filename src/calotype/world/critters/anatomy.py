"""A critter: its measures, its parts as solids, and which point of another critter corresponds to a point of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.world.critters.primitives import Capsule, Vector

PARTS = ("body", "head", "nose", "eye_left", "eye_right", "arm_left", "arm_right", "leg_left", "leg_right", "tail")
"""Left and right are the critter's own."""
MIRRORED = tuple(part.replace("left", "?").replace("right", "left").replace("?", "right") for part in PARTS)
"""The part on the other side of each of `PARTS`; a part in the middle is its own."""
COLOURS: dict[str, Vector] = {
    "red": (0.85, 0.18, 0.15),
    "orange": (0.95, 0.55, 0.12),
    "yellow": (0.93, 0.85, 0.22),
    "green": (0.20, 0.65, 0.28),
    "blue": (0.18, 0.38, 0.85),
    "purple": (0.55, 0.25, 0.70),
}
EYE: Vector = (0.05, 0.05, 0.07)
NOSE: Vector = (0.98, 0.97, 0.93)
FACINGS = ("front", "front left", "left", "behind left", "behind", "behind right", "right", "front right")
"""Where a critter faces as a viewer sees it, by eighths of a turn clockwise from the viewer (seen from above)."""


@dataclass(frozen=True, kw_only=True)
class Critter:
    """A critter that sits on the table (z = 0, z up), its legs stretched out.

    Metres and radians; all lengths but `height` are in units of the height.
    """

    x: float
    y: float
    yaw: float
    """It faces along (cos yaw, sin yaw)."""
    colour: str
    """Of body and head; see `COLOURS`."""
    limbs: str
    """Colour of arms, legs and tail."""
    height: float
    """From the table to the top of the head."""
    head: float
    """Radius of the head."""
    belly: float
    """Radius of the body."""
    leg_length: float
    leg_radius: float
    arm_length: float
    arm_radius: float
    raised: tuple[float, float]
    """Angle of the left and the right arm above the horizontal."""
    forward: tuple[float, float]
    """Angle of the left and the right arm to the front."""
    spread: tuple[float, float]
    """Angle of the left and the right leg away from straight ahead."""
    tail_length: float
    tail_radius: float
    tail_raised: float

    @property
    def facing(self) -> Vector:
        """Unit vector to the front."""
        return math.cos(self.yaw), math.sin(self.yaw), 0.0

    def primitives(self) -> tuple[Capsule, ...]:
        """One solid for each of `PARTS`, in that order."""
        top = 1.0 - 2.0 * self.head
        head = (0.0, 0.0, 1.0 - self.head)
        solids = [
            ((0.0, 0.0, self.belly), (0.0, 0.0, max(self.belly + 0.02, top - 0.75 * self.belly)), self.belly, self.colour),
            (head, head, self.head, self.colour),
            self._on_head(0.0, -0.12, 0.30),
            self._on_head(0.52, 0.30, 0.20),
            self._on_head(-0.52, 0.30, 0.20),
            *(self._arm(side, top - 0.5 * self.belly) for side in (1, -1)),
            *(self._leg(side) for side in (1, -1)),
            self._tail(),
        ]
        colours = {"nose": NOSE, "eye_left": EYE, "eye_right": EYE}
        return tuple(
            Capsule(
                start=self._placed(start), end=self._placed(end), radius=radius * self.height, part=part,
                colour=colours.get(part) or COLOURS[colour],
            )
            for part, (start, end, radius, colour) in zip(PARTS, solids, strict=True)
        )  # fmt: skip

    # Below, a place is (to the front, to its left, up), in units of the height.

    def _on_head(self, turn: float, up: float, share: float) -> tuple[Vector, Vector, float, str]:
        """A ball on the surface of the head, `turn` and `up` radians from straight ahead."""
        away = self.head * 0.97
        place = (away * math.cos(up) * math.cos(turn), away * math.cos(up) * math.sin(turn), 1.0 - self.head + away * math.sin(up))
        return place, place, share * self.head, self.colour

    def _arm(self, side: int, shoulder: float) -> tuple[Vector, Vector, float, str]:
        raised, forward = self.raised[side < 0], self.forward[side < 0]
        start = (0.0, side * 0.75 * self.belly, shoulder)
        reach = self.arm_length * math.cos(raised)
        end = (
            start[0] + reach * math.sin(forward),
            start[1] + side * reach * math.cos(forward),
            start[2] + self.arm_length * math.sin(raised),
        )
        return start, end, self.arm_radius, self.limbs

    def _leg(self, side: int) -> tuple[Vector, Vector, float, str]:
        spread, front, across = self.spread[side < 0], 0.55 * self.belly, side * 0.5 * self.belly
        end = (front + self.leg_length * math.cos(spread), across + side * self.leg_length * math.sin(spread), self.leg_radius)
        return (front, across, self.leg_radius), end, self.leg_radius, self.limbs

    def _tail(self) -> tuple[Vector, Vector, float, str]:
        start = (-0.75 * self.belly, 0.0, 0.8 * self.belly)
        end = (start[0] - self.tail_length * math.cos(self.tail_raised), 0.0, start[2] + self.tail_length * math.sin(self.tail_raised))
        return start, end, self.tail_radius, self.limbs

    def _placed(self, place: Vector) -> Vector:
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        front, left, up = (self.height * value for value in place)
        return self.x + cosine * front - sine * left, self.y + sine * front + cosine * left, up


def corresponding_points(critter: Critter, part: str, points: Float[Tensor, "points 3"], other: Critter) -> Float[Tensor, "points 3"]:
    """The points on the same part of another critter, at the same place of it: as far along and around, on the surface.

    Args:
        critter: the one that the points are on.
        part: which of its `PARTS` they are on.
        points: metres, in the world.
        other: the one whose points are wanted.

    Raises:
        InputError: there is no such part.

    Example:
        >>> from calotype.world.critters.sampling import sample_critter_scene
        >>> one, other = sample_critter_scene(split="tune", seed=1, index=0).critters[:2]
        >>> solid = one.primitives()[5]
        >>> on = torch.tensor([solid.end]) + torch.tensor([[0.0, 0.0, solid.radius]])
        >>> abs(float(other.primitives()[5].distance(corresponding_points(one, "arm_left", on, other)))) < 1e-6
        True
    """
    if part not in PARTS:
        raise InputError(f"there is no part {part!r}; choose one of: {', '.join(PARTS)}")
    here, there = (thing.primitives()[PARTS.index(part)] for thing in (critter, other))
    frame, length = _frame(here, critter.facing)
    other_frame, other_length = _frame(there, other.facing)
    local = (points.double() - points.new_tensor(here.start).double()) @ frame.T
    share = there.radius / here.radius
    along = local[:, 2]
    inside = along.clamp(0.0, length)
    carried = (inside * (other_length / length) if length else inside) + (along - inside) * share
    around = local[:, :2] * share
    # The distance from the axis is that of the surface, wherever the point was above or below it.
    middle = carried.clamp(0.0, other_length)
    away = torch.cat([around, (carried - middle)[:, None]], 1)
    away = away / away.norm(dim=-1, keepdim=True).clamp(min=1e-12) * there.radius
    placed = torch.cat([away[:, :2], (middle + away[:, 2])[:, None]], 1)
    return (placed @ other_frame + points.new_tensor(there.start).double()).to(points.dtype)


def _frame(solid: Capsule, facing: Vector) -> tuple[Float[Tensor, "3 3"], float]:
    """Rows: two directions across the solid's axis, the first as far to the front as possible, and the axis; and its length."""
    axis = torch.tensor(solid.end, dtype=torch.float64) - torch.tensor(solid.start, dtype=torch.float64)
    length = float(axis.norm())
    axis = axis / length if length > 1e-9 else torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    front = torch.tensor(facing, dtype=torch.float64)
    across = front - (front @ axis) * axis
    across = across / across.norm()
    return torch.stack([across, torch.linalg.cross(axis, across), axis]), length if length > 1e-9 else 0.0


def facing_words(critter: Critter, eye: Vector) -> str:
    """Where the critter faces as somebody at `eye` sees it: one of `FACINGS`.

    >>> from calotype.world.critters.sampling import sample_critter_scene
    >>> critter = sample_critter_scene(split="tune", seed=1, index=0).critters[0]
    >>> facing_words(critter, (critter.x + critter.facing[0], critter.y + critter.facing[1], 0.3))
    'front'
    """
    towards = math.atan2(eye[1] - critter.y, eye[0] - critter.x)
    # Seen from above, counterclockwise from the viewer's direction is to the viewer's right.
    turn = (towards - critter.yaw) / (2.0 * math.pi) % 1.0
    return FACINGS[int(turn * len(FACINGS) + 0.5) % len(FACINGS)]
