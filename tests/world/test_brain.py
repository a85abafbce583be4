"""Synthetic brains: numbers that decide them, values in their tables' range, and the same head whatever the voxels are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calotype.core.dipole import DipoleOperator
from calotype.errors import InputError
from calotype.world.brains.anatomy import FIELD_OF_VIEW_MM, NUCLEI, TISSUES, VALUES_SPREAD, Brain, sample_brain

COARSE = (4.0, 4.0, 4.0)
KEY = {"split": "tune", "seed": 11, "index": 2}


def draw(**changes: object) -> Brain:
    return sample_brain(**{**KEY, "spacing": COARSE, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fine() -> Brain:
    return sample_brain(**KEY)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def coarse() -> Brain:
    return draw()


def test_a_brain_is_its_split_seed_and_index(coarse: Brain) -> None:
    again = draw()
    for name in ("susceptibility", "mask", "magnitude", "regions"):
        assert torch.equal(getattr(coarse, name), getattr(again, name)), name
    for change in ({"split": "eval"}, {"split": "train"}, {"seed": 12}, {"index": 3}):
        other = draw(**change)
        assert (coarse.susceptibility - other.susceptibility).abs().max() > 0.05, change
        assert not torch.equal(coarse.mask, other.mask), change


def test_values_are_where_and_what_they_should_be(fine: Brain) -> None:
    assert tuple(fine.susceptibility.shape) == tuple(round(side / 2) for side in FIELD_OF_VIEW_MM)
    assert fine.spacing == (2.0, 2.0, 2.0)
    inside = fine.mask > 0
    assert set(fine.mask.unique().tolist()) == {0.0, 1.0}
    assert 0.9e6 < 8 * int(inside.sum()) < 2.6e6, "a brain has 1 to 2.5 litres"
    chi = fine.susceptibility
    assert not chi[~inside].any()
    assert not fine.magnitude[~inside].any()
    assert float(fine.magnitude[inside].min()) > 0.2
    assert float(fine.magnitude.max()) <= 1.0
    assert -0.15 < float(chi.min()) < -0.02
    assert 0.15 < float(chi.max()) <= 0.25 * (1 + VALUES_SPREAD) + 1e-6
    assert 0.02 < float(chi[inside].std()) < 0.06


def test_nuclei_have_their_tables_values_on_the_average() -> None:
    found: dict[str, list[float]] = {nucleus.name: [] for nucleus in NUCLEI}
    for index in range(4):
        brain = sample_brain(split="tune", seed=11, index=index)
        for number, nucleus in enumerate(NUCLEI, 1):
            place = brain.regions == number
            assert int(place.sum()) >= 8, nucleus.name
            found[nucleus.name].append(float(brain.susceptibility[place].median()))
        assert not bool((brain.regions[brain.mask == 0] > 0).any())
    for nucleus in NUCLEI:
        values = found[nucleus.name]
        # A lesion or a vein may lie over one of them; the edges are mixed with white matter.
        assert np.median(values) == pytest.approx(nucleus.ppm, rel=VALUES_SPREAD + 0.1, abs=0.012), nucleus.name
        assert np.ptp(values) > 0.02 * nucleus.ppm


def test_tissues_have_their_tables_values() -> None:
    """White matter is brightest in the magnitude, fluid darkest."""
    medians = []
    for index in range(4):
        brain = draw(index=index)
        inside = brain.mask > 0
        bright = brain.magnitude > brain.magnitude[inside].quantile(0.9)
        medians.append([float(brain.susceptibility[inside & bright].median()), float(brain.susceptibility[inside].median())])
    white, all_of_it = np.mean(medians, axis=0)
    assert white == pytest.approx(TISSUES["white matter"], abs=0.01)
    assert TISSUES["white matter"] < all_of_it < TISSUES["grey matter"]


def test_other_voxels_show_the_same_head(fine: Brain, coarse: Brain) -> None:
    """Means over 8 mm cubes of the same place, at 2, 4, and 2 x 4 x 4 mm."""
    flat = draw(spacing=(2.0, 4.0, 4.0))
    for brain, sides in ((fine, (2.0, 2.0, 2.0)), (coarse, COARSE), (flat, (2.0, 4.0, 4.0))):
        assert brain.spacing == pytest.approx(sides)

    def blocks(brain: Brain) -> tuple[np.ndarray, np.ndarray]:
        """[24, 28, 22] of cubes centred about the box's middle: mean chi and share of the brain."""
        shape = brain.mask.shape
        index = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), -1)
        world = index @ brain.affine[:3, :3].T + brain.affine[:3, 3]
        cell = np.floor((world - np.array([0.0, -18.0, 22.0])) / 8 + 1e-6).astype(int) + np.array([13, 15, 13])
        key = np.ravel_multi_index(tuple(cell.reshape(-1, 3).T), (27, 31, 27))
        count = np.bincount(key, minlength=27 * 31 * 27)
        mean = [np.bincount(key, weights=v.double().flatten().numpy(), minlength=27 * 31 * 27) for v in (brain.susceptibility, brain.mask)]
        return tuple(value / np.maximum(count, 1) for value in mean)  # type: ignore[return-value]

    chi, share = blocks(fine)
    for other in (coarse, flat):
        its_chi, its_share = blocks(other)
        inner = (share == 1) & (its_share == 1)
        assert inner.sum() > 1000
        assert np.abs(share - its_share).mean() < 0.02
        assert np.median(np.abs(chi - its_chi)[inner]) < 0.005
        assert np.corrcoef(chi[inner], its_chi[inner])[0, 1] > 0.9


def test_a_crop_keeps_its_place(fine: Brain) -> None:
    size = (30, 41, 22)
    part = fine.crop(size, (4.0, -12.0, 6.0))
    assert tuple(part.mask.shape) == size
    for name in ("susceptibility", "mask", "magnitude", "regions"):
        assert tuple(getattr(part, name).shape) == size
    shift = np.linalg.inv(fine.affine) @ part.affine @ np.array([0, 0, 0, 1.0])
    assert np.allclose(shift, np.round(shift), atol=1e-9)
    x, y, z = np.round(shift[:3]).astype(int)
    assert torch.equal(part.susceptibility, fine.susceptibility[x : x + 30, y : y + 41, z : z + 22])
    assert torch.equal(part.regions, fine.regions[x : x + 30, y : y + 41, z : z + 22])
    # An odd side's middle voxel is the nearest one; an even side has two.
    middle = part.affine @ np.array([14.5, 20.0, 10.5, 1.0])
    assert np.abs(middle[:3] - np.array([3.0, -12.0, 5.0])).max() < 1e-6
    assert fine.affine[0, 3] != part.affine[0, 3]
    with pytest.raises(InputError, match=r"a box of \(30, 41, 22\) voxels around \(95.0, 0.0, 0.0\) mm leaves the volume"):
        fine.crop(size, (95.0, 0.0, 0.0))


def test_a_sphere_is_a_ball_of_three_tenths(fine: Brain) -> None:
    with_ball = sample_brain(**KEY, sphere=True)  # type: ignore[arg-type]
    assert torch.equal(with_ball.mask, fine.mask)
    changed = (with_ball.susceptibility - fine.susceptibility).abs() > 0.01
    places = torch.nonzero(changed).double() * 2.0
    centre = places.mean(0)
    assert 100 < 8 * len(places) < 2000, "a ball of 4 to 6 mm has 270 to 900 mm^3"
    assert float((places - centre).norm(dim=1).max()) < 12.0
    assert float(with_ball.susceptibility[changed].max()) == pytest.approx(0.3, abs=0.01)
    assert not bool((with_ball.regions[changed & (with_ball.susceptibility > 0.29)] > 0).any())


def test_the_field_is_as_strong_as_that_of_the_phantom(fine: Brain) -> None:
    inside = fine.mask > 0
    x, y, z = fine.susceptibility.shape
    field = DipoleOperator((x, y, z), fine.spacing, (0.0, 0.0, 1.0)).forward(fine.susceptibility)
    assert float(field[inside].std()) == pytest.approx(0.0114, rel=0.35)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "test"}, "split 'test' is unknown; choose one of"),
        ({"spacing": (0.1, 2.0, 2.0)}, "each must be from 0.2 to 20"),
        ({"spacing": (2.0, 2.0, 30.0)}, "each must be from 0.2 to 20"),
    ],
)
def test_refusals(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        draw(**change)
