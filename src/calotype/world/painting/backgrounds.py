"""Grounds of the toy world: a gradient and up to two textures, each a sum of plane waves, so that they go on beyond the picture's edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from calotype.world.painting.rng import Rng
from calotype.world.painting.shapes import RGB, restyle_colour

Wave = tuple[float, float, float, float]
"""Cycles per side to the right and downwards, phase in radians, amplitude."""


@dataclass(frozen=True, kw_only=True)
class Texture:
    """A colour laid over the ground: share = strength * clamp(0.5 + gain * f, 0, 1), f(x, y) = rise * (y - level) + sum of waves."""

    colour: RGB
    waves: tuple[Wave, ...]
    gain: float
    strength: float
    rise: float = 0.0
    level: float = 0.0
    sharp: bool = False
    """The gain is per 64 pixels and grows with the picture, so that edges stay one pixel wide."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """One ground: its caption word and what is painted."""

    name: str
    top: RGB
    bottom: RGB
    textures: tuple[Texture, ...] = ()


PREPOSITIONS: dict[str, str] = {"night": "at", "sea": "at", "sky": "in the"}
"""The words before a background's name where it isn't `on`."""


def _shade(rgb: RGB, amount: float) -> RGB:
    return (round(rgb[0] * amount, 4), round(rgb[1] * amount, 4), round(rgb[2] * amount, 4))


def _waves(rng: Rng, count: int, fx: tuple[float, float], fy: tuple[float, float], amplitude: float) -> tuple[Wave, ...]:
    """Random plane waves whose frequencies lie in the given bands (cycles per side), of either slant."""
    made = []
    for _ in range(count):
        slant = 1.0 if rng.chance(0.5) else -1.0
        made.append(
            (
                rng.between(*fx),
                slant * rng.between(*fy),
                rng.between(0.0, 2.0 * math.pi),
                round(amplitude * (0.6 + 0.8 * rng.next()), 4),
            )
        )
    return tuple(made)


def _snow(rng: Rng, light: float) -> Background:
    drift = Texture(colour=_shade((0.80, 0.88, 0.97), light), waves=_waves(rng, 2, (0.2, 0.9), (0.5, 1.3), 0.5), gain=0.5, strength=0.7)
    return Background(name="snow", top=_shade((0.90, 0.94, 0.98), light), bottom=_shade((0.97, 0.98, 1.0), light), textures=(drift,))


def _night(rng: Rng, light: float) -> Background:
    glow = Texture(colour=_shade((0.15, 0.14, 0.30), light), waves=_waves(rng, 2, (0.2, 0.9), (0.3, 0.9), 0.5), gain=0.5, strength=0.6)
    return Background(name="night", top=_shade((0.05, 0.06, 0.15), light), bottom=_shade((0.11, 0.11, 0.25), light), textures=(glow,))


def _sand(rng: Rng, light: float) -> Background:
    ripples = Texture(
        colour=_shade((0.77, 0.65, 0.48), light),
        waves=_waves(rng, 3, (0.3, 2.0), (4.0, 7.0), 0.45) + _waves(rng, 3, (5.0, 11.0), (5.0, 11.0), 0.25),
        gain=0.55,
        strength=0.85,
    )
    return Background(name="sand", top=_shade((0.93, 0.85, 0.70), light), bottom=_shade((0.88, 0.78, 0.60), light), textures=(ripples,))


def _grass(rng: Rng, light: float) -> Background:
    blades = Texture(
        colour=_shade((0.47, 0.66, 0.30), light),
        waves=_waves(rng, 4, (5.0, 11.0), (1.0, 4.0), 0.42) + _waves(rng, 2, (1.0, 3.0), (1.0, 3.0), 0.30),
        gain=0.6,
        strength=0.85,
    )
    return Background(name="grass", top=_shade((0.74, 0.86, 0.52), light), bottom=_shade((0.66, 0.80, 0.44), light), textures=(blades,))


def _water(rng: Rng, light: float) -> Background:
    swell = Texture(
        colour=_shade((0.80, 0.92, 0.93), light),
        waves=_waves(rng, 4, (0.5, 3.0), (3.0, 6.0), 0.4) + _waves(rng, 2, (2.0, 5.0), (5.0, 8.0), 0.3),
        gain=1.3,
        strength=0.55,
    )
    return Background(name="water", top=_shade((0.56, 0.74, 0.80), light), bottom=_shade((0.44, 0.64, 0.73), light), textures=(swell,))


def _brick(rng: Rng, light: float) -> Background:
    """Courses of bricks. The upright joints are a comb of 6 harmonics; its odd ones change sign from course to course (cos a cos b is two
    waves), which moves every other course by half a brick."""
    rows = rng.between(4.5, 6.5)
    x, y = rng.between(0.0, 6.28), rng.between(0.0, 6.28)
    quarter = math.pi / 2.0
    courses: tuple[Wave, ...] = ((0.0, rows, round(2.0 * y + quarter, 5), -1.0), (0.0, 0.0, quarter, -0.86))
    joints: list[Wave] = [(0.0, 0.0, quarter, -0.62)]
    for harmonic in range(1, 7):
        fx, phase = harmonic * rows / 2.0, harmonic * x + quarter
        if harmonic % 2:
            joints += [(fx, rows / 2.0, round(phase + y, 5), 1.0 / 12.0), (fx, -rows / 2.0, round(phase - y, 5), 1.0 / 12.0)]
        else:
            joints.append((fx, 0.0, round(phase, 5), 1.0 / 6.0))
    mortar = _shade((0.90, 0.87, 0.81), light)
    textures = (
        Texture(colour=mortar, waves=courses, gain=5.0, strength=1.0, sharp=True),
        Texture(colour=mortar, waves=tuple(joints), gain=3.0, strength=1.0, sharp=True),
    )
    return Background(name="brick", top=_shade((0.70, 0.60, 0.55), light), bottom=_shade((0.64, 0.54, 0.50), light), textures=textures)


def _sea(rng: Rng, light: float) -> Background:
    """A horizon: pale sky above, water below."""
    level = rng.between(0.35, 0.6)
    water = Texture(colour=_shade((0.42, 0.63, 0.70), light), waves=(), gain=64.0, strength=1.0, rise=1.0, level=level, sharp=True)
    foam = Texture(
        colour=_shade((0.72, 0.86, 0.88), light),
        waves=_waves(rng, 4, (0.5, 2.5), (5.0, 9.0), 0.4),
        gain=1.2,
        strength=0.5,
        rise=1.6,
        level=round(level + 0.45, 5),
    )
    return Background(name="sea", top=_shade((0.83, 0.90, 0.95), light), bottom=_shade((0.98, 0.93, 0.86), light), textures=(water, foam))


def _sky(rng: Rng, light: float) -> Background:
    clouds = Texture(
        colour=_shade((0.99, 0.99, 1.0), light),
        waves=_waves(rng, 3, (0.5, 1.8), (1.0, 2.6), 0.5) + _waves(rng, 3, (2.0, 4.0), (3.0, 5.5), 0.2),
        gain=1.1,
        strength=0.9,
    )
    return Background(name="sky", top=_shade((0.60, 0.80, 0.96), light), bottom=_shade((0.78, 0.89, 0.97), light), textures=(clouds,))


_MAKERS: dict[str, Callable[[Rng, float], Background]] = {
    "snow": _snow,
    "night": _night,
    "sand": _sand,
    "grass": _grass,
    "water": _water,
    "brick": _brick,
    "sea": _sea,
    "sky": _sky,
}

BACKGROUNDS: tuple[str, ...] = tuple(_MAKERS)
"""Every background by its word."""


def make_background(name: str, rng: Rng) -> Background:
    """A ground of that name with its own waves and brightness, in the flat style's colours (the painter restyles it)."""
    return _MAKERS[name](rng, rng.between(0.95, 1.02))


def restyle_background(ground: Background, style: str) -> Background:
    """The same ground with the style's colours."""
    if style == "flat":
        return ground
    textures = tuple(
        Texture(
            colour=restyle_colour(t.colour, style),
            waves=t.waves,
            gain=t.gain,
            strength=t.strength,
            rise=t.rise,
            level=t.level,
            sharp=t.sharp,
        )
        for t in ground.textures
    )
    return Background(
        name=ground.name, top=restyle_colour(ground.top, style), bottom=restyle_colour(ground.bottom, style), textures=textures
    )
