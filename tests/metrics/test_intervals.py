"""The bootstrap: coverage of a known mean, pairing, missing values."""

import math

import numpy as np

from calotype.metrics import bootstrap


def mean(column: np.ndarray) -> np.ndarray:
    return column.mean(-1)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        found = bootstrap(mean, rng.normal(1.0, 2.0, 40), resamples=400)
        inside += found.low <= 1.0 <= found.high
    assert 0.80 <= inside / 200 <= 0.97


def test_pairing_removes_what_both_columns_share() -> None:
    rng = np.random.default_rng(1)
    scene = rng.normal(0, 100, 30)
    ours, theirs = scene + 1.0 + rng.normal(0, 0.1, 30), scene
    paired = bootstrap(lambda a, b: (a - b).mean(-1), ours, theirs)
    assert 0.9 < paired.low < paired.value < paired.high < 1.1


def test_scenes_without_a_number_are_left_out_of_both_columns() -> None:
    found = bootstrap(lambda a, b: (a - b).mean(-1), [1.0, math.nan, 3.0], [0.0, 100.0, 0.0])
    assert found.value == 2.0
    assert math.isnan(bootstrap(mean, [math.nan]).value)
