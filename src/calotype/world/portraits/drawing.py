"""Portraits from numbers: a bust with skin, hair, eyes and clothes, painted as a `photo` (shaded, grained) or a `webtoon` (outlined).

Every shape is an ellipse or a rounded box; layers are painted from the hindmost to the foremost, in batches.
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

STREAM = 92
STYLES = ("photo", "webtoon")
PARTS = ("background", "hair", "skin", "cloth", "eyes", "mouth")
"""Values 0, 1, ... of the part map."""
RGB = tuple[float, float, float]
SKIN_TONES: tuple[RGB, ...] = (
    (0.97, 0.88, 0.81), (0.94, 0.82, 0.73), (0.91, 0.76, 0.65), (0.87, 0.69, 0.56), (0.81, 0.61, 0.46), (0.73, 0.53, 0.38),
    (0.63, 0.44, 0.31), (0.53, 0.36, 0.25), (0.43, 0.28, 0.19), (0.33, 0.21, 0.15), (0.25, 0.16, 0.12),
)  # fmt: skip
"""From the lightest to the darkest, in plain light."""
HAIR: dict[str, RGB] = {
    "black": (0.10, 0.09, 0.09), "brown": (0.32, 0.20, 0.12), "blond": (0.82, 0.66, 0.36), "red": (0.62, 0.27, 0.12),
    "grey": (0.66, 0.66, 0.67),
}  # fmt: skip
CLOTHES: dict[str, RGB] = {
    "red": (0.78, 0.18, 0.18), "blue": (0.18, 0.35, 0.75), "green": (0.20, 0.55, 0.28), "yellow": (0.90, 0.76, 0.22),
    "white": (0.90, 0.90, 0.90), "black": (0.14, 0.14, 0.16),
}  # fmt: skip
CUTS = ("short", "long", "none")
INK: RGB = (0.08, 0.07, 0.08)


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A portrait before it is painted; lengths in units of the picture's side."""

    tone: int
    """Place in `SKIN_TONES`."""
    hair: str
    cut: str
    cloth: str
    ground: tuple[RGB, RGB]
    """Colours of the background at the top and at the bottom."""
    x: float
    """Centre of the face."""
    y: float
    width: float
    """Half the face's."""
    length: float
    """Half the face's height over half its width."""
    smile: float
    """-1 to 1."""
    light: float
    """Strength of the light, 1 being plain."""
    side: float
    """Where the light comes from, -1 (left) to 1."""
    style: str
    grain: tuple[tuple[float, float, float], ...]
    """Waves of a photo's texture: across and down in waves a side, phase."""

    @property
    def caption(self) -> str:
        """Such as `a person with dark skin, short brown hair and a red shirt`."""
        tone = "light" if self.tone < 4 else "medium" if self.tone < 7 else "dark"
        hair = "no hair" if self.cut == "none" else f"{self.cut} {self.hair} hair"
        return f"a person with {tone} skin, {hair} and a {self.cloth} shirt"


@dataclass(frozen=True, eq=False)
class PortraitPictures:
    """Painted portraits and what is known of them."""

    image: Float[Tensor, "pictures 3 height width"]
    """In [0, 1]."""
    parts: Int[Tensor, "pictures height width"]
    """The foremost part, a place in `PARTS`."""
    skin: Float[Tensor, "pictures height width"]
    """Share of each pixel that is skin."""


def sample_portrait(*, split: str, seed: int, index: int, style: str | None = None) -> Portrait:
    """The portrait of that number: the same for the same arguments, whatever its style.

    Args:
        split, seed, index: as for scenes.
        style: one of `STYLES`; by default drawn, three of four being photos.

    Raises:
        InputError: an unknown split or style, a negative number.

    >>> sample_portrait(split="tune", seed=1, index=0).caption
    'a person with dark skin, short brown hair and a white shirt'
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if style is not None and style not in STYLES:
        raise InputError(f"there is no style {style!r} of portraits; choose one of: {', '.join(STYLES)}")
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and number {index} must be 0 or more")
    rng = Rng(SPLITS[split], seed, index, STREAM)
    drawn = "webtoon" if rng.chance(0.25) else "photo"
    base = [rng.between(0.25, 0.85) for _ in range(3)]
    fall = rng.between(-0.15, 0.15)
    top, bottom = (tuple(round(min(0.95, max(0.05, value + sign * fall)), 5) for value in base) for sign in (1.0, -1.0))
    return Portrait(
        tone=rng.choice(range(len(SKIN_TONES))), hair=rng.choice(tuple(HAIR)), cut=rng.choice(("short", "short", "long", "long", "none")),
        cloth=rng.choice(tuple(CLOTHES)), ground=((top[0], top[1], top[2]), (bottom[0], bottom[1], bottom[2])),
        x=rng.between(0.42, 0.58), y=rng.between(0.38, 0.46), width=rng.between(0.15, 0.20), length=rng.between(1.2, 1.4),
        smile=rng.between(-1.0, 1.0), light=rng.between(0.8, 1.15), side=rng.between(-1.0, 1.0), style=style or drawn,
        grain=tuple((rng.between(-14.0, 14.0), rng.between(4.0, 14.0), rng.between(0.0, 2 * math.pi)) for _ in range(8)),
    )  # fmt: skip


def paint_portraits(portraits: Sequence[Portrait], size: int = 64, *, device: str | torch.device = "cpu") -> PortraitPictures:
    """Paint portraits, photos and drawings together.

    Args:
        portraits: one or more.
        size: side in pixels, 16 to 2048.
        device: where to paint.

    Raises:
        InputError: no portraits, or a size out of range.

    Example:
        >>> made = paint_portraits([sample_portrait(split="tune", seed=1, index=0)], 32)
        >>> tuple(made.image.shape), tuple(made.skin.shape)
        ((1, 3, 32, 32), (1, 32, 32))
    """
    if not portraits or not 16 <= size <= 2048:
        raise InputError(f"{len(portraits)} portraits of {size} px; give at least one, and 16 to 2048 px")
    return _Painter(portraits, size, torch.device(device)).paint()


class _Painter:
    """Layers of a batch: maps are [N, H, W], colours [N, 3, 1, 1]."""

    def __init__(self, portraits: Sequence[Portrait], size: int, device: torch.device) -> None:
        self.portraits, self.size, self.device = portraits, size, device
        steps = (torch.arange(size, device=device) + 0.5) / size
        self.down, self.across = steps.view(1, size, 1), steps.view(1, 1, size)
        self.x, self.y, self.width = self._of("x"), self._of("y"), self._of("width")
        self.height = self.width * self._of("length")
        self.drawn = torch.tensor([portrait.style == "webtoon" for portrait in portraits], device=device).view(-1, 1, 1)
        top, bottom = (
            self._colour([portrait.ground[0] for portrait in portraits]),
            self._colour([portrait.ground[1] for portrait in portraits]),
        )
        self.picture = top + (bottom - top) * self.down[:, None]
        self.parts = torch.zeros(len(portraits), size, size, dtype=torch.int64, device=device)
        self.skin = torch.zeros(len(portraits), size, size, device=device)

    def paint(self) -> PortraitPictures:
        x, y, w, h = self.x, self.y, self.width, self.height
        skin = self._colour([SKIN_TONES[portrait.tone] for portrait in self.portraits])
        hair = self._colour([HAIR[portrait.hair] for portrait in self.portraits])
        cloth = self._colour([CLOTHES[portrait.cloth] for portrait in self.portraits])
        ink = self._colour([INK] * len(self.portraits))
        long, bald = (torch.tensor([p.cut == cut for p in self.portraits], device=self.device).view(-1, 1, 1) for cut in ("long", "none"))
        has_hair = (~bald).float()
        back = torch.maximum(self._ellipse(x, y - 0.12 * h, 1.22 * w, 1.15 * h), self._box(x, y + 0.55 * h, 1.12 * w, 0.75 * h, 0.4 * w))
        self._layer(torch.where(long, back, self._ellipse(x, y - 0.18 * h, 1.14 * w, 1.06 * h)), hair, "hair", has_hair, shade=0.25)
        self._layer(self._box(x, y + 1.15 * h, 0.42 * w, 0.6 * h, 0.2 * w), 0.86 * skin, "skin")
        self._layer(self._ellipse(x, y + 2.45 * h, 2.1 * w, 1.25 * h), cloth, "cloth", shade=0.35)
        self._layer(self._ellipse(x, y + 1.28 * h, 0.55 * w, 0.22 * h), 0.92 * skin, "skin")
        for sign in (-1.0, 1.0):
            self._layer(self._ellipse(x + sign * 1.0 * w, y + 0.05 * h, 0.16 * w, 0.2 * h), 0.9 * skin, "skin", 1.0 - long.float())
        self._layer(self._ellipse(x, y, w, h), skin, "skin", shade=0.45)
        fringe = torch.minimum(self._ellipse(x, y - 0.08 * h, 1.08 * w, 1.05 * h), y - 0.45 * h - self.down + 0.12 * (self.across - x))
        self._layer(fringe, hair, "hair", has_hair, shade=0.25)
        larger = torch.where(self.drawn, 1.5, 1.0)
        white = self._colour([(0.95, 0.95, 0.95)] * len(self.portraits))
        for sign in (-1.0, 1.0):
            eye = x + sign * 0.42 * w
            self._layer(self._ellipse(eye, y - 0.02 * h, 0.2 * w * larger, 0.09 * h * larger), white, "eyes")
            self._layer(self._ellipse(eye, y - 0.02 * h, 0.1 * w * larger, 0.085 * h * larger), ink, "eyes")
            self._layer(self._box(eye, y - 0.24 * h, 0.22 * w, 0.025 * h, 0.02 * w), 0.5 * hair, "hair")
        self._layer(self._ellipse(x, y + 0.25 * h, 0.09 * w, 0.1 * h), 0.85 * skin, "skin")
        bend = self._of("smile") * 0.1 * h * (1.0 - ((self.across - x) / (0.4 * w)) ** 2).clamp(-1.0, 1.0)
        lips = self._ellipse(x, y + 0.55 * h, 0.36 * w, 0.07 * h, moved=bend)
        self._layer(lips, 0.55 * skin + 0.45 * self._colour([(0.70, 0.22, 0.25)] * len(self.portraits)), "mouth")
        lit = self.picture * self._of("light")[:, None]
        photo = lit * (1.0 + 0.04 * self._grain())[:, None]
        return PortraitPictures(torch.where(self.drawn[:, None], lit, photo).clamp(0.0, 1.0), self.parts, self.skin)

    def _of(self, name: str) -> Tensor:
        return torch.tensor([float(getattr(portrait, name)) for portrait in self.portraits], device=self.device).view(-1, 1, 1)

    def _colour(self, colours: Sequence[RGB]) -> Tensor:
        return torch.tensor(colours, device=self.device)[:, :, None, None]

    def _ellipse(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, moved: Tensor | float = 0.0) -> Tensor:
        """About the distance inside an ellipse."""
        out = (((self.across - x) / a) ** 2 + ((self.down - y + moved) / b) ** 2).sqrt()
        return (1.0 - out) * torch.minimum(a, b)

    def _box(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
        """Distance inside a box with half sides `a` and `b`."""
        right, low = (self.across - x).abs() - a + rounding, (self.down - y).abs() - b + rounding
        return rounding - (right.clamp(min=0.0) ** 2 + low.clamp(min=0.0) ** 2).sqrt() - torch.maximum(right, low).clamp(max=0.0)

    def _layer(self, inside: Tensor, colour: Tensor, part: str, there: Tensor | float = 1.0, shade: float = 0.0) -> None:
        """Lay a shape over the picture: a photo's has light from one side, a drawing's an outline."""
        share = (inside * self.size + 0.5).clamp(0.0, 1.0) * there
        slope = self._of("side") * (self.across - self.x) / self.width.clamp(min=1e-3) - 0.3 * (self.down - self.y) / self.height
        shaded = colour * (1.0 + torch.where(self.drawn, 0.0, shade * 0.5) * torch.tanh(slope))[:, None]
        if shade:
            line = ((0.016 - inside) * self.size + 0.5).clamp(0.0, 1.0) * self.drawn
            shaded = shaded + (torch.tensor(INK, device=self.device).view(1, 3, 1, 1) - shaded) * line[:, None]
        self.picture = self.picture + (shaded - self.picture) * share[:, None]
        self.parts = torch.where(share > 0.5, PARTS.index(part), self.parts)
        self.skin = torch.maximum(self.skin, share) if part == "skin" else self.skin * (1.0 - share)

    def _grain(self) -> Tensor:
        """A fine texture of standard deviation 1."""
        waves = torch.from_numpy(np.array([portrait.grain for portrait in self.portraits], dtype=np.float32)).to(self.device)
        angles = 2 * math.pi * (waves[:, :, :1, None] * self.across[:, None] + waves[:, :, 1:2, None] * self.down[:, None])
        made: Tensor = torch.cos(angles + waves[:, :, 2:, None]).sum(1) * (2.0 / waves.shape[1]) ** 0.5
        return made
