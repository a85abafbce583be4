"""Inversion: exact where the path is known, bounded in memory, honest about grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.core.inversion import Trajectory, invert
from calotype.core.noise import batch_noise
from calotype.core.samplers import Step, dpmpp_2m_step, euler_step, heun_step, sample
from calotype.core.schedule import VPSchedule, karras_sigmas
from calotype.errors import Cancelled, InputError
from tests.core.closed_form import GAUSSIAN, counted
from tests.recorder import Recorder

VP = VPSchedule.of("scaled_linear")
VP_TABLE = VP.table(500, steps_offset=1, sampler="ddim")
VE_TABLE = karras_sigmas(500, 0.002, 80.0)
TABLES = [pytest.param(VP_TABLE, id="vp"), pytest.param(VE_TABLE, id="ve")]


def data(count: int = 3) -> Tensor:
    return GAUSSIAN.mean + GAUSSIAN.deviation * batch_noise((4,), 2, count)


@pytest.mark.parametrize(
    ("table", "step", "tolerance"),
    [
        (VP_TABLE, euler_step, 0.05),
        (VP_TABLE, heun_step, 0.05),
        (VP_TABLE, dpmpp_2m_step, 0.05),
        (VE_TABLE, euler_step, 0.05),
        (VE_TABLE, heun_step, 0.002),
        (VE_TABLE, dpmpp_2m_step, 0.002),
    ],
)
def test_trajectory_follows_the_exact_path(table: Tensor, step: Step, tolerance: float) -> None:
    """At every level, relative to the size of the sample there. The VP table's first step, from 0 to 0.04, bounds what any step can do."""
    x0 = data()
    trajectory = invert(GAUSSIAN.denoise, x0, table, step=step)
    assert torch.equal(trajectory.table, table)
    for sigma, latent in zip(trajectory.sigmas.tolist(), trajectory.latents, strict=True):
        exact = GAUSSIAN.flow(x0, 0.0, sigma)
        assert (latent - exact).abs().max() < tolerance * (1 + sigma), sigma


def rebuilt_db(table: Tensor, step: Step = euler_step) -> float:
    """How near sampling from the inversion's start comes to what was inverted, in dB of its own range."""
    x0 = data()
    trajectory = invert(GAUSSIAN.denoise, x0, table, step=step)
    back = sample(GAUSSIAN.denoise, trajectory.start, trajectory.table, step=step)
    return float(20 * ((x0.max() - x0.min()) / (x0 - back).square().mean().sqrt()).log10())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("step", "decibels"), [(euler_step, 35), (heun_step, 50)])
def test_round_trip_is_near_exact(table: Tensor, step: Step, decibels: float) -> None:
    assert rebuilt_db(table, step) > decibels


def test_finer_inversion_is_better() -> None:
    values = [rebuilt_db(VP.table(n, steps_offset=1, sampler="ddim")) for n in (20, 100, 500)]
    assert values[0] + 5 < values[1]
    assert values[1] + 5 < values[2]


def test_only_the_levels_of_sampling_are_kept_and_they_are_the_same() -> None:
    sampling = VP.table(50, steps_offset=1, sampler="ddim")
    listener = Recorder()
    whole = invert(GAUSSIAN.denoise, data(), VP_TABLE)
    kept = invert(GAUSSIAN.denoise, data(), VP_TABLE, keep=sampling, events=listener)
    assert torch.equal(kept.table, sampling)
    assert listener.notes == []
    for sigma in sampling[:-1].tolist():
        assert torch.equal(kept.at(sigma), whole.at(sigma))
    assert torch.equal(kept.start, kept.latents[0])
    assert kept.megabytes == pytest.approx(50 * 3 * 4 * 4 / 1e6)


def test_grids_that_do_not_nest_snap_with_a_note() -> None:
    listener = Recorder()
    inversion, sampling = VP.table(100, steps_offset=1, sampler="ddim"), VP.table(40, steps_offset=1, sampler="ddim")
    trajectory = invert(GAUSSIAN.denoise, data(), inversion, keep=sampling, events=listener)
    assert len(listener.notes) == 1
    assert "20 of 40 sampling levels" in listener.notes[0]
    assert set(trajectory.sigmas.tolist()) <= set(inversion.tolist())
    for sigma in sampling[:-1].tolist():
        nearest = min(inversion[:-1].tolist(), key=lambda s: abs(torch.tensor(s / sigma).log()))
        assert nearest in trajectory.sigmas.tolist()


def test_the_first_step_asks_at_the_level_it_goes_to() -> None:
    denoise, calls = counted(GAUSSIAN.denoise)
    table = karras_sigmas(4, 0.1, 10.0)
    invert(denoise, data(), table)
    rising = table.flip(0).tolist()
    assert [sigma for sigma, _ in calls] == [rising[1], *rising[1:-1]]


def test_half_precision_halves_the_memory_and_not_the_integration() -> None:
    whole, half = (invert(GAUSSIAN.denoise, data(), VE_TABLE, dtype=dtype) for dtype in (torch.float32, torch.float16))
    assert half.megabytes == whole.megabytes / 2
    assert half.latents[0].dtype == torch.float16
    assert half.start.dtype == torch.float32
    for a, b in zip(half.latents, whole.latents, strict=True):
        assert torch.equal(a, b.half())


def test_memory_is_bounded_before_the_work_begins() -> None:
    denoise, calls = counted(GAUSSIAN.denoise)
    with pytest.raises(InputError, match=r"500 kept levels would take 0 MB.*pass the sampling table"):
        invert(denoise, data(), VE_TABLE, max_megabytes=0.01)
    assert calls == []
    invert(denoise, data(), VE_TABLE, keep=VE_TABLE[::50], max_megabytes=0.01)


@pytest.mark.parametrize("step", [euler_step, heun_step, dpmpp_2m_step])
@pytest.mark.parametrize("stop_after", [1, 7, 20])
def test_resumed_inversion_is_bit_equal(step: Step, stop_after: int) -> None:
    table = karras_sigmas(20, 0.02, 20.0)
    options: dict[str, Any] = {"step": step, "keep": table[::3], "dtype": torch.float16}
    whole = invert(GAUSSIAN.denoise, data(), table, **options)
    listener = Recorder(stop_after=stop_after)
    with pytest.raises(Cancelled):
        invert(GAUSSIAN.denoise, data(), table, events=listener, **options)
    listener.stop_after, listener.steps = None, 0
    resumed = invert(GAUSSIAN.denoise, data(), table, events=listener, **options)
    assert torch.equal(resumed.sigmas, whole.sigmas)
    assert all(torch.equal(a, b) for a, b in zip(resumed.latents, whole.latents, strict=True))
    assert listener.steps == 20


def test_state_of_another_inversion_is_refused() -> None:
    listener = Recorder(stop_after=2)
    with pytest.raises(Cancelled):
        invert(GAUSSIAN.denoise, data(), VE_TABLE, events=listener)
    with pytest.raises(InputError, match="other settings"):
        invert(GAUSSIAN.denoise, data(), VP_TABLE, events=listener)


def test_table_that_ends_above_zero_starts_there() -> None:
    """With a first alpha below 1 the clean latents count as the sample of that level; it is kept like any other."""
    table = VP.table(50, steps_offset=1, sampler="ddim", final="first")
    trajectory = invert(GAUSSIAN.denoise, data(), table)
    assert torch.equal(trajectory.sigmas, table)
    assert torch.equal(trajectory.latents[-1], data())


@pytest.mark.parametrize("table", [torch.tensor([1.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, -1.0]), torch.ones(2, 2)])
@pytest.mark.bad_input
def test_impossible_tables_are_refused(table: Tensor) -> None:
    with pytest.raises(InputError, match="at least two"):
        invert(GAUSSIAN.denoise, data(), table)


@pytest.mark.bad_input
def test_keeping_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no level above 0"):
        invert(GAUSSIAN.denoise, data(), VE_TABLE, keep=torch.zeros(1))


def test_trajectory_finds_the_nearest_level() -> None:
    trajectory = Trajectory(torch.tensor([8.0, 4.0, 1.0], dtype=torch.float64), tuple(torch.full((1,), s) for s in (8.0, 4.0, 1.0)))
    assert [float(trajectory.at(s)) for s in (100.0, 5.0, 2.1, 1.9, 0.01)] == [8, 4, 4, 1, 1]
