"""The worlds that an autoencoder learns from, by name: pictures by number, painted at the toy family's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from calotype.embedded.networks import SIZE
from calotype.world import paint, sample_scene
from calotype.world.creatures.drawing import sample_creature
from calotype.world.critters.drawing import sample_critters
from calotype.world.landscapes.drawing import paint_landscapes, sample_landscape
from calotype.world.portraits.drawing import paint_portraits, sample_portrait
from calotype.world.tissue import VARIANTS, paint_tissue, sample_tissue

Painter = Callable[[str, int, Sequence[int]], Float[Tensor, "rows 3 64 64"]]
"""Split, seed and numbers to pictures in [0, 1]."""


def _scenes(split: str, seed: int, rows: Sequence[int]) -> Tensor:
    return paint([sample_scene("small", split=split, seed=seed, index=row) for row in rows], size=SIZE)


def _tissue(split: str, seed: int, rows: Sequence[int]) -> Tensor:
    """Two of four pictures are of the variant `tissue`, one of each of the others; every picture is another patient's."""
    import torch

    made = torch.empty(len(rows), 3, SIZE, SIZE)
    kinds = [("tissue", "big", "tissue", "small")[row % 4] for row in rows]
    for variant in VARIANTS:
        places = [place for place, kind in enumerate(kinds) if kind == variant]
        if places:
            scenes = [sample_tissue(variant, split=split, seed=seed, index=rows[place], pictures_per_patient=1) for place in places]
            made[places] = paint_tissue(scenes, SIZE).image
    return made


def _creatures(split: str, seed: int, rows: Sequence[int]) -> Tensor:
    return paint([sample_creature(split=split, seed=seed, index=row) for row in rows], size=SIZE)


def _portraits(split: str, seed: int, rows: Sequence[int]) -> Tensor:
    return paint_portraits([sample_portrait(split=split, seed=seed, index=row) for row in rows], SIZE).image


def _critters(split: str, seed: int, rows: Sequence[int]) -> Tensor:
    return paint([sample_critters(split=split, seed=seed, index=row) for row in rows], size=SIZE)


def _landscapes(split: str, seed: int, rows: Sequence[int]) -> Tensor:
    return paint_landscapes([sample_landscape(split=split, seed=seed, index=row) for row in rows], SIZE).image


WORLDS: Mapping[str, Painter] = {
    "scenes": _scenes,
    "tissue": _tissue,
    "creatures": _creatures,
    "portraits": _portraits,
    "critters": _critters,
    "landscapes": _landscapes,
}
"""`scenes` are those of the preset `small`."""


def paint_mix(worlds: Sequence[str], *, split: str, seed: int, rows: Sequence[int]) -> Float[Tensor, "rows 3 64 64"]:
    """Pictures of several worlds in turn: row `r` is picture `r // len(worlds)` of the world `r % len(worlds)`; in [0, 1].

    >>> tuple(paint_mix(("scenes", "portraits"), split="tune", seed=1, rows=[0, 1, 5]).shape)
    (3, 3, 64, 64)
    """
    import torch

    made = torch.empty(len(rows), 3, SIZE, SIZE)
    for number, name in enumerate(worlds):
        places = [place for place, row in enumerate(rows) if row % len(worlds) == number]
        if places:
            made[places] = WORLDS[name](split, seed, [rows[place] // len(worlds) for place in places])
    return made
