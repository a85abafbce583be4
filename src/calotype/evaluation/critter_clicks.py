"""What Click to Grasp's evaluation asks: clicks on parts of a critter, and what is true of the places that come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.core.roles import DescriptorModel
from calotype.imaging.rgbd import RGBDScene
from calotype.imaging.types import Image
from calotype.world.critters.anatomy import MIRRORED, PARTS, Critter, corresponding_points
from calotype.world.critters.grasping import Things
from calotype.world.critters.raycasting import Rendering
from calotype.world.critters.sampling import CritterScene, sample_critter_scene
from calotype.world.critters.views import CLICKED, Reference, sample_reference, scene_views

LIMBS = tuple(part for part in CLICKED if MIRRORED[PARTS.index(part)] != part)
"""Clicked parts that have a left and a right one."""
NEAR, NEAR_SHARE = 0.02, 0.1
"""Metres from a part within which a place counts as found; share of the box's longer side for pixels (PCK)."""
UNKNOWN = float("nan")
Click = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Case:
    """A reference with its clicks, a picture of another critter, and a scene of yet others."""

    reference: Reference
    target: Reference
    scene: CritterScene
    views: RGBDScene
    seen: Rendering
    """What the views show."""

    @property
    def things(self) -> Things:
        """All that stands on the table."""
        return [*(critter.primitives() for critter in self.scene.critters), *((solid,) for solid in self.scene.distractors)]


def sample_case(split: str, seed: int, index: int) -> Case:
    """The case of that number."""
    scene = sample_critter_scene(split=split, seed=seed, index=index)
    reference, target = (sample_reference(split=split, seed=seed, index=2 * index + number) for number in (0, 1))
    return Case(reference, target, scene, *scene_views(scene))


def mirrored(part: str) -> str:
    """The part on the other side."""
    return MIRRORED[PARTS.index(part)]


def side_of(part: str, found: str | None) -> float:
    """1 if the found limb is on the right side, 0 if it is the other one; without a number where no such limb was clicked or found."""
    if part not in LIMBS or found not in (part, mirrored(part)):
        return UNKNOWN
    return float(found == part)


def judge_pixel(case: Case, part: str, place: Click) -> dict[str, float]:
    """A place in the target picture against the truth."""
    height, width = case.target.part.shape
    number = int(case.target.part[min(height - 1, max(0, int(place[1]))), min(width - 1, max(0, int(place[0])))])
    found = PARTS[number] if number >= 0 else None
    true = _true_pixel(case, part)
    near = UNKNOWN if true is None else float(math.dist(place, true) <= NEAR_SHARE * _box_side(case.target.part))
    return {"hit": float(found == part), "left_right": side_of(part, found), "pck": near}


def _true_pixel(case: Case, part: str) -> Click | None:
    """Where in the target picture the clicked point is; None where it is hidden."""
    (x, y), target = case.reference.clicks[part], case.target
    point = case.reference.seen.point[0, :, int(y), int(x)][None]
    there = corresponding_points(case.reference.scene.critters[0], part, point, target.scene.critters[0])
    column, row, depth = target.camera.project(there, target.part.shape[0])[0].tolist()
    if not (0 <= column < target.part.shape[1] and 0 <= row < target.part.shape[0]):
        return None
    return (column, row) if abs(float(target.seen.depth[0, int(row), int(column)]) - depth) < NEAR / 2 else None


def _box_side(parts: Tensor) -> float:
    rows, columns = (parts >= 0).nonzero().unbind(1)
    return float(max(rows.max() - rows.min(), columns.max() - columns.min()) + 1)


def judge_point(case: Case, part: str, point: Float[Tensor, 3]) -> dict[str, float]:
    """A place in the scene against the truth: the nearest critter that has the part is taken."""
    at = point.float()[None]
    away = min(_away(critter, part, at) for critter in case.scene.critters)
    nearest = min(((_away(critter, name, at), name) for critter in case.scene.critters for name in PARTS), key=lambda one: one[0])
    return {"within_2cm": float(away <= NEAR), "distance_cm": 100 * away, "left_right": side_of(part, nearest[1])}


def _away(critter: Critter, part: str, at: Float[Tensor, "1 3"]) -> float:
    return max(0.0, float(critter.primitives()[PARTS.index(part)].distance(at)[0]))


class Remembering:
    """A model of descriptors that describes each picture once."""

    role = "DescriptorModel"

    def __init__(self, model: DescriptorModel) -> None:
        self.model, self.name = model, model.name
        self._known: dict[int, tuple[Tensor, Mapping[str, Tensor]]] = {}

    def maps(self, image: Image) -> Mapping[str, Tensor]:
        """Of the pixels' storage, so that it must not be changed."""
        key = image.pixels.data_ptr()
        if key not in self._known:
            self._known[key] = (image.pixels, self.model.maps(image))
        return self._known[key][1]


class TrueParts:
    """Oracle: every pixel says which part it shows; the transformer's half of it doesn't know left from right."""

    role, name = "DescriptorModel", "true parts"

    def __init__(self, case: Case) -> None:
        views = [(view.rgb, case.seen.part[number]) for number, view in enumerate(case.views.views)]
        self._parts = [*views, *((one.seen.image[0], one.part) for one in (case.reference, case.target))]

    def maps(self, image: Image) -> dict[str, Tensor]:
        """One-hot, in full resolution."""
        part = next(part for pixels, part in self._parts if pixels.data_ptr() == image.pixels.data_ptr())
        blind = torch.tensor([min(number, PARTS.index(mirrored(name))) for number, name in enumerate(PARTS)] + [-1])[part]
        return {"diffusion": _one_hot(part), "vit": _one_hot(blind)}


def _one_hot(part: Tensor) -> Float[Tensor, "parts height width"]:
    return functional.one_hot(part + 1, len(PARTS) + 1).permute(2, 0, 1).float()


class Colours:
    """Baseline: the mean colours of 3 x 3 places about each cell of 4 px."""

    role, name = "DescriptorModel", "colours"

    def maps(self, image: Image) -> dict[str, Tensor]:
        """Both maps alike."""
        cells = functional.avg_pool2d(image.pixels[None], 4)
        around = functional.unfold(functional.pad(cells, (1, 1, 1, 1), mode="replicate"), 3)[0].unflatten(1, cells.shape[2:])
        return {"diffusion": around - 0.5, "vit": around - 0.5}


class Shuffled:
    """Control: a model whose maps of the views are permuted over the cells; the reference stays as it is."""

    role, name = "DescriptorModel", "shuffled"

    def __init__(self, model: Remembering, reference: Image, seed: int) -> None:
        self.model, self.reference, self.seed = model, reference, seed

    def maps(self, image: Image) -> Mapping[str, Tensor]:
        """Permuted, always alike."""
        maps = self.model.maps(image)
        if image.pixels.data_ptr() == self.reference.pixels.data_ptr():
            return maps
        generator, found = torch.Generator().manual_seed(self.seed), {}
        for name, one in maps.items():
            order = torch.randperm(one[0].numel(), generator=generator)
            found[name] = one.flatten(1)[:, order].view(one.shape)
        return found
