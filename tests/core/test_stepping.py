"""Samplers tell denoisers that want to know which step a call belongs to; plain functions stay plain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.core.denoiser import Changed, Denoiser
from calotype.core.inversion import invert
from calotype.core.noise import renoiser
from calotype.core.paths import fuse, windows
from calotype.core.samplers import ddim_step, dpmpp_2m_step, euler_step, heun_step, sample
from calotype.core.stepping import StepContext
from calotype.core.timetravel import Reinject, resampling_schedule

LEVELS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0], dtype=torch.float64)


@dataclass
class Clock:
    """Answers with the sample and remembers what it was told."""

    told: list[tuple[int, int, float, str]] = field(default_factory=list)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        raise AssertionError("a sampler didn't tell the step")

    def at(self, step: StepContext) -> Denoiser:
        def stepped(x: Tensor, sigma: float) -> Tensor:
            assert sigma == step.sigma
            self.told.append((step.index, step.count, step.sigma, step.phase))
            return x / 2

        return stepped


def down(*indices: int) -> list[tuple[int, int, float, str]]:
    return [(index, 4, float(LEVELS[index]), "sample") for index in indices]


@pytest.mark.parametrize("step", [euler_step, dpmpp_2m_step, ddim_step(0.5, lambda position: torch.ones(1, 2))])
def test_sampling_tells_each_step(step: Any) -> None:
    clock = Clock()
    sample(clock, torch.ones(1, 2), LEVELS, step=step)
    assert clock.told == down(0, 1, 2, 3)


def test_a_second_call_at_the_next_level_belongs_to_the_step_that_starts_there() -> None:
    clock = Clock()
    sample(clock, torch.ones(1, 2), LEVELS, step=heun_step)
    assert clock.told == down(0, 1, 1, 2, 2, 3, 3)


def test_time_travel_tells_the_same_steps_again() -> None:
    clock = Clock()
    again = resampling_schedule(LEVELS, Reinject(rule="sigma", sigma_min=2.0, sigma_max=4.0, length=2))
    sample(clock, torch.ones(1, 2), LEVELS, schedule=again, renoise=renoiser((2,), 0))
    assert clock.told == down(0, 1, 2, 1, 2, 3)


def test_inversion_numbers_the_steps_as_on_the_way_down() -> None:
    clock, twice = Clock(), Clock()
    invert(clock, torch.ones(1, 2), LEVELS)
    assert clock.told == [(index, 4, float(LEVELS[index]), "invert") for index in (3, 3, 2, 1)]
    invert(twice, torch.ones(1, 2), LEVELS, step=heun_step)
    assert [index for index, *_ in twice.told] == [3, 3, 2, 2, 1, 1, 0]


def test_a_table_that_ends_above_zero_has_no_step_at_its_end() -> None:
    clock = Clock()
    sample(clock, torch.ones(1, 2), LEVELS[:-1], step=heun_step)
    invert(clock, torch.ones(1, 2), LEVELS[:-1])
    assert [index for index, *_ in clock.told] == [0, 1, 1, 2, 2, 2, 2, 2, 1]


def test_wrappers_pass_the_step_on_and_change_nothing_else() -> None:
    clock = Clock()
    paths = windows(6, 4, 2, rank=3)
    wrapped = Changed(fuse(clock, paths, max_rows=1), lambda estimate: estimate + 1)
    found = sample(wrapped, torch.ones(1, 6, 1), LEVELS)
    assert clock.told == down(0, 0, 1, 1, 2, 2, 3, 3)
    assert torch.equal(
        found, sample(Changed(fuse(lambda x, sigma: x / 2, paths), lambda estimate: estimate + 1), torch.ones(1, 6, 1), LEVELS)
    )
