"""Removals and moves with their exact answers: the same scene painted without the object, or with it somewhere else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.evaluation.experiment import pieces
from calotype.evaluation.pairs import palette
from calotype.imaging.types import Image, Mask
from calotype.methods.design_edit import Edit, Layer, Task, make_task
from calotype.methods.design_edit.regions import Regions, dilate
from calotype.metrics import iou, opacity, psnr_within
from calotype.world import SPLITS, Scene, ground_truth, moved, paint, sample_scene, without

SIZE = 64
SMOOTH = ("snow", "night")
"""Grounds that go on as they are; the others are random texture, which has no one right continuation."""
RING = 4
"""Pixels around what was touched in which seams are looked for."""
APART = 6
"""Pixels that the two objects of a scene are apart at least."""
NEAREST = 10
"""Least displacement of a move, in pixels."""
SHOWN = 0.5
"""Opacity from which a pixel shows the object."""


@dataclass(frozen=True)
class PictureEdit:
    """One edit of one scene with two objects, of which one is edited."""

    scene: Scene
    index: int
    number: int
    """Of the object that is edited."""
    shift: tuple[int, int] = (0, 0)
    """Pixels to the right and down; a removal has none."""

    @property
    def kind(self) -> Literal["removal", "move"]:
        """What is done."""
        return "removal" if self.shift == (0, 0) else "move"

    @cached_property
    def picture(self) -> Float[Tensor, "3 size size"]:
        """What is edited."""
        return paint([self.scene], size=SIZE)[0]

    @cached_property
    def clean(self) -> Float[Tensor, "3 size size"]:
        """The scene without the object."""
        return paint([without(self.scene, self.number)], size=SIZE)[0]

    @cached_property
    def answer(self) -> Float[Tensor, "3 size size"]:
        """What should come out."""
        if self.kind == "removal":
            return self.clean
        return paint([moved(self.scene, self.number, self.shift[0] / SIZE, self.shift[1] / SIZE)], size=SIZE)[0]

    @cached_property
    def mask(self) -> Bool[Tensor, "size size"]:
        """Where the object is; also what the user marks."""
        return ground_truth(self.scene, SIZE).masks[0, self.number]

    @cached_property
    def place(self) -> Bool[Tensor, "size size"]:
        """Where it should be afterwards."""
        if self.kind == "removal":
            return torch.zeros_like(self.mask)
        return torch.roll(self.mask, (self.shift[1], self.shift[0]), (0, 1))

    @cached_property
    def other(self) -> Bool[Tensor, "size size"]:
        """Where the other object is, which must not be copied into the hole; the user marks it, too."""
        return ground_truth(self.scene, SIZE).masks[0, 1 - self.number]

    @cached_property
    def task(self) -> Task:
        """The method's task."""
        mask, refine = Mask(self.mask), (Mask(self.other),)
        if self.kind == "removal":
            edit = Edit(remove=(mask,), refine=refine)
        else:
            edit = Edit(layers=(Layer(mask=mask, dx=self.shift[0] / SIZE, dy=self.shift[1] / SIZE),), refine=refine)
        return make_task(self.picture, edit, Regions(Image(self.picture)))

    def misplaced(self) -> PictureEdit:
        """The same with a mask that the user put half the object's width off, towards the middle of the picture."""
        columns = torch.nonzero(self.mask.any(0)).flatten()
        left, right = int(columns[0]), int(columns[-1]) + 1
        way = 1 if left + right < SIZE else -1
        return Misplaced(self.scene, self.index, self.number, self.shift, way * ((right - left) // 2))

    @property
    def hole(self) -> Bool[Tensor, "size size"]:
        """What has to be made from nothing."""
        return self.mask & ~self.place

    def measure(self, edited: Float[Tensor, "3 size size"], raw: Float[Tensor, "3 size size"], dilation: int) -> dict[str, float]:
        """The metrics of an edited picture.

        Args:
            edited: as the user gets it.
            raw: as the model leaves it, before untouched pixels are put back.
            dilation: growth of the masks in pixels.
        """
        colours, touched = palette(self.scene.objects[self.number]), self.mask | self.place
        ring = dilate(touched, RING) & ~touched
        shown = opacity(edited[None], self.clean[None], colours)[0] >= SHOWN
        there = opacity(self.picture[None], self.clean[None], colours)[0] >= SHOWN
        smooth = self.scene.background.name in SMOOTH
        found = {
            "hole_psnr_db": psnr_within(edited, self.answer, self.hole) if smooth else math.nan,
            "ring_psnr_db": psnr_within(edited, self.answer, ring),
            "outside_psnr_db": psnr_within(raw, self.picture, ~dilate(touched, dilation)),
            "residue_share": float((shown & self.hole).sum() / (there & self.hole).sum().clamp(min=1)),
            "foreign_share": float(((edited - self.answer).abs().amax(0) > 0.2)[self.hole].float().mean()),
            "texture_ratio": math.nan if smooth else gradient_energy(edited, self.hole) / gradient_energy(self.answer, self.hole),
            "position_error_px": math.nan,
            "iou": math.nan,
        }
        if self.kind == "move":
            truth = opacity(self.answer[None], self.clean[None], colours)[0] >= SHOWN
            found["iou"] = iou(shown, truth)
            found["position_error_px"] = math.dist(_centre(shown), _centre(truth)) if bool(shown.any()) else SIZE / 2
        return found


@dataclass(frozen=True, eq=False)
class Misplaced(PictureEdit):
    """A removal whose mask is off."""

    off: int = 0
    """Pixels to the right."""

    @cached_property
    def task(self) -> Task:
        """What the method is told; measured is what should have gone."""
        edit = Edit(remove=(Mask(torch.roll(self.mask, self.off, 1)),), refine=(Mask(self.other),))
        return make_task(self.picture, edit, Regions(Image(self.picture)))


def gradient_energy(picture: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"]) -> float:
    """Mean squared difference of neighbours that both lie in the mask: how much texture there is."""
    total, count = 0.0, 0
    for axis in (1, 2):
        step = picture.diff(dim=axis).square().mean(0)
        both = mask.narrow(axis - 1, 0, mask.shape[axis - 1] - 1) & mask.narrow(axis - 1, 1, mask.shape[axis - 1] - 1)
        total, count = total + float(step[both].sum()), count + int(both.sum())
    return total / max(count, 1)


def _centre(mask: Bool[Tensor, "h w"]) -> tuple[float, float]:
    y, x = torch.nonzero(mask, as_tuple=True)
    return float(x.double().mean()), float(y.double().mean())


def cases(preset: str, split: str, seed: int, count: int) -> list[PictureEdit]:
    """`count` removals and as many moves, on the same scenes: two whole objects apart from each other, of which one is edited.

    The two grounds with and without texture take turns, so that each metric has half of the scenes.
    """
    found: dict[bool, list[PictureEdit]] = {True: [], False: []}
    wanted = {True: (count + 1) // 2, False: count // 2}
    for index in itertools.count():
        scene = sample_scene(preset, split=split, seed=seed, index=index, objects=2)
        smooth = scene.background.name in SMOOTH
        if len(found[smooth]) < wanted[smooth] and (shift := _shift(scene, index % 2, seed)) is not None:
            found[smooth].append(PictureEdit(scene, 0, index % 2, shift))
        if all(len(found[kind]) == wanted[kind] for kind in found):
            break
    mixed = [case for pair in itertools.zip_longest(found[True], found[False]) for case in pair if case is not None]
    moves = [PictureEdit(case.scene, place, case.number, case.shift) for place, case in enumerate(mixed)]
    return [PictureEdit(case.scene, case.index, case.number) for case in moves] + moves


def _shift(scene: Scene, number: int, seed: int) -> tuple[int, int] | None:
    """A displacement that keeps the object in the picture and off the other one; None if the scene has no room, or its objects touch."""
    truth = ground_truth(scene, SIZE)
    mask, other = truth.masks[0, number], truth.masks[0, 1 - number]
    if bool((dilate(mask, APART) & other).any()) or float(truth.visible_share[0].min()) < 1:
        return None
    if any(bool(edge.any()) for each in (mask, other) for edge in (each[0], each[-1], each[:, 0], each[:, -1])):
        return None
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    right = range(1 - int(columns[0]), SIZE - 1 - int(columns[-1]))
    down = range(1 - int(rows[0]), SIZE - 1 - int(rows[-1]))
    choices = [(x, y) for x in right for y in down if math.hypot(x, y) >= NEAREST]
    order = np.random.default_rng(np.random.SeedSequence([SPLITS[scene.split], seed, scene.index, 1])).permutation(len(choices))
    free = ~dilate(other, APART)
    for choice in order[:64]:
        x, y = choices[int(choice)]
        if not bool((torch.roll(mask, (y, x), (0, 1)) & ~free).any()):
            return x, y
    return None


def batches(some: Sequence[PictureEdit], size: int) -> list[Sequence[PictureEdit]]:
    """In pieces of one kind each, so that removals and moves are worked on apart."""
    kinds = ([case for case in some if case.kind == kind] for kind in ("removal", "move"))
    return [piece for same in kinds for piece in pieces(same, size)]
