"""What creature a picture shows: pose, colours, texture, head shape and ground, by comparing it with rendered poses. Nothing is trained.

1. Each pixel gets its distance to every palette colour and to the ground, which is read off the picture's left and right margins.
2. For each pose and scale the place is found where painting the three parts, each in its best palette colour, explains most (correlation).
3. At these places each pose's parts are compared with the picture's pixels of that colour: the mean of the three intersections over
   unions. The best pose is the answer; below `FOUND` there is no creature.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calotype.errors import ShapeError
from calotype.world.creatures.drawing import COLOURS, GROUNDS, HEADS, PARTS, TEXTURES, Appearance, Creature
from calotype.world.painting import shapes
from calotype.world.painting.painter import coverage, gather

SIZE = 64
FOUND = 0.45
"""Least mean intersection over union of a creature; chosen on the split `tune`."""
CAP = 0.2
"""Squared sRGB distances count at most so much."""
NEAR = 0.08
"""A pixel has a colour if its squared distance from it is at most this; the palette's nearest colours are 0.11 apart."""
RADII = (17.0, 18.5, 20.0, 21.7, 23.5, 25.5)
MARGIN = 8
_STANCES: tuple[tuple[str, bool], ...] = (
    ("upright", False), ("lying", False), ("lying", True), ("jumping", False), ("curled", False), ("curled", True),
    ("facing left", True), ("facing right", False),
)  # fmt: skip
_PALETTE = torch.tensor([shapes.COLOURS[name] for name in COLOURS])
_EXTRA = torch.tensor([shapes.ACCENTS["cream"], shapes.ACCENTS["ink"]])
_GROUNDS = {"snow": (0.93, 0.96, 0.98), "night": (0.10, 0.10, 0.22), "sand": (0.87, 0.78, 0.61), "grass": (0.62, 0.76, 0.40)}


@dataclass(frozen=True)
class FoundCreature:
    """The creature of one picture."""

    pose: str
    look: Appearance
    """The nearest palette colours, and texture and head shape. Two parts may have the same colour here."""
    colours: tuple[tuple[float, float, float], ...]
    """Median sRGB of the parts, in the order of `PARTS`."""
    x: float
    """Centre in pixels at 64 px."""
    y: float
    radius: float
    score: float
    """Mean intersection over union of the three parts, 0..1."""


@dataclass(frozen=True)
class CreatureRecognition:
    """What is in one picture."""

    creature: FoundCreature | None
    """None where the best pose's score is below `FOUND`."""
    score: float
    background: str
    """The nearest ground's word."""


def recognise_creatures(pictures: Float[Tensor, "batch 3 64 64"]) -> list[CreatureRecognition]:
    """Name what each picture shows.

    Args:
        pictures: sRGB in [0, 1] at 64 px.

    Raises:
        ShapeError: another size.

    >>> from calotype.world import paint
    >>> from calotype.world.creatures.drawing import sample_creature
    >>> scene = sample_creature(index=2)
    >>> found = recognise_creatures(paint([scene]))[0]
    >>> found.creature.pose == scene.creature.pose, found.creature.look == scene.creature.look
    (True, True)
    """
    if pictures.ndim != 4 or tuple(pictures.shape[1:]) != (3, SIZE, SIZE):
        raise ShapeError(f"creatures are recognised in pictures [B, 3, {SIZE}, {SIZE}], not {list(pictures.shape)}")
    with torch.no_grad():
        return [_recognise(picture) for picture in pictures.detach().float().cpu()]


def _recognise(picture: Tensor) -> CreatureRecognition:
    margins = torch.cat([picture[:, :, :MARGIN], picture[:, :, -MARGIN:]], dim=2)
    ground = margins.median(dim=2).values[:, :, None].expand(-1, -1, SIZE)
    distances = _distances(picture, ground)
    places = _places(distances.clamp(max=CAP))
    nearest = distances.min(dim=0)
    labels = torch.where(nearest.values <= NEAR, nearest.indices, -1)
    candidates = _templates(places)
    scored = [(*_score(thing, parts, labels, distances), thing, parts) for thing, parts in candidates]
    best_score, best_colours, thing, parts = max(scored, key=lambda each: each[0])
    outside = (parts == 0) if best_score >= FOUND else torch.ones_like(parts, dtype=torch.bool)
    middle = picture[:, outside].median(dim=1).values
    background = min(GROUNDS, key=lambda name: float((middle - torch.tensor(_GROUNDS[name])).square().sum()))
    if best_score < FOUND:
        return CreatureRecognition(None, best_score, background)
    return CreatureRecognition(_described(picture, thing, parts, labels, best_colours, best_score), best_score, background)


def _distances(picture: Tensor, ground: Tensor) -> Float[Tensor, "labels height width"]:
    """Squared distances to the palette, cream, ink and the ground, in this order."""
    known = torch.cat([_PALETTE, _EXTRA])[:, :, None, None]
    flat = (picture - known).square().sum(1)
    return torch.cat([flat, (picture - ground).square().sum(0)[None]])


@lru_cache(maxsize=1)
def _stance_spectra() -> Tensor:
    """Conjugated spectra of the part masks of all stances and radii, centred, round-headed: [stances, radii, 3, 64, 33]."""
    things = [_thing(pose, flip, SIZE / 2, SIZE / 2, radius, "round") for pose, flip in _STANCES for radius in RADII]
    parts = _part_maps(things)
    masks = torch.stack([(parts == number + 1).float() for number in range(len(PARTS))], 1)
    spectra: Tensor = torch.fft.rfft2(masks).conj().unflatten(0, (len(_STANCES), len(RADII)))
    return spectra


def _places(distances: Tensor) -> list[tuple[str, bool, float, float, float]]:
    """For each stance the best centre (x, y) and radius."""
    gains = torch.fft.rfft2(distances[: len(COLOURS)] - distances[-1])
    made = []
    middle, room = SIZE // 2, 16
    for (pose, flip), spectra in zip(_STANCES, _stance_spectra(), strict=True):
        fit = torch.fft.irfft2(spectra[:, :, None] * gains[None, None], s=(SIZE, SIZE))  # [radii, parts, colours, 64, 64]
        cost = torch.roll(fit.amin(2).sum(1), (middle, middle), (1, 2))[:, middle - room : middle + room, middle - room : middle + room]
        flat = int(cost.argmin())
        number, y, x = flat // (4 * room * room), flat % (4 * room * room) // (2 * room), flat % (2 * room)
        made.append((pose, flip, float(x + middle - room), float(y + middle - room), RADII[number]))
    return made


def _thing(pose: str, flip: bool, x: float, y: float, radius: float, shape: str) -> Creature:
    look = Appearance(limbs=COLOURS[0], body=COLOURS[1], head=COLOURS[2], texture="plain", shape=shape)
    return Creature(category="creature", colour=look.body, x=x / SIZE, y=y / SIZE, radius=radius / SIZE, flip=flip, look=look, pose=pose)


def _templates(places: Sequence[tuple[str, bool, float, float, float]]) -> list[tuple[Creature, Int[Tensor, "64 64"]]]:
    things = [_thing(*place, shape) for place in places for shape in HEADS]
    return list(zip(things, _part_maps(things), strict=True))


def _part_maps(things: Sequence[Creature]) -> Int[Tensor, "things 64 64"]:
    """The id of the foremost part at each pixel, 0 where there is none."""
    still = np.zeros(1)
    placed = [
        (n, 0, thing, (still + thing.x, still + thing.y, still + thing.radius, still + thing.angle)) for n, thing in enumerate(things)
    ]
    instances = gather(placed, 1, SIZE)
    crop = 2 * SIZE
    covered = coverage(instances, crop, torch.device("cpu"))
    slots = torch.arange(1, covered.shape[1] + 1)[None, :, None, None]
    top = torch.where(covered >= 0.5, slots, 0).amax(1)
    ids = torch.cat([torch.zeros(len(things), 1), torch.from_numpy(instances.colours[:, :, 3]).float()], 1).long()
    maps = ids.gather(1, top.flatten(1)).view(-1, crop, crop)
    left = (np.floor(instances.centre + 0.5).astype(int) - crop // 2) * -1
    return torch.stack([part[y : y + SIZE, x : x + SIZE] for part, (x, y) in zip(maps, left, strict=True)])


def _score(thing: Creature, parts: Tensor, labels: Tensor, distances: Tensor) -> tuple[float, tuple[int, ...]]:
    """Mean intersection over union of the three parts with the pixels of their best colours, and these colours."""
    steps = torch.arange(SIZE) + 0.5
    near = ((steps[None] - thing.x * SIZE).square() + (steps[:, None] - thing.y * SIZE).square()) <= (1.15 * thing.radius * SIZE) ** 2
    extra = (labels == len(COLOURS)) | (labels == len(COLOURS) + 1)
    values, colours = [], []
    for number in range(1, len(PARTS) + 1):
        mask: Bool[Tensor, "64 64"] = parts == number
        colour = int(distances[: len(COLOURS), mask].clamp(max=CAP).sum(1).argmin()) if bool(mask.any()) else 0
        seen = ((labels == colour) & near) | (extra & mask)
        values.append(float((seen & mask).sum()) / max(1.0, float((seen | mask).sum())))
        colours.append(colour)
    # A blob of one colour covers all parts of some pose.
    return (sum(values) / len(values) if len(set(colours)) > 1 else 0.0), tuple(colours)


def _described(picture: Tensor, thing: Creature, parts: Tensor, labels: Tensor, colours: tuple[int, ...], score: float) -> FoundCreature:
    extra = (labels == len(COLOURS)) | (labels == len(COLOURS) + 1)
    measured = []
    for number in range(1, len(PARTS) + 1):
        inside = _inner(parts == number)
        plain = inside & ~extra
        chosen = plain if bool(plain.any()) else parts == number
        red, green, blue = (float(value) for value in picture[:, chosen].median(dim=1).values)
        measured.append((red, green, blue))
    limbs, body, head = (COLOURS[colour] for colour in colours)
    look = _nearest_look(picture, thing, Appearance(limbs=limbs, body=body, head=head, texture="plain", shape=thing.look.shape))
    return FoundCreature(
        pose=thing.pose, look=look, colours=tuple(measured), x=thing.x * SIZE, y=thing.y * SIZE, radius=thing.radius * SIZE, score=score
    )


def _inner(mask: Tensor) -> Tensor:
    """The mask without its outermost pixels, or itself where nothing would be left."""
    eroded = -torch.nn.functional.max_pool2d(-mask.float()[None, None], 3, 1, 1)[0, 0]
    return eroded.bool() if bool(eroded.any()) else mask


def _nearest_look(picture: Tensor, thing: Creature, look: Appearance) -> Appearance:
    """The look whose painting, with any texture and head shape, is nearest where the paintings differ from one another."""
    from calotype.world.creatures.drawing import on_plain_ground, sample_creature
    from calotype.world.painting.painter import paint

    base = on_plain_ground(sample_creature())
    every = [dataclasses.replace(look, texture=texture, shape=shape) for texture in TEXTURES for shape in HEADS]
    painted = paint([dataclasses.replace(base, objects=(dataclasses.replace(thing, look=one),)) for one in every])
    inside = _part_maps([dataclasses.replace(thing, look=one) for one in every]) >= PARTS.index("body") + 1
    # A pixel that only some of the heads cover counts as the ground for the others.
    ground = torch.cat([picture[:, :, :MARGIN], picture[:, :, -MARGIN:]], dim=2).median(dim=2).values[:, :, None]
    shown = torch.where(inside[:, None], painted, ground)
    errors = (shown - picture).square().sum(1).clamp(max=CAP)[:, inside.any(0)].sum(1)
    return every[int(errors.argmin())]


def colour_distance(first: Sequence[float], second: Sequence[float]) -> float:
    """CIE 1976 distance of two sRGB colours; 2.3 is about the least that a person sees.

    >>> round(colour_distance((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    171
    """
    a, b = _lab(first), _lab(second)
    return math.dist(a, b)


def _lab(rgb: Sequence[float]) -> tuple[float, float, float]:
    """CIE L*a*b* of sRGB in 0..1, white point D65."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (max(0.0, v) for v in rgb)]
    rows = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
    xyz = [sum(m * v for m, v in zip(row, linear, strict=True)) / sum(row) for row in rows]
    x, y, z = (value ** (1 / 3) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116 for value in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def identity_distance(found: FoundCreature, look: Appearance) -> float:
    """Mean CIE 1976 distance of the three part colours from an identity's."""
    return sum(colour_distance(a, b) for a, b in zip(found.colours, look.colours, strict=True)) / len(PARTS)
