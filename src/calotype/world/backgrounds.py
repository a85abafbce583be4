"""Grounds of the toy world: a vertical gradient and up to two textures, each a sum of plane waves, so that they go on beyond the picture's edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from calotype.world.draws import Draws
from calotype.world.shapes import RGB, restyle_colour

Wave = tuple[float, float, float, float]
"""Cycles per side to the right and downwards, phase in radians, amplitude."""


@dataclass(frozen=True, kw_only=True)
class Texture:
    """Where the field f(x, y) = rise * (y - level) + sum of waves is high, `colour` is laid over: share = strength * clamp(0.5 + gain * f, 0, 1)."""

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


PREPOSITIONS: dict[str, str] = {"night": "at"}
"""The word before a background's name where it isn't `on`."""


def _shade(rgb: RGB, amount: float) -> RGB:
    return (round(rgb[0] * amount, 4), round(rgb[1] * amount, 4), round(rgb[2] * amount, 4))


def _waves(draws: Draws, count: int, fx: tuple[float, float], fy: tuple[float, float], amplitude: float) -> tuple[Wave, ...]:
    """Random plane waves whose frequencies lie in the given bands (cycles per side), of either slant."""
    made = []
    for _ in range(count):
        slant = 1.0 if draws.chance(0.5) else -1.0
        made.append(
            (
                draws.between(*fx),
                slant * draws.between(*fy),
                draws.between(0.0, 2.0 * math.pi),
                round(amplitude * (0.6 + 0.8 * draws.next()), 4),
            )
        )
    return tuple(made)


def _snow(draws: Draws, light: float) -> Background:
    drift = Texture(colour=_shade((0.80, 0.88, 0.97), light), waves=_waves(draws, 2, (0.2, 0.9), (0.5, 1.3), 0.5), gain=0.5, strength=0.7)
    return Background(name="snow", top=_shade((0.90, 0.94, 0.98), light), bottom=_shade((0.97, 0.98, 1.0), light), textures=(drift,))


def _night(draws: Draws, light: float) -> Background:
    glow = Texture(colour=_shade((0.15, 0.14, 0.30), light), waves=_waves(draws, 2, (0.2, 0.9), (0.3, 0.9), 0.5), gain=0.5, strength=0.6)
    return Background(name="night", top=_shade((0.05, 0.06, 0.15), light), bottom=_shade((0.11, 0.11, 0.25), light), textures=(glow,))


def _sand(draws: Draws, light: float) -> Background:
    ripples = Texture(
        colour=_shade((0.77, 0.65, 0.48), light),
        waves=_waves(draws, 3, (0.3, 2.0), (4.0, 7.0), 0.45) + _waves(draws, 3, (5.0, 11.0), (5.0, 11.0), 0.25),
        gain=0.55,
        strength=0.85,
    )
    return Background(name="sand", top=_shade((0.93, 0.85, 0.70), light), bottom=_shade((0.88, 0.78, 0.60), light), textures=(ripples,))


def _grass(draws: Draws, light: float) -> Background:
    blades = Texture(
        colour=_shade((0.47, 0.66, 0.30), light),
        waves=_waves(draws, 4, (5.0, 11.0), (1.0, 4.0), 0.42) + _waves(draws, 2, (1.0, 3.0), (1.0, 3.0), 0.30),
        gain=0.6,
        strength=0.85,
    )
    return Background(name="grass", top=_shade((0.74, 0.86, 0.52), light), bottom=_shade((0.66, 0.80, 0.44), light), textures=(blades,))


_MAKERS: dict[str, Callable[[Draws, float], Background]] = {"snow": _snow, "night": _night, "sand": _sand, "grass": _grass}

BACKGROUNDS: tuple[str, ...] = tuple(_MAKERS)
"""Every background by its word."""


def make_background(name: str, draws: Draws, style: str) -> Background:
    """A ground of that name with its own waves and brightness, in that picture style."""
    ground = _MAKERS[name](draws, draws.between(0.95, 1.02))
    return restyle_background(ground, style)


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
