"""Cosines, places between cells, peaks, best buddies and joint PCA against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.core.scene_fields import sample_map
from calotype.errors import InputError, ShapeError
from calotype.features.correspondence import (
    Peak,
    best_buddies,
    cell_positions,
    contrasted,
    cosine,
    descriptor_at,
    joint_pca,
    relative_margin,
    soft_argmax,
    standardized,
)  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(grid=st.tuples(st.integers(2, 9), st.integers(2, 9)), side=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_middle_of_a_cell_has_that_cells_features(grid: tuple[int, int], side: int, seed: int) -> None:
    features, size = random(3, *grid, seed=seed), (grid[0] * side, grid[1] * side)
    found = sample_map(features, cell_positions(grid, size), size)
    assert torch.allclose(found.T.reshape(3, *grid), features, atol=1e-4)


def test_between_middles_features_are_linear_and_beyond_them_constant() -> None:
    ramp = torch.arange(4.0).expand(1, 2, 4)
    xs = torch.tensor([0.0, 8.0, 16.0, 20.0, 64.0])
    found = sample_map(ramp, torch.stack([xs, torch.full((5,), 16.0)], 1), (32, 64))[:, 0]
    assert torch.allclose(found, torch.tensor([0.0, 0.0, 0.5, 0.75, 3.0]), atol=1e-5)


def test_a_click_is_found_again_in_its_own_picture_whatever_the_shape_of_the_picture() -> None:
    features, size = random(16, 12, 20), (60, 140)
    for point in cell_positions((12, 20), size)[::37].tolist():
        scores = cosine(features, descriptor_at(features, (point[0], point[1]), size))
        x, y = soft_argmax(scores, window=1)
        assert abs(x * 7 - point[0]) < 1e-3
        assert abs(y * 5 - point[1]) < 1e-3


def test_a_click_in_a_corner_and_one_outside() -> None:
    features = random(4, 4, 4)
    assert torch.allclose(descriptor_at(features, (64, 64), (64, 64)), torch.nn.functional.normalize(features[:, 3, 3], dim=0), atol=1e-5)
    for point in ((-1, 3), (3, 64.5), (65, 3)):
        with pytest.raises(InputError, match="outside of the picture, which has 64x64 px"):
            descriptor_at(features, point, (64, 64))


def test_cosines_of_half_precision_are_summed_in_float32() -> None:
    features, target = 8.0 * random(1280, 5).half(), 8.0 * random(1280, seed=1).half()
    exact = torch.nn.functional.cosine_similarity(features.double(), target.double()[:, None], dim=0)
    assert float((cosine(features, target) - exact).abs().max()) < 1e-6
    assert torch.allclose(cosine(features.T, target, dim=-1), cosine(features, target))
    with pytest.raises(ShapeError, match="1280 channels and a descriptor with 3"):
        cosine(features, torch.ones(3))


def test_a_negative_click_lowers_what_is_more_like_it() -> None:
    click, other = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0.8, 0.9, 0.1])
    share = contrasted(click, [other])
    assert float(share[0]) > 0.8
    assert float(share[1]) < 0.2
    assert float(share[2]) == pytest.approx(0.5)


def test_scores_are_standardized_over_a_region() -> None:
    scores = random(8, 8)
    where = torch.zeros(8, 8, dtype=torch.bool)
    where[2:6] = True
    inside = standardized(scores, where)[where]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inside.std(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="region is empty"):
        standardized(scores, torch.zeros(8, 8, dtype=torch.bool))


@given(x=st.floats(2.0, 8.0), y=st.floats(2.0, 6.0))
@settings(max_examples=30, deadline=None)
def test_a_bump_between_cells_is_found_within_a_tenth_of_a_cell(x: float, y: float) -> None:
    places = cell_positions((8, 10), (8, 10)) - torch.tensor([x, y])
    scores = -places.square().sum(1).reshape(8, 10)
    found = soft_argmax(scores, window=5, temperature=1.0)
    assert abs(found[0] - x) < 0.1
    assert abs(found[1] - y) < 0.1


def test_a_second_peak_does_not_pull_the_first() -> None:
    scores = torch.zeros(1, 20)
    scores[0, 3], scores[0, 15] = 1.0, 0.99
    assert soft_argmax(scores, window=5, temperature=0.01)[0] == pytest.approx(3.5, abs=1e-3)


def test_the_margin_is_that_of_the_runner_up() -> None:
    scores = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert relative_margin(scores, [Peak(0, 1.0), Peak(1, 1.0)]) == 0
    assert relative_margin(scores, [Peak(0, 1.0)]) == 1
    assert relative_margin(scores, [Peak(0, 1.0), Peak(2, 0.0)]) == 1


def test_best_buddies_of_a_shuffle_are_the_shuffle() -> None:
    first = random(9, 6)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    pairs = best_buddies(first, 3.0 * first[order])
    assert torch.equal(pairs[:, 0], torch.arange(9))
    assert torch.equal(order[pairs[:, 1]], torch.arange(9))


def test_joint_pca_keeps_cosines_across_pictures() -> None:
    basis = random(40, 5)
    maps = [torch.einsum("ck,khw->chw", basis, random(5, 6, 7 + k, seed=k)) for k in range(2)]
    mean = torch.cat([found.flatten(1) for found in maps], 1).mean(1)
    reduced = joint_pca(maps, 5)
    assert [tuple(found.shape) for found in reduced] == [(5, 6, 7), (5, 6, 8)]
    before = cosine(maps[1] - mean[:, None, None], maps[0][:, 2, 3] - mean)
    after = cosine(reduced[1], reduced[0][:, 2, 3])
    assert torch.allclose(before, after, atol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(reduced, joint_pca(maps, 5), strict=True))
    with pytest.raises(ShapeError, match="same number of channels"):
        joint_pca([maps[0], maps[1][:3]], 5)


def test_components_come_in_the_order_of_their_variance() -> None:
    reduced = joint_pca([random(6, 8, 8) * torch.tensor([1.0, 5, 2, 3, 0.1, 4])[:, None, None]], 6)[0].flatten(1)
    spread = reduced.var(1)
    assert bool((spread.diff() <= 0).all())
    covariance = torch.cov(reduced)
    assert float((covariance - torch.diag(spread)).abs().max()) < 1e-4 * float(spread.max())
