"""The walker against the numbers of the paper's own code, and its rules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calotype.core.schedule import karras_sigmas
from calotype.core.timetravel import Move, Reinject, blocks, resampling_schedule
from calotype.errors import InputError

SVD = karras_sigmas(50, 0.002, 700.0)


def official(n: int, ratio: float, length: int, samples: int) -> list[Move]:
    """The schedule of the paper's code as it is published there: a walk of counts from n - 1 (noisiest) to 0 with jumps."""
    jumps = dict.fromkeys(range(int(n * ratio), n - length, length), samples - 1)
    moves: list[Move] = []
    t = n
    while t >= 1:
        t -= 1
        moves.append(("down", n - 1 - t))
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(length):
                t += 1
                moves.append(("up", n - t))
    return moves


@pytest.mark.parametrize(
    ("ratio", "length", "samples", "downs", "ups"), [(0.8, 5, 2, 55, 5), (0.8, 5, 3, 60, 10), (0.5, 3, 2, 74, 24), (0.5, 5, 2, 70, 20)]
)
def test_numbers_of_the_papers_code(ratio: float, length: int, samples: int, downs: int, ups: int) -> None:
    moves = resampling_schedule(SVD, Reinject(ratio=ratio, length=length, repeats=samples - 1))
    assert sum(kind == "down" for kind, _ in moves) == downs
    assert sum(kind == "up" for kind, _ in moves) == ups
    assert moves == official(50, ratio, length, samples)


@given(n=st.integers(1, 80), ratio=st.floats(0, 1), length=st.integers(1, 12), samples=st.integers(1, 5))
def test_step_rule_is_the_papers_everywhere(n: int, ratio: float, length: int, samples: int) -> None:
    table = torch.linspace(10, 0, n + 1)
    assert resampling_schedule(table, Reinject(ratio=ratio, length=length, repeats=samples - 1)) == official(n, ratio, length, samples)


def test_default_redoes_steps_5_to_9_between_374_and_217() -> None:
    reinject = Reinject()
    assert blocks(SVD, reinject) == [(5, 9)]
    assert float(SVD[5]) == pytest.approx(374, abs=1)
    assert float(SVD[9]) == pytest.approx(217, abs=1)
    moves = resampling_schedule(SVD, reinject)
    assert moves[:10] == [("down", k) for k in range(10)]
    assert moves[10:15] == [("up", k) for k in (9, 8, 7, 6, 5)]
    assert moves[15:] == [("down", k) for k in range(5, 50)]


def test_sigma_rule_can_say_what_the_default_says() -> None:
    assert resampling_schedule(SVD, Reinject(rule="sigma", sigma_min=217.0, sigma_max=374.5)) == resampling_schedule(SVD, Reinject())


def test_sigma_rule_repeats_single_levels() -> None:
    """One level at a time, five times each, down to sigma 17: the first half of the 50 steps."""
    moves = resampling_schedule(SVD, Reinject(rule="sigma", sigma_min=17.0, sigma_max=700.0, length=1, repeats=5))
    inside = int((SVD >= 17.0).sum())
    assert sum(kind == "up" for kind, _ in moves) == 5 * inside
    assert moves[:4] == [("down", 0), ("up", 0), ("down", 0), ("up", 0)]


def test_a_range_between_two_levels_is_no_range() -> None:
    assert resampling_schedule(SVD, Reinject(rule="sigma", sigma_min=375.0, sigma_max=380.0)) == resampling_schedule(
        SVD, Reinject(repeats=0)
    )


@given(
    n=st.integers(1, 60),
    length=st.integers(1, 10),
    repeats=st.integers(0, 4),
    low=st.floats(0, 20),
    width=st.floats(0, 20),
)
def test_walk_is_whole(n: int, length: int, repeats: int, low: float, width: float) -> None:
    """Each move begins where the last ended, each level is passed downwards, `repeats` times more in the range, and the end is reached."""
    table = torch.linspace(20, 0, n + 1)
    reinject = Reinject(rule="sigma", sigma_min=low, sigma_max=low + width, length=length, repeats=repeats)
    at, passes = 0, [0] * n
    for kind, k in resampling_schedule(table, reinject):
        assert (k if kind == "down" else k + 1) == at
        at = k + 1 if kind == "down" else k
        passes[k] += kind == "down"
    assert at == n
    for k in range(n):
        inside = low * (1 - 1e-6) <= float(table[k]) <= (low + width) * (1 + 1e-6)
        assert passes[k] == 1 + (repeats if inside else 0)


def test_off_is_the_plain_walk() -> None:
    assert resampling_schedule(SVD, Reinject(repeats=0)) == [("down", k) for k in range(50)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"repeats": -1},
        {"length": 0},
        {"ratio": 1.5},
        {"ratio": float("nan")},
        {"sigma_min": 3.0, "sigma_max": 2.0},
        {"sigma_min": -1.0},
        {"noise_scale": -0.1},
        {"rule": "levels"},
    ],
)
@pytest.mark.bad_input
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Reinject(**wrong)  # type: ignore[arg-type]


def test_it_is_a_flat_group_of_flags() -> None:
    import tyro

    parsed = tyro.cli(Reinject, args=["--rule", "sigma", "--sigma-min", "10", "--sigma-max", "30", "--repeats", "0"])
    assert parsed == Reinject(rule="sigma", sigma_min=10.0, sigma_max=30.0, repeats=0)
