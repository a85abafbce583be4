"""What a picture of the tissue world is, in plain numbers: a layout (where each class lies) and a patient's style (how it looks).

Layout and style are drawn from streams of their own, so that any layout can be painted in any style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from calotype.errors import InputError
from calotype.world.painting.rng import Rng
from calotype.world.scenes.sampling import SPLITS

LAYOUT, STYLE = 81, 82
"""Streams of random numbers."""
READERS = 2
"""Annotators of each picture."""
SPECKLES, FIBRES = 9, 6
"""Plane waves of the two textures."""

FREQUENCIES = (4.0, 9.0)
CONTRASTS = (0.8, 1.6)
SECOND_HUE = (0.30, 0.44)
"""How far ahead of the first stain's hue the second one's lies."""
NOISE = 0.008
"""Standard deviation of the sensor's noise, in units of the picture's range."""
GREY_CONTRASTS = (0.045, 0.055)
"""Of `smooth` pictures: how much darker the tissue is than its surroundings, in units of the picture's range."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A kind of layout, and how much of each stain its classes take up."""

    stains: tuple[tuple[float, float], ...]
    """For each class, background first: density of the two stains, in units of the style's contrast."""

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.stains)


VARIANTS: Mapping[str, Variant] = {
    "tissue": Variant(stains=((0.0, 0.0), (1.0, 0.15), (0.0, 0.75))),
    "big": Variant(stains=((0.0, 0.45), (0.32, 0.40))),
    "small": Variant(stains=((0.0, 0.45), (0.50, 0.30))),
}
"""`tissue`: nests of cells (1) on patches of fibres (2) on bare glass (0). `big`: one lesion, `small`: 10 to 16, on faint tissue."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A star-shaped region; lengths in units of the picture's side, (0, 0) its top left corner."""

    label: int
    """Its class, 1 or more. Lower classes lie over higher ones."""
    x: float
    y: float
    radius: float
    wobble: tuple[tuple[float, float], ...]
    """Amplitude (share of the radius) and phase of the 2nd, 3rd and 4th harmonic of its outline."""
    softness: float
    """The share of readers who count a point in is sigmoid(distance to the outline / softness), the distance being positive inside."""
    readers: tuple[float, ...]
    """How far outside the outline each reader draws the border, in units of the softness; logistically distributed."""


@dataclass(frozen=True, kw_only=True)
class TissueLayout:
    """Where everything is: blobs, and the directions and phases of the textures."""

    variant: str
    blobs: tuple[Blob, ...]
    speckles: tuple[tuple[float, float, float], ...]
    """Direction and phase in radians, and frequency in units of the style's, of each wave of the cells' texture."""
    fibres: tuple[tuple[float, float, float], ...]
    """The same of the fibres', which have nearly one direction."""
    split: str
    seed: int
    index: int


@dataclass(frozen=True, kw_only=True)
class TissueStyle:
    """How a patient's tissue looks."""

    hue: float
    """Of the first stain: place on an arc of three quarters of the colour circle, 0 to 1 (`measuring.hue_angle`)."""
    second_hue: float
    """Of the second stain, on the same arc and beyond its end: `hue` + 0.30 to 0.44."""
    contrast: float
    """Optical density (natural logarithm) of a full stain; of a grey style the difference in brightness."""
    frequency: float
    """Of the textures, in waves a side."""
    tint: float
    """Colour of the light, from cool (0) to warm (1)."""
    noise: float
    """Standard deviation of the sensor's noise; pictures are in [0, 1]."""
    grey: bool = False
    """Grey and smooth pictures without stains."""


@dataclass(frozen=True, kw_only=True)
class TissueScene:
    """One picture before it is painted."""

    layout: TissueLayout
    style: TissueStyle
    patient: int

    @property
    def truth(self) -> dict[str, float]:
        """The style in plain numbers, as `table.csv` and `measure_style` name them."""
        style = self.style
        return {name: getattr(style, name) for name in ("hue", "second_hue", "contrast", "frequency", "tint", "noise")}


def sample_layout(variant: str = "tissue", *, split: str, seed: int, index: int) -> TissueLayout:
    """The layout of that number: the same for the same arguments.

    Args:
        variant: see `VARIANTS`.
        split: `train`, `tune` or `eval`.
        seed: number of the stream, 0 or more.
        index: number of the picture, 0 or more.

    Raises:
        InputError: an unknown variant or split, a negative number.

    >>> [blob.label for blob in sample_layout("big", split="tune", seed=1, index=0).blobs]
    [1]
    """
    rng = _rng(LAYOUT, variant, split, seed, index)
    if variant == "tissue":
        blobs = [_blob(rng, 2, (0.18, 0.82), (0.22, 0.36), 0.012) for _ in range(rng.choice((1, 2, 2, 3)))]
        blobs += [_blob(rng, 1, (0.12, 0.88), (0.10, 0.19), 0.012) for _ in range(rng.choice((2, 3, 4)))]
    elif variant == "big":
        blobs = [_blob(rng, 1, (0.34, 0.66), (0.18, 0.30), 0.025)]
    else:
        blobs = _apart(rng, rng.choice((10, 11, 12, 13, 14, 15, 16)))
    turn = rng.between(0.0, math.pi)
    speckles = [(rng.between(0.0, math.pi), rng.between(0.0, 2 * math.pi), rng.between(0.85, 1.15)) for _ in range(SPECKLES)]
    fibres = [(turn + rng.between(-0.25, 0.25), rng.between(0.0, 2 * math.pi), rng.between(0.85, 1.15)) for _ in range(FIBRES)]
    return TissueLayout(
        variant=variant, blobs=tuple(blobs), speckles=tuple(speckles), fibres=tuple(fibres), split=split, seed=seed, index=index
    )


def sample_style(
    *, split: str, seed: int, patient: int, hues: tuple[float, float] = (0.0, 1.0), smooth: bool = False, noise: float | None = None
) -> TissueStyle:
    """A patient's style: the same for the same arguments.

    Args:
        split, seed: as for `sample_layout`.
        patient: number of the patient, 0 or more.
        hues: range that the first stain's hue is drawn from, within 0 to 1.
        smooth: grey pictures of subtle contrast instead of stained ones.
        noise: standard deviation of the sensor's noise, 0 to 0.5; by default `NOISE`.

    Raises:
        InputError: a value out of range.

    >>> 0.2 <= sample_style(split="tune", seed=1, patient=0, hues=(0.2, 0.3)).hue <= 0.3
    True
    """
    low, high = hues
    if not 0 <= low <= high <= 1:
        raise InputError(f"hues are {low:g} to {high:g}; give two numbers from 0 to 1, the smaller one first")
    if noise is not None and not 0 <= noise <= 0.5:
        raise InputError(f"the noise is {noise:g}; give 0 to 0.5 (the pictures' range is 1)")
    rng = _rng(STYLE, "tissue", split, seed, patient)
    hue = rng.between(low, high)
    second = round(hue + rng.between(*SECOND_HUE), 5)
    contrast = rng.between(*(GREY_CONTRASTS if smooth else CONTRASTS))
    frequency, tint = rng.between(*FREQUENCIES), rng.between(0.0, 1.0)
    return TissueStyle(
        hue=hue, second_hue=second, contrast=contrast, frequency=frequency, tint=tint, noise=NOISE if noise is None else noise, grey=smooth
    )


def sample_tissue(
    variant: str = "tissue",
    *,
    split: str,
    seed: int,
    index: int,
    patients: int | None = None,
    pictures_per_patient: int = 8,
    hues: tuple[float, float] = (0.0, 1.0),
    smooth: bool = False,
    noise: float | None = None,
) -> TissueScene:
    """Picture `index` of a stream: pictures 0 .. `pictures_per_patient` - 1 are patient 0's, and so on.

    Args:
        variant, split, seed: see `sample_layout`.
        index: number of the picture.
        patients: how many patients there are; an index beyond their pictures is refused. None: as many as are asked for.
        pictures_per_patient: 1 or more.
        hues, smooth, noise: see `sample_style`.

    Raises:
        InputError: a value out of range.

    >>> sample_tissue("small", split="eval", seed=1, index=17, pictures_per_patient=8).patient
    2
    """
    if pictures_per_patient < 1:
        raise InputError(f"pictures_per_patient is {pictures_per_patient}; give 1 or more")
    patient = index // pictures_per_patient
    if patients is not None and patient >= patients:
        raise InputError(f"picture {index} is beyond the {patients} x {pictures_per_patient} pictures of the patients")
    return TissueScene(
        layout=sample_layout(variant, split=split, seed=seed, index=index),
        style=sample_style(split=split, seed=seed, patient=patient, hues=hues, smooth=smooth, noise=noise),
        patient=patient,
    )


def _rng(stream: int, variant: str, split: str, seed: int, number: int) -> Rng:
    if variant not in VARIANTS:
        raise InputError(f"there is no variant {variant!r} of the tissue world; choose one of: {', '.join(VARIANTS)}")
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or number < 0:
        raise InputError(f"seed {seed} and number {number} must be 0 or more")
    return Rng(SPLITS[split], seed, number, stream, list(VARIANTS).index(variant))


def _blob(rng: Rng, label: int, places: tuple[float, float], radii: tuple[float, float], softness: float) -> Blob:
    radius = rng.between(*radii)
    wobble = tuple((rng.between(0.0, most), rng.between(0.0, 2 * math.pi)) for most in (0.20, 0.12, 0.07))
    readers = []
    for _ in range(READERS):
        share = rng.between(0.01, 0.99)
        readers.append(round(math.log(share / (1.0 - share)), 5))
    x, y = rng.between(*places), rng.between(*places)
    soft = round(softness * rng.between(0.6, 1.4), 5)
    return Blob(label=label, x=x, y=y, radius=radius, wobble=wobble, softness=min(soft, round(radius / 6, 5)), readers=tuple(readers))


def _apart(rng: Rng, count: int) -> list[Blob]:
    """Small blobs that don't touch."""
    kept: list[Blob] = []
    while len(kept) < count:
        new = _blob(rng, 1, (0.07, 0.93), (0.03, 0.06), 0.010)
        if all(math.hypot(new.x - old.x, new.y - old.y) > new.radius + old.radius + 0.04 for old in kept):
            kept.append(new)
    return kept
