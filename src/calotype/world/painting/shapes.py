"""The cast of the toy world: what each category is built of, which colours there are, and what a style does to a colour.

An object is 1 to 8 primitives in local coordinates: the unit disc bounds it, x points right (a directed one has its nose at +x), y down.
Each primitive has a colour role (`main`, `dark`, `light` follow the object's colour word; the others are fixed accents) and a named part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

RGB = tuple[float, float, float]

CIRCLE, ELLIPSE, BOX, POLYGON, RING, STAR, DOME = range(7)
"""Kinds of primitives. A dome is the upper half of an ellipse; a polygon is convex, with at most 6 corners."""

COLOURS: dict[str, RGB] = {
    "red": (0.87, 0.14, 0.17),
    "orange": (0.98, 0.51, 0.08),
    "yellow": (0.99, 0.84, 0.12),
    "green": (0.05, 0.52, 0.24),
    "blue": (0.15, 0.39, 0.92),
    "purple": (0.56, 0.22, 0.76),
    "pink": (0.98, 0.49, 0.73),
    "cyan": (0.10, 0.74, 0.80),
}
"""The colour words and their main colour, sRGB in 0..1."""

ACCENTS: dict[str, RGB] = {
    "white": (1.0, 1.0, 1.0),
    "ink": (0.13, 0.11, 0.16),
    "wood": (0.45, 0.29, 0.17),
    "cream": (0.98, 0.93, 0.80),
    "glass": (0.80, 0.93, 0.99),
    "flame": (1.0, 0.72, 0.16),
    "steel": (0.62, 0.65, 0.70),
    "leaf": (0.30, 0.60, 0.27),
}
"""Colours that don't follow the colour word."""

STYLES: tuple[str, ...] = ("flat", "outlined", "pastel")
"""Picture styles: plain fills; the same with an ink line around everything; pale colours."""

OUTLINE = 0.075
"""Width of an outlined object's ink line, in object radii."""


@dataclass(frozen=True)
class Primitive:
    """One filled shape: `a`, `b` are half sizes (a ring's radius and half width, a star's radii), `rounding` the radius of its corners."""

    kind: int
    part: str
    role: str
    x: float = 0.0
    y: float = 0.0
    a: float = 0.0
    b: float = 0.0
    rounding: float = 0.0
    angle: float = 0.0
    corners: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Category:
    """What an object of that name looks like and how it may move."""

    name: str
    primitives: tuple[Primitive, ...]
    directed: bool = False
    """It has a nose and always moves nose-first."""
    level: bool = False
    """It never tips far over: directed ones head left or right, and are mirrored rather than turned upside down."""
    tilt: float = 0.14
    """Largest angle at rest, in radians; pi where any angle looks right."""
    parts: tuple[str, ...] = field(init=False)
    """Names of its parts in the order of their ids (1, 2, ...)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(dict.fromkeys(p.part for p in self.primitives)))


def _circle(part: str, role: str, x: float, y: float, radius: float) -> Primitive:
    return Primitive(CIRCLE, part, role, x, y, radius, radius)


def _ellipse(part: str, role: str, x: float, y: float, a: float, b: float, angle: float = 0.0) -> Primitive:
    return Primitive(ELLIPSE, part, role, x, y, a, b, angle=angle)


def _box(part: str, role: str, x: float, y: float, a: float, b: float, rounding: float = 0.0, angle: float = 0.0) -> Primitive:
    return Primitive(BOX, part, role, x, y, a, b, rounding, angle)


def _polygon(part: str, role: str, rounding: float, *corners: tuple[float, float]) -> Primitive:
    return Primitive(POLYGON, part, role, rounding=rounding, corners=corners)


def _dome(part: str, role: str, x: float, y: float, a: float, b: float, angle: float = 0.0) -> Primitive:
    return Primitive(DOME, part, role, x, y, a, b, angle=angle)


PI = math.pi
_FIVE = tuple((math.sin(0.4 * PI * k), -math.cos(0.4 * PI * k)) for k in range(5))

_CATEGORIES = (
    Category(
        "ball",
        (
            _circle("body", "dark", 0.0, 0.0, 0.97),
            _circle("body", "main", 0.0, 0.0, 0.84),
            _ellipse("stripe", "cream", 0.0, 0.0, 0.30, 0.84),
            _circle("shine", "light", -0.52, -0.38, 0.17),
        ),
        tilt=PI,
    ),
    Category(
        "star",
        (
            Primitive(STAR, "body", "main", 0.0, 0.06, 1.0, 0.50),
            _circle("eyes", "ink", -0.17, -0.02, 0.10),
            _circle("eyes", "ink", 0.17, -0.02, 0.10),
            _dome("mouth", "ink", 0.0, 0.17, 0.15, 0.14, PI),
        ),
        tilt=0.5,
    ),
    Category(
        "tree",
        (
            _box("trunk", "wood", 0.0, 0.76, 0.15, 0.22, 0.03),
            _polygon("crown", "dark", 0.05, (0.0, -0.25), (0.76, 0.62), (-0.76, 0.62)),
            _polygon("crown", "main", 0.05, (0.0, -0.68), (0.62, 0.22), (-0.62, 0.22)),
            _polygon("crown", "light", 0.05, (0.0, -1.0), (0.43, -0.20), (-0.43, -0.20)),
        ),
    ),
    Category(
        "house",
        (
            _box("chimney", "dark", 0.42, -0.52, 0.11, 0.26),
            _box("wall", "main", 0.0, 0.38, 0.64, 0.46, 0.03),
            _polygon("roof", "dark", 0.03, (0.0, -0.86), (0.90, 0.0), (-0.90, 0.0)),
            _box("door", "wood", 0.26, 0.55, 0.16, 0.29, 0.05),
            _box("window", "cream", -0.28, 0.33, 0.18, 0.18, 0.03),
        ),
    ),
    Category(
        "mushroom",
        (
            _box("stem", "cream", 0.0, 0.50, 0.25, 0.46, 0.20),
            _dome("cap", "main", 0.0, 0.22, 0.96, 1.04),
            _circle("spots", "white", -0.02, -0.42, 0.20),
            _circle("spots", "white", -0.50, -0.08, 0.15),
            _circle("spots", "white", 0.47, -0.10, 0.17),
        ),
    ),
    Category(
        "rocket",
        (
            _polygon("flame", "flame", 0.04, (-0.48, -0.22), (-0.48, 0.22), (-1.0, 0.0)),
            _polygon("fins", "dark", 0.03, (-0.02, 0.18), (-0.52, 0.18), (-0.78, 0.62), (-0.58, 0.66)),
            _polygon("fins", "dark", 0.03, (-0.02, -0.18), (-0.52, -0.18), (-0.78, -0.62), (-0.58, -0.66)),
            _box("body", "main", -0.08, 0.0, 0.52, 0.31, 0.10),
            _dome("nose", "cream", 0.36, 0.0, 0.31, 0.64, PI / 2),
            _circle("window", "ink", 0.08, 0.0, 0.19),
            _circle("window", "glass", 0.08, 0.0, 0.125),
        ),
        directed=True,
        tilt=PI,
    ),
    Category(
        "boat",
        (
            _box("mast", "wood", 0.0, -0.25, 0.05, 0.68),
            _polygon("sail", "cream", 0.03, (0.10, -0.92), (0.10, 0.18), (0.78, 0.18)),
            _polygon("sail", "light", 0.03, (-0.10, -0.62), (-0.10, 0.18), (-0.58, 0.18)),
            _dome("hull", "main", 0.0, 0.30, 0.94, 0.62, PI),
            _box("deck", "dark", 0.0, 0.34, 0.92, 0.08, 0.06),
        ),
        level=True,
    ),
    Category(
        "car",
        (
            _dome("cabin", "dark", -0.10, 0.06, 0.62, 0.68),
            _dome("window", "glass", 0.16, 0.02, 0.28, 0.46),
            _dome("window", "glass", -0.36, 0.02, 0.22, 0.40),
            _box("body", "main", 0.0, 0.22, 0.96, 0.27, 0.14),
            _circle("lamp", "flame", 0.84, 0.16, 0.11),
            _circle("wheels", "ink", -0.50, 0.50, 0.25),
            _circle("wheels", "ink", 0.48, 0.50, 0.25),
        ),
        directed=True,
        level=True,
    ),
    Category(
        "fish",
        (
            _polygon("tail", "dark", 0.06, (-0.42, 0.0), (-0.92, -0.46), (-0.92, 0.46)),
            _dome("fin", "dark", 0.02, -0.30, 0.36, 0.42, -0.25),
            _ellipse("body", "main", 0.16, 0.0, 0.80, 0.54),
            _ellipse("belly", "light", 0.16, 0.26, 0.50, 0.18),
            _ellipse("stripe", "dark", -0.12, -0.05, 0.09, 0.36),
            _circle("eye", "white", 0.58, -0.14, 0.17),
            _circle("eye", "ink", 0.62, -0.14, 0.09),
        ),
        directed=True,
        level=True,
    ),
    Category(
        "cup",
        (
            Primitive(RING, "handle", "dark", 0.52, 0.10, 0.30, 0.10),
            _box("body", "main", -0.12, 0.16, 0.58, 0.66, 0.22),
            _ellipse("rim", "light", -0.12, -0.46, 0.60, 0.20),
            _ellipse("drink", "wood", -0.12, -0.44, 0.46, 0.12),
            _ellipse("shine", "light", -0.46, 0.18, 0.07, 0.30),
        ),
    ),
    Category(
        "flower",
        (
            _box("stem", "leaf", 0.0, 0.60, 0.07, 0.38, 0.05),
            _ellipse("leaf", "leaf", 0.24, 0.66, 0.26, 0.12, -0.5),
            *(_circle("petals", "main", 0.40 * x, -0.28 + 0.40 * y, 0.30) for x, y in _FIVE),
            _circle("centre", "flame", 0.0, -0.28, 0.27),
        ),
    ),
    Category(
        "bird",
        (
            _polygon("tail", "dark", 0.03, (-0.40, -0.05), (-0.38, 0.30), (-0.98, -0.08), (-0.90, -0.26)),
            _box("legs", "flame", -0.14, 0.68, 0.05, 0.22),
            _box("legs", "flame", 0.12, 0.68, 0.05, 0.22),
            _ellipse("body", "main", -0.02, 0.14, 0.62, 0.46),
            _circle("head", "main", 0.44, -0.26, 0.36),
            _polygon("beak", "flame", 0.03, (0.72, -0.40), (0.72, -0.10), (1.0, -0.24)),
            _ellipse("wing", "dark", -0.14, 0.10, 0.40, 0.24, 0.35),
            _circle("eye", "ink", 0.54, -0.34, 0.09),
        ),
        directed=True,
        level=True,
    ),
)

CATEGORIES: dict[str, Category] = {category.name: category for category in _CATEGORIES}
"""Every category by its word."""


def _mix(a: RGB, b: RGB, share: float) -> RGB:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def restyle_colour(rgb: RGB, style: str) -> RGB:
    """What a style makes of any colour of the picture.

    >>> restyle_colour((1.0, 0.0, 0.0), "flat")
    (1.0, 0.0, 0.0)
    """
    if style == "pastel":
        grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
        return _mix(_mix(rgb, (grey, grey, grey), 0.18), (1.0, 0.97, 0.93), 0.20 + 0.28 * grey)
    return rgb


def role_colour(colour: str, role: str, style: str) -> RGB:
    """The sRGB colour of one role of an object of that colour word.

    >>> role_colour("red", "white", "flat")
    (1.0, 1.0, 1.0)
    """
    if role in ACCENTS:
        rgb = ACCENTS[role]
    else:
        rgb = COLOURS[colour]
        if role == "dark":
            rgb = _mix(rgb, (0.05, 0.03, 0.12), 0.36)
        elif role == "light":
            rgb = _mix(rgb, (1.0, 1.0, 0.96), 0.36)
    return restyle_colour(rgb, style)
