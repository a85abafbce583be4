"""Synthetic brains with known magnetic susceptibility: the MNI ICBM152 tissue maps, warped, with nuclei, vessels and lesions drawn in.

The template comes with the package nilearn (ICBM 152 non-linear symmetric 2009a: T1, grey and white matter). Everything else is computed:
no patient's data is used, and none is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import pi

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError, MissingError
from calotype.world.painting.rng import Rng
from calotype.world.scenes.sampling import SPLITS

FIELD_OF_VIEW_MM = (198.0, 234.0, 190.0)
"""Left to right, back to front, bottom to top; the template's own box."""
CENTRE_MM = (0.0, -18.0, 22.0)
"""The middle of that box in the template's coordinates."""
SUBJECT, VESSELS, TEXTURE = 71, 72, 73
"""Streams of random numbers of one brain."""

TISSUES: Mapping[str, float] = {"grey matter": 0.020, "white matter": -0.030, "fluid": 0.019}
"""Susceptibility in ppm, relative to water."""
VESSEL_PPM = 0.25
VESSEL_GRID_MM = (2.0, 2.0, 2.0)
"""Vessels begin at voxels of this size, whatever the volume's are, so that they are the same in each."""
TEXTURE_PPM = 0.005
VALUES_SPREAD = 0.25
"""Every structure's value varies by that share between brains."""
WARP_MM, WARP_KNOTS = 3.0, (8, 9, 8)
"""Standard deviation of the elastic displacement, and the grid on which it is drawn."""


@dataclass(frozen=True)
class Nucleus:
    """A soft ellipsoid on both sides of the midline."""

    name: str
    centre: tuple[float, float, float]
    """Right side, millimetres in the template's coordinates."""
    radii: tuple[float, float, float]
    ppm: float


NUCLEI: tuple[Nucleus, ...] = (
    Nucleus("thalamus", (11.0, -19.0, 8.0), (7.0, 10.0, 6.0), 0.020),
    Nucleus("caudate", (13.0, 11.0, 10.0), (4.0, 9.0, 7.0), 0.044),
    Nucleus("putamen", (26.0, 3.0, 1.0), (4.0, 11.0, 8.0), 0.038),
    Nucleus("globus pallidus", (18.0, -3.0, -1.0), (4.0, 7.0, 4.0), 0.130),
    Nucleus("red nucleus", (5.0, -20.0, -9.0), (3.0, 3.0, 3.0), 0.100),
    Nucleus("substantia nigra", (10.0, -17.0, -12.0), (3.0, 5.0, 3.0), 0.111),
    Nucleus("dentate nucleus", (15.0, -58.0, -34.0), (7.0, 5.0, 4.0), 0.152),
)
"""Approximate places; values are sums of the positive and negative parts that the field's phantoms use."""


@dataclass(frozen=True, eq=False)
class Brain:
    """One brain and everything that is known of it."""

    susceptibility: Float[Tensor, "x y z"]
    """ppm, 0 outside the mask."""
    mask: Float[Tensor, "x y z"]
    """1 inside the brain, else 0."""
    magnitude: Float[Tensor, "x y z"]
    """Signal in (0, 1] inside the mask: what the noise of a measured field is divided by."""
    regions: Int[Tensor, "x y z"]
    """0, or the number of a nucleus: 1 + its place in `NUCLEI`."""
    affine: np.ndarray = field(repr=False)
    """[4, 4] float64, voxel index to millimetres (right, front, top)."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def crop(self, size: tuple[int, int, int], centre: tuple[float, float, float] = (0.0, -10.0, 0.0)) -> Brain:
        """The box of `size` voxels around a point in millimetres."""
        middle = np.linalg.inv(self.affine) @ np.array([*centre, 1.0])
        corner = [round(float(place) - side // 2) for place, side in zip(middle[:3], size, strict=True)]
        for side, first, whole in zip(size, corner, self.mask.shape, strict=True):
            if first < 0 or first + side > whole:
                raise InputError(
                    f"a box of {size} voxels around {centre} mm leaves the volume {tuple(self.mask.shape)}; ask for a smaller one"
                )
        box = tuple(slice(first, first + side) for first, side in zip(corner, size, strict=True))
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ np.array([*corner, 1.0]))[:3]
        return Brain(self.susceptibility[box], self.mask[box], self.magnitude[box], self.regions[box], affine)


def sample_brain(
    *, split: str, seed: int, index: int, spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), sphere: bool = False
) -> Brain:
    """The brain of that number: the same for the same arguments.

    The template is turned, scaled and bent, its tissues and nuclei get values of their own, vessels are random walks, and a few smooth
    lesions of either sign are drawn. `sphere` adds a ball of 0.3 ppm, a kind of lesion that no training brain has.

    Args:
        split: `train`, `tune` or `eval`.
        seed, index: which brain.
        spacing: voxel size in millimetres.

    Raises:
        MissingError: nilearn isn't installed.
        InputError: an unknown split, or voxels that are no size.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    if min(spacing) < 0.2 or max(spacing) > 20:
        raise InputError(f"spacing is {spacing} mm; each must be from 0.2 to 20")
    rng = Rng(SPLITS[split], seed, index, SUBJECT)
    points, affine = _grid(spacing)
    placed = _placed(rng, points)
    t1, grey, white, inside = _template_at(placed)
    mask = (inside > 0.5).float()
    fluid = (1.0 - grey - white).clamp(min=0.0)
    parts = zip(TISSUES.values(), (grey, white, fluid), strict=True)
    chi = sum(((_varied(rng, ppm) * tissue) for ppm, tissue in parts), torch.zeros(()))
    smooth = _blur(t1[None, None], 3.0 / np.array(spacing))[0, 0]
    chi = chi + TEXTURE_PPM * ((t1 - smooth) / 0.05).clamp(-2.0, 2.0)
    regions = torch.zeros(chi.shape, dtype=torch.int64)
    for number, nucleus in enumerate(NUCLEI, 1):
        share = _nucleus(rng, nucleus, placed)
        chi = chi + share * (_varied(rng, nucleus.ppm) - chi)
        regions[(share > 0.5) & (mask > 0)] = number
    chi = _lesions(rng, chi, placed)
    begin = (mask, affine) if tuple(spacing) == VESSEL_GRID_MM else _mask_on(Rng(SPLITS[split], seed, index, SUBJECT), VESSEL_GRID_MM)
    tubes = _vessels(Rng(SPLITS[split], seed, index, VESSELS), affine, mask, begin)
    chi = chi + tubes * (_varied(rng, VESSEL_PPM) - chi)
    if sphere:
        centre = torch.tensor([rng.between(-35.0, 35.0), rng.between(-50.0, 30.0), rng.between(5.0, 35.0)])
        ball = torch.sigmoid((rng.between(4.0, 6.0) - (placed - centre).norm(dim=-1)) / 0.5)
        chi = chi + ball * (0.3 - chi)
        regions[ball > 0.1] = 0
    magnitude = (0.55 + 0.5 * (0.7 * white + 0.55 * grey + 0.35 * fluid) * (1.0 - 0.5 * tubes)) * mask
    return Brain(chi * mask, mask, magnitude.clamp(max=1.0), regions, affine)


def _varied(rng: Rng, ppm: float) -> float:
    return ppm * rng.between(1.0 - VALUES_SPREAD, 1.0 + VALUES_SPREAD)


def _grid(spacing: tuple[float, float, float]) -> tuple[Float[Tensor, "x y z 3"], np.ndarray]:
    """Centres of the voxels in millimetres, and their affine."""
    counts = [max(2, round(side / step)) for side, step in zip(FIELD_OF_VIEW_MM, spacing, strict=True)]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [middle - step * (count - 1) / 2 for middle, step, count in zip(CENTRE_MM, spacing, counts, strict=True)]
    axes = [torch.arange(count) * step + float(affine[i, 3]) for i, (count, step) in enumerate(zip(counts, spacing, strict=True))]
    return torch.stack(torch.meshgrid(*(axis.float() for axis in axes), indexing="ij"), dim=-1), affine


def _placed(rng: Rng, points: Float[Tensor, "x y z 3"]) -> Float[Tensor, "x y z 3"]:
    """Where in the template the brain's points lie; the first that is drawn of a brain."""
    return _affine_map(rng, points) + _elastic(rng, points)


def _mask_on(rng: Rng, spacing: tuple[float, float, float]) -> tuple[Float[Tensor, "x y z"], np.ndarray]:
    """The brain's mask on another grid, and that grid's affine."""
    points, affine = _grid(spacing)
    return (_template_at(_placed(rng, points))[3] > 0.5).float(), affine


def _affine_map(rng: Rng, points: Float[Tensor, "x y z 3"]) -> Float[Tensor, "x y z 3"]:
    """Turn by up to 15 degrees about every axis and scale by up to 10 %, about the middle."""
    matrix = np.eye(3)
    for axis in range(3):
        angle = rng.between(-15.0, 15.0) * pi / 180.0
        first, second = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    matrix = np.diag([rng.between(0.9, 1.1) for _ in range(3)]) @ matrix
    middle = torch.tensor(CENTRE_MM)
    return (points - middle) @ torch.from_numpy(matrix).float().T + middle


def _elastic(rng: Rng, points: Float[Tensor, "x y z 3"]) -> Float[Tensor, "x y z 3"]:
    """A smooth displacement in millimetres."""
    uniform = torch.from_numpy(rng.block(3, int(np.prod(WARP_KNOTS)))).clamp(1e-6, 1.0 - 1e-6)
    knots = WARP_MM * (2.0**0.5) * torch.erfinv(2.0 * uniform - 1.0)
    field = functional.interpolate(knots.float().view(1, 3, *WARP_KNOTS), size=points.shape[:3], mode="trilinear", align_corners=True)
    return field[0].movedim(0, -1)


def _nucleus(rng: Rng, nucleus: Nucleus, placed: Float[Tensor, "x y z 3"]) -> Float[Tensor, "x y z"]:
    """How much of every voxel is the nucleus, 0 .. 1."""
    radii = torch.tensor(nucleus.radii) * rng.between(0.85, 1.15)
    centre = torch.tensor(nucleus.centre) + torch.tensor([rng.between(-1.5, 1.5) for _ in range(3)])
    mirrored = torch.cat([placed[..., :1].abs(), placed[..., 1:]], dim=-1)
    reach = ((mirrored - centre) / radii).norm(dim=-1)
    return torch.sigmoid((1.0 - reach) * float(radii.min()) / 0.5)


def _lesions(rng: Rng, chi: Float[Tensor, "x y z"], placed: Float[Tensor, "x y z 3"]) -> Float[Tensor, "x y z"]:
    """Up to four soft ellipsoids between -0.1 (calcium) and 0.2 ppm (iron)."""
    for _ in range(int(rng.between(0.0, 4.99))):
        centre = torch.tensor([rng.between(-50.0, 50.0), rng.between(-75.0, 45.0), rng.between(-20.0, 50.0)])
        radii = torch.tensor([rng.between(2.0, 8.0) for _ in range(3)])
        value, strength = rng.between(-0.1, 0.2), rng.between(0.5, 1.0)
        reach = ((placed - centre) / radii).norm(dim=-1)
        chi = chi + strength * torch.sigmoid((1.0 - reach) * 3.0) * (value - chi)
    return chi


def _vessels(
    rng: Rng, affine: np.ndarray, mask: Float[Tensor, "x y z"], begin: tuple[Float[Tensor, "a b c"], np.ndarray], count: int = 90
) -> Float[Tensor, "x y z"]:
    """How much of every voxel is vein, 0 .. 1: random walks of 75 to 200 mm with a radius of 1.2 to 2.6 mm from voxels of `begin`."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    inside = np.argwhere(begin[0].numpy() > 0)
    shift = (begin[1] - affine)[:3, 3]
    amount = np.zeros(mask.numel())
    for _ in range(count):
        start = inside[int(rng.next() * len(inside))] * np.array(VESSEL_GRID_MM) + shift
        steps, radius = int(rng.between(150.0, 400.0)), rng.between(1.2, 2.6)
        turns = rng.block(steps + 1, 3) * 2.0 - 1.0
        # Unit vectors that turn slowly, half a millimetre a step.
        heading = np.cumsum(np.concatenate([turns[:1] * 4.0, turns[1:] * 0.45]), axis=0)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True) + 1e-9
        path = start + 0.5 * np.cumsum(heading, axis=0)
        _splat(amount, path / spacing, mask.shape, pi * radius**2 * 0.5 / float(np.prod(spacing)))
    tubes = torch.from_numpy(amount).float().view(1, 1, *mask.shape)
    return _blur(tubes, 0.7 / spacing)[0, 0].clamp(max=1.0) * mask


def _splat(amount: np.ndarray, places: np.ndarray, shape: torch.Size, volume: float) -> None:
    """Add `volume` at every place [n, 3], in voxels, shared among its eight neighbours."""
    base = np.floor(places).astype(int)
    part = places - base
    for corner in np.ndindex(2, 2, 2):
        at = base + corner
        weight = np.prod(np.where(corner, part, 1.0 - part), axis=1) * volume
        good = ((at >= 0) & (at < np.array(shape))).all(axis=1)
        np.add.at(amount, np.ravel_multi_index(tuple(at[good].T), tuple(shape)), weight[good])


def _blur(volume: Float[Tensor, "1 1 x y z"], sigmas: np.ndarray) -> Float[Tensor, "1 1 x y z"]:
    """Gaussian blur; standard deviations in voxels."""
    for axis, sigma in enumerate(sigmas.tolist()):
        reach = max(1, int(3.0 * sigma + 0.5))
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = -1
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = reach
        volume = functional.conv3d(functional.pad(volume, padding, mode="replicate"), (kernel / kernel.sum()).view(shape))
    return volume


def _template_at(points: Float[Tensor, "x y z 3"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """T1, grey matter, white matter and brain mask of the template at points in millimetres, each [x, y, z], 0 .. 1."""
    maps, affine = _template()
    inverse = torch.from_numpy(np.linalg.inv(affine)).float()
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    sides = torch.tensor(maps.shape[2:]).float()
    grid = (2.0 * voxels / (sides - 1.0) - 1.0).flip(-1)
    found = functional.grid_sample(maps, grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    t1, grey, white, inside = found.unbind(0)
    return t1, grey, white, inside


@lru_cache(maxsize=1)
def _template() -> tuple[Float[Tensor, "1 4 x y z"], np.ndarray]:
    try:
        from nilearn import datasets
    except ImportError:
        raise MissingError(
            'the brains are made from a template in the package nilearn; install it: pip install "calotype[medical]"'
        ) from None
    makers = (
        datasets.load_mni152_template,
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
        datasets.load_mni152_brain_mask,
    )
    images = [make(resolution=1) for make in makers]
    maps = np.stack([np.asarray(image.dataobj, dtype=np.float32) for image in images])
    return torch.from_numpy(maps)[None], np.asarray(images[0].affine, dtype=np.float64)
