"""Landscapes from numbers: a sky with drifting clouds, ridges, land, and a lake or a river with ripples that move along a known field.

The field can be told from a still: clouds and a lake's ripples come from the side of the sun, clouds are faster the longer they are drawn,
ripples the longer their waves are, and rivers flow to the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.errors import InputError
from calotype.world.painting.rng import Rng
from calotype.world.scenes.sampling import SPLITS

STREAM = 91
CODE = 128
"""Standard normal numbers that a landscape is made of."""
CLOUD_WAVES, RIPPLES = 24, 4
RIDGE_WAVES = (0.25, 0.5, 0.85, 1.5, 2.5, 4.25)
"""Waves across half the picture of a ridge's outline."""
LAND, SKY, WATER = 0, 1, 2
"""Values of the mask."""


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A landscape before it is painted. Across goes from -1 to 1, down from 0 to 1; speeds are in pixels a frame at 64 pixels."""

    dusk: float
    """Time of day, 0 to 1."""
    horizon: float
    sun: float
    """Place of the sun, across."""
    sky_hue: float
    warm_hue: float
    land_hue: float
    land_saturation: float
    land_value: float
    """Brightness of the meadows, before dusk."""
    rock_hue: float
    hill: float
    """Height of the ridges."""
    ridges: tuple[tuple[tuple[float, float], ...], ...]
    """Of the far and, in most, a near ridge: amplitude and phase of each wave of `RIDGE_WAVES`."""
    snow: bool
    cover: float
    """How much of the sky is clouded."""
    clouds: tuple[tuple[float, float, float, float], ...]
    """Waves of the clouds: radians across and down, amplitude, phase."""
    wind: tuple[float, float]
    """Speed of the clouds, to the right and down."""
    river: bool
    """A river that flows to the front, else a lake."""
    shore: tuple[float, float, float]
    """Of a lake: its far shore (down), on which side it ends, and where."""
    course: tuple[float, float, float, float]
    """Of a river: where it begins, its bend, its swing, its width at the front."""
    wavelength: float
    """Of the ripples, in pixels at 64 pixels."""
    water_hue: float
    water_tint: float
    """How much of the water's colour is its own, 0 to 1; the rest is the sky's."""
    ripples: tuple[tuple[float, float, float, float], ...]
    """Length in units of `wavelength`, phase, tilt and phase of the swell of each train of waves."""


@dataclass(frozen=True, eq=False)
class LandscapePictures:
    """Painted landscapes and what is known of them."""

    image: Float[Tensor, "pictures 3 height width"]
    """In [0, 1]."""
    mask: Int[Tensor, "pictures height width"]
    """`LAND`, `SKY` or `WATER`."""
    motion: Float[Tensor, "pictures 2 height width"]
    """Pixels a frame to the right and down: the wind's in the sky, the current's on water, 0 on land."""


def sample_landscape(*, split: str, seed: int, index: int) -> Landscape:
    """The landscape of that number: the same for the same arguments.

    Raises:
        InputError: an unknown split, a negative number.

    >>> 0.28 <= sample_landscape(split="tune", seed=1, index=0).horizon <= 0.72
    True
    """
    return landscape_of(landscape_code(split=split, seed=seed, index=index))


def landscape_code(*, split: str, seed: int, index: int) -> tuple[float, ...]:
    """The `CODE` standard normal numbers that the landscape of that number is made of.

    Raises:
        InputError: an unknown split, a negative number.

    >>> len(landscape_code(split="tune", seed=1, index=0))
    128
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and number {index} must be 0 or more")
    rng = Rng(SPLITS[split], seed, index, STREAM)
    numbers: list[float] = []
    while len(numbers) < CODE:
        length, angle = _rayleigh(rng), rng.between(0.0, 2 * math.pi)
        numbers += [length * math.cos(angle), length * math.sin(angle)]
    return tuple(round(number, 5) for number in numbers[:CODE])


def landscape_of(code: Sequence[float]) -> Landscape:
    """The landscape that a code describes: each trait follows its own few numbers without a jump, but for what there is or isn't.

    Args:
        code: `CODE` numbers; standard normal ones give the landscapes that `sample_landscape` draws.

    Raises:
        InputError: another count of numbers.

    >>> landscape_of([0.0] * CODE).horizon
    0.5
    """
    if len(code) != CODE:
        raise InputError(f"{len(code)} numbers; a landscape is made of {CODE}")
    draw = _Traits(code)
    horizon, sun = draw.between(0.28, 0.72), draw.between(-0.9, 0.9)
    stretch, turn = draw.between(1.5, 4.5), draw.between(-0.35, 0.35)
    speed = (0.1 + 0.2 * (stretch - 1.5)) * (1.0 if sun < 0 else -1.0)
    height = 2.0 * horizon
    ridges = (draw.ridge(0.11 * height), draw.ridge(0.06 * height))
    return Landscape(
        dusk=draw.between(0.0, 1.0), horizon=horizon, sun=sun, sky_hue=draw.between(0.5, 0.66), warm_hue=draw.between(-0.06, 0.13),
        land_hue=draw.between(0.02, 0.5), land_saturation=draw.between(0.05, 0.6), land_value=draw.between(0.4, 0.85),
        rock_hue=draw.between(0.5, 1.1), hill=round(draw.between(0.04, 0.16) * height, 5),
        ridges=ridges if draw.chance(0.7) else ridges[:1], snow=draw.chance(0.35),
        cover=draw.between(-0.5, 0.7), clouds=draw.clouds(stretch, turn),
        wind=(round(speed * math.cos(turn), 5), round(speed * math.sin(turn), 5)), river=draw.chance(0.4),
        shore=(round(horizon + draw.between(0.12, 0.4) * (1.0 - horizon), 5), 1.0 if draw.chance(0.5) else -1.0, draw.between(-0.5, 0.35)),
        course=(draw.between(-0.3, 0.3), draw.between(-0.9, 0.9), draw.between(-0.35, 0.35), draw.between(0.25, 0.6)),
        wavelength=draw.between(4.0, 9.0), water_hue=draw.between(0.3, 0.62), water_tint=draw.between(0.0, 0.6),
        ripples=tuple(
            (draw.between(0.75, 1.3), draw.wave()[1], draw.between(-0.4, 0.4), draw.between(0.0, 2 * math.pi)) for _ in range(RIPPLES)
        ),
    )  # fmt: skip


class _Traits:
    """Traits of a landscape from the numbers of a code, one after the other."""

    def __init__(self, code: Sequence[float]) -> None:
        self._numbers = iter(code)

    def between(self, low: float, high: float) -> float:
        """Uniform for a normal number."""
        return round(low + (high - low) * 0.5 * (1.0 + math.erf(next(self._numbers) / math.sqrt(2.0))), 5)

    def chance(self, share: float) -> bool:
        return self.between(0.0, 1.0) < share

    def wave(self) -> tuple[float, float]:
        """Amplitude (Rayleigh) and phase of the wave of two normal numbers."""
        real, imaginary = next(self._numbers), next(self._numbers)
        return math.hypot(real, imaginary), round(math.atan2(imaginary, real), 5)

    def ridge(self, height: float) -> tuple[tuple[float, float], ...]:
        waves = [(wave, *self.wave()) for wave in RIDGE_WAVES]
        return tuple((round(amplitude * 0.34 * height / wave, 5), phase) for wave, amplitude, phase in waves)

    def clouds(self, stretch: float, turn: float) -> tuple[tuple[float, float, float, float], ...]:
        """Waves on a golden spiral of the frequency plane, longer along the wind than across it."""
        lengths = [2.2 * 6.0 ** ((number + 0.5) / CLOUD_WAVES) for number in range(CLOUD_WAVES)]
        norm = math.sqrt(2 * sum(length**-1.6 for length in lengths))
        waves = []
        for number, length in enumerate(lengths):
            angle = number * 2.39996
            along, over = length * math.cos(angle) / math.sqrt(stretch) / 1.3, length * math.sin(angle) * math.sqrt(stretch)
            across, down = along * math.cos(turn) - over * math.sin(turn), along * math.sin(turn) + over * math.cos(turn)
            amplitude, phase = self.wave()
            waves.append((round(across, 5), round(down, 5), round(amplitude * length**-0.8 / norm, 5), phase))
        return tuple(waves)


def _rayleigh(rng: Rng) -> float:
    return math.sqrt(-2.0 * math.log(1.0 - rng.next()))


def paint_landscapes(
    landscapes: Sequence[Landscape], size: int = 64, *, time: float = 0.0, device: str | torch.device = "cpu"
) -> LandscapePictures:
    """Paint landscapes at a moment.

    Args:
        landscapes: one or more.
        size: side in pixels, 16 to 2048.
        time: in frames; clouds and ripples move by `motion` a frame.
        device: where to paint.

    Raises:
        InputError: no landscapes, or a size out of range.

    Example:
        >>> made = paint_landscapes([sample_landscape(split="tune", seed=1, index=0)], 32)
        >>> tuple(made.image.shape), tuple(made.motion.shape)
        ((1, 3, 32, 32), (1, 2, 32, 32))
    """
    if not landscapes or not 16 <= size <= 2048:
        raise InputError(f"{len(landscapes)} landscapes of {size} px; give at least one, and 16 to 2048 px")
    return _Painter(landscapes, size, time, torch.device(device)).paint()


class _Painter:
    """The layers of a batch of landscapes, from the sky to the water; maps are [N, H, W], colours [N, 3, 1, 1]."""

    def __init__(self, landscapes: Sequence[Landscape], size: int, time: float, device: torch.device) -> None:
        self.landscapes, self.size, self.time, self.device = landscapes, size, time, device
        steps = (torch.arange(size, device=device) + 0.5) / size
        self.y, self.x = steps.view(1, size, 1), (2.0 * steps - 1.0).view(1, 1, size)
        self.dusk, self.horizon, self.sun = self._of("dusk"), self._of("horizon"), self._of("sun")
        flat = self.dusk.flatten()
        hue, warm = self._of("sky_hue").flatten(), self._of("warm_hue").flatten()
        self.high = _hsv(hue, 0.75 - 0.25 * flat, 0.85 - 0.5 * flat)
        self.low = _hsv(torch.where(flat > 0.45, warm, hue), 0.18 + 0.6 * (flat - 0.3).abs(), 0.97 - 0.12 * flat)
        self.sunlight = _hsv(torch.full_like(flat, 0.09), 0.15 + 0.5 * flat, torch.ones_like(flat))
        self.brightness = (1.0 - 0.62 * self.dusk)[:, None]

    def paint(self) -> LandscapePictures:
        picture = self._sky()
        picture, land = self._land(picture)
        picture, water, motion = self._water(picture)
        sky = (1.0 - land) > 0.5
        mask = torch.where(water > 0.5, WATER, torch.where(sky, SKY, LAND))
        wind = self._table([landscape.wind for landscape in self.landscapes])[:, :, None, None]
        moving = wind * (mask == SKY)[:, None] + motion * (mask == WATER)[:, None]
        return LandscapePictures(picture.clamp(0.0, 1.0), mask, moving * (self.size / 64.0))

    def _table(self, rows: object) -> Tensor:
        return torch.from_numpy(np.asarray(rows, dtype=np.float32)).to(self.device)

    def _of(self, name: str) -> Tensor:
        return self._table([float(getattr(landscape, name)) for landscape in self.landscapes]).view(-1, 1, 1)

    def _sharp(self, inside: Tensor) -> Tensor:
        """1 where a signed distance in units of the side is positive, over one pixel."""
        return (inside * self.size + 0.5).clamp(0.0, 1.0)

    def _sky(self) -> Tensor:
        fall = (self.y / self.horizon).clamp(0.0, 1.0)[:, None] ** 1.3
        sky = self.high + (self.low - self.high) * fall
        away = (self.x - self.sun) ** 2 + ((self.y - 0.75 * self.horizon) * 2.0) ** 2
        glow = torch.exp(-away * (3.2 - 1.5 * self.dusk))[:, None]
        sky = sky + (self.sunlight - sky) * 0.75 * glow
        waves = self._table([landscape.clouds for landscape in self.landscapes])
        wind = self._table([landscape.wind for landscape in self.landscapes]) * (self.time / 32.0)
        across = waves[:, :, 0, None] * (self.x - wind[:, :1, None])
        down = waves[:, :, 1, None] * (2.0 * self.y.transpose(1, 2) - wind[:, 1:, None]) + waves[:, :, 3, None]
        amplitude = waves[:, :, 2, None]
        # cos(p + q) = cos p cos q - sin p sin q, with p along the row and q down the column.
        columns = torch.cat([amplitude * down.cos(), -amplitude * down.sin()], 1)
        field = torch.bmm(columns.transpose(1, 2), torch.cat([across.cos(), across.sin()], 1))
        clouded = _smooth((1.3 * field + self._of("cover")) / 1.6 + 0.1) * _smooth((self.horizon + 0.02 - self.y) / 0.22)
        colour = (0.35 * self.low + 0.65 * (0.97 - 0.42 * self.dusk)[:, None]).clamp(0.0, 1.0)
        colour = (colour + (self.sunlight - colour) * 0.5 * glow) * (1.0 - 0.22 * _smooth(0.8 * field - 0.3))[:, None]
        return sky + (colour - sky) * 0.9 * clouded[:, None]

    def _land(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """The picture with ridges and ground, and the share of each pixel that isn't sky."""
        y, horizon = self.y, self.horizon
        hill, hue = self._of("hill"), self._of("sky_hue").flatten()
        far = horizon - (0.7 * self._outline(0) + hill).clamp(0.005, 0.4)
        near = horizon + 0.03 - (0.8 * self._outline(1) + 0.25 * hill).clamp(0.0, 0.3)
        has_near = torch.tensor([len(landscape.ridges) > 1 for landscape in self.landscapes], device=self.device).view(-1, 1, 1)
        near = torch.where(has_near, near, 2.0)
        behind, before, ground = self._sharp(y - far), self._sharp(y - near), self._sharp(y - horizon - 0.01)
        below = y - far
        rock = (
            _hsv(self._of("rock_hue").flatten(), torch.full_like(hue, 0.3), torch.full_like(hue, 0.55)) * self.brightness * 0.75
            + 0.25 * self.low
        )
        rock = rock * (1.0 - 0.25 * _smooth(6.0 * below))[:, None] + 0.22 * self.low * _smooth(5.0 * below)[:, None]
        snow = self._of("snow") * self._sharp(horizon - 0.12 - y) * (1.0 - _smooth(9.0 * below))
        rock = rock + (0.93 * self.brightness + 0.05 - rock) * 0.8 * snow[:, None]
        land_hue, saturation = self._of("land_hue").flatten(), self._of("land_saturation").flatten()
        wood = _hsv(land_hue + 0.05, saturation, torch.full_like(hue, 0.38)) * self.brightness
        wood = wood * (1.0 - 0.3 * _smooth(5.0 * (y - near)))[:, None] + 0.02
        depth = ((y - horizon) / (1.0 - horizon)).clamp(0.0, 1.0)
        meadow = _hsv(land_hue, saturation, self._of("land_value").flatten()) * self.brightness * (1.05 - 0.4 * depth)[:, None]
        for colour, share in ((rock, behind), (wood, before), (meadow, ground)):
            picture = picture + (colour - picture) * share[:, None]
        return picture, torch.maximum(torch.maximum(behind, before), ground)

    def _outline(self, number: int) -> Tensor:
        waves = self._table([landscape.ridges[min(number, len(landscape.ridges) - 1)] for landscape in self.landscapes])
        pulse = self._table(RIDGE_WAVES).view(1, -1, 1) * 2.0 * math.pi
        return (waves[:, :, :1] * torch.cos(pulse * self.x + waves[:, :, 1:])).sum(1)[:, None]

    def _water(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The picture with water, its share of each pixel, and the current in pixels a frame at 64 pixels."""
        x, y, horizon, river = self.x, self.y, self.horizon, self._of("river") > 0
        far_shore, side, end = self._table([landscape.shore for landscape in self.landscapes]).view(-1, 3, 1, 1).unbind(1)
        down = ((y - far_shore) / (1.0 - far_shore)).clamp(0.0, 1.0)
        lake = torch.minimum(y - far_shore, (end + 0.9 - side * x - 0.9 * down**2) * 0.25 + 0.12)
        near = ((y - horizon - 0.02) / (1.0 - horizon)).clamp(0.0, 1.0)
        start, bend, swing, width = self._table([landscape.course for landscape in self.landscapes]).view(-1, 4, 1, 1).unbind(1)
        middle = start + (bend - start) * near**1.5 + swing * torch.sin(4.0 * near)
        inside = torch.minimum((0.05 + width * near**1.2 - (x - middle).abs()) * 0.5, y - horizon - 0.02)
        share = self._sharp(torch.where(river, inside, lake))
        mirrored = (1.0 - (y - horizon) / (1.0 - horizon)).clamp(0.0, 1.0)
        colour = self.high + (self.low - self.high) * (mirrored**1.2)[:, None]
        glitter = (torch.exp(-5.0 * (x - self.sun) ** 2) * mirrored)[:, None]
        tint = _hsv(self._of("water_hue").flatten(), torch.full_like(self.dusk.flatten(), 0.5), torch.full_like(self.dusk.flatten(), 0.7))
        colour = colour + (tint * self.brightness - colour) * self._of("water_tint")[:, None]
        colour = 0.78 * colour + (self.sunlight - 0.78 * colour) * 0.35 * glitter
        swell, motion = self._ripples(middle, near)
        colour = (
            colour * (1.0 + 0.12 * swell * (0.55 + 0.6 * near) * torch.where(river, 1.0, 0.55))[:, None] + 0.04 * (swell * near)[:, None]
        )
        return picture + (colour - picture) * share[:, None], share, motion

    def _ripples(self, middle: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """Trains of waves that move along the current, longer and faster to the front: height and current."""
        x, y, horizon, river = self.x, self.y, self.horizon, self._of("river") > 0
        length, sign = self._of("wavelength"), torch.where(self.sun < 0, 1.0, -1.0)
        slope = middle[:, 2:] - middle[:, :-2]
        slope = torch.cat([slope[:, :1], slope, slope[:, -1:]], 1) * self.size / 4.0
        larger = 0.45 + 0.9 * near
        speed = 0.12 * length * larger
        # A river's pattern keeps its phase (the integral of dy / larger) and (x - middle) / larger: it follows the bends, and spreads.
        spread = 0.45 * (x - middle) / larger / (1.0 - horizon)
        motion = torch.stack([torch.where(river, slope + spread, sign) * speed, torch.where(river, speed, 0.0) + 0.0 * x], 1)
        distance = (y - horizon) * 64.0
        along_river = torch.log(larger) / 0.9 * (1.0 - horizon) * 64.0
        along = torch.where(river, along_river + 0.0 * x, sign * x * 32.0 / larger)
        over = torch.where(river, (x - middle) * 32.0 / larger, distance / larger * 1.6)
        stretch, level = torch.where(river, 1.0, 0.38), torch.where(river, 0.0, 1.05)
        moved = along - 0.12 * length * self.time
        swell = torch.zeros_like(moved)
        trains = self._table([landscape.ripples for landscape in self.landscapes])
        for number in range(RIPPLES):
            factor, phase, tilt, envelope = trains[:, number].view(-1, 4, 1, 1).unbind(1)
            pulse = 2.0 * math.pi / (length * factor)
            angle = pulse * stretch * moved + pulse * over * (level + tilt * (1.5 - level)) + phase
            lift = 0.6 + 0.4 * torch.cos(0.5 * over * stretch + (level / 1.05) * moved * 0.22 * (1.0 + 0.3 * number) + envelope)
            swell = swell + (torch.cos(angle) + 0.4 * torch.cos(2.0 * angle + 0.5 * math.pi)) * lift
        return swell, motion


def _smooth(values: Tensor) -> Tensor:
    """A smooth step from 0 to 1."""
    clamped = values.clamp(0.0, 1.0)
    return clamped**2 * (3.0 - 2.0 * clamped)


def _hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours [N, 3, 1, 1] of numbers [N]."""
    sixth = (hue % 1.0)[:, None] * 6.0 + torch.tensor([5.0, 3.0, 1.0], device=hue.device)
    sixth = sixth % 6.0
    away = torch.minimum(sixth, 4.0 - sixth).clamp(0.0, 1.0)
    return (value[:, None] * (1.0 - saturation[:, None] * away))[:, :, None, None]
