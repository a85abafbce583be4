"""Properties of the sigma tables; their agreement with diffusers is in test_schedulers.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.core.schedule import FLOW_SIGMA_MAX, VPSchedule, flow_sigmas, karras_sigmas, start_scale
from calotype.errors import InputError

SCHEDULES = [
    VPSchedule.of("linear", beta_start=0.0001, beta_end=0.02),
    VPSchedule.of("scaled_linear"),
    VPSchedule.of("scaled_linear", interpolation="log"),
    VPSchedule.of("squaredcos_cap_v2", rescale_betas_zero_snr=True),
    VPSchedule.of("scaled_linear", num_train_timesteps=50),
]
SPACINGS = ["leading", "trailing", "linspace"]


def assert_falling(table: torch.Tensor, n: int) -> None:
    assert table.dtype == torch.float64
    assert table.shape == (n + 1,)
    assert torch.isfinite(table).all()
    assert (table.diff() < 0).all()
    assert float(table[-1]) == 0


@given(n=st.integers(1, 300), low=st.floats(1e-3, 1.0), ratio=st.floats(1.5, 1e6), rho=st.floats(1.0, 10.0))
def test_karras_tables_fall_to_zero(n: int, low: float, ratio: float, rho: float) -> None:
    table = karras_sigmas(n, low, low * ratio, rho)
    assert_falling(table, n)
    assert float(table[0]) == low * ratio
    if n > 1:
        assert float(table[-2]) == low
    roots = table[:-1] ** (1 / rho)
    assert torch.allclose(roots.diff(), roots.diff()[:1].expand(n - 1), rtol=1e-6)


@given(n=st.integers(1, 300), shift=st.floats(0.5, 12.0))
def test_flow_tables_fall_to_zero(n: int, shift: float) -> None:
    table = flow_sigmas(n, shift=shift)
    assert_falling(table, n)
    assert float(table[0]) == FLOW_SIGMA_MAX


@settings(max_examples=60)
@given(
    schedule=st.sampled_from(SCHEDULES),
    n=st.integers(1, 50),
    spacing=st.sampled_from(SPACINGS),
    sampler=st.sampled_from(["euler", "ddim", "heun"]),
    karras=st.booleans(),
)
def test_vp_tables_fall_to_zero(schedule: VPSchedule, n: int, spacing: Any, sampler: Any, karras: bool) -> None:
    table = schedule.table(n, spacing=spacing, sampler=sampler, respacing="karras" if karras and n > 1 else None)
    assert_falling(table, n)
    assert float(table[0]) <= float(schedule.sigmas[-1])


@settings(max_examples=60)
@given(schedule=st.sampled_from(SCHEDULES[:4]), n=st.integers(1, 300), spacing=st.sampled_from(SPACINGS))
def test_tables_of_dpm_solver_fall_to_zero(schedule: VPSchedule, n: int, spacing: Any) -> None:
    assert_falling(schedule.table(n, spacing=spacing, sampler="dpmpp_2m"), n)


@settings(max_examples=200)
@given(schedule=st.sampled_from(SCHEDULES), share=st.floats(0, 1))
def test_timestep_of_sigma_of_timestep(schedule: VPSchedule, share: float) -> None:
    t = share * (schedule.num_train_timesteps - 1)
    assert schedule.t(schedule.sigma(t)) == pytest.approx(t, abs=2e-6)


@settings(max_examples=200)
@given(schedule=st.sampled_from(SCHEDULES), share=st.floats(0, 1))
def test_sigma_of_timestep_of_sigma(schedule: VPSchedule, share: float) -> None:
    sigma = float(schedule.sigmas[0] ** (1 - share) * schedule.sigmas[-1] ** share)
    assert schedule.sigma(schedule.t(sigma)) == pytest.approx(sigma, rel=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_timesteps_come_back_whole(schedule: VPSchedule) -> None:
    assert [schedule.t(float(s)) for s in schedule.sigmas] == [float(t) for t in range(schedule.num_train_timesteps)]


def test_levels_outside_the_schedule_get_its_ends() -> None:
    schedule = SCHEDULES[1]
    assert schedule.t(0.0) == 0
    assert schedule.t(1e6) == 999
    assert schedule.sigma(-3) == float(schedule.sigmas[0])
    assert schedule.sigma(2000) == float(schedule.sigmas[-1])


def test_known_levels_of_stable_diffusion() -> None:
    """The range that every Stable Diffusion 1.x sampler states: 0.0292 .. 14.6146."""
    schedule = VPSchedule.of("scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert float(schedule.sigmas[0]) == pytest.approx(0.0292, abs=1e-4)
    assert float(schedule.sigmas[-1]) == pytest.approx(14.6146, abs=1e-4)


def test_zero_snr_changes_only_the_noisy_end() -> None:
    plain, rescaled = VPSchedule.of("scaled_linear"), VPSchedule.of("scaled_linear", rescale_betas_zero_snr=True)
    assert float(rescaled.sigmas[-1]) == pytest.approx(4096, abs=1e-3)
    assert float(rescaled.sigmas[0]) == pytest.approx(float(plain.sigmas[0]), rel=1e-5)
    assert torch.isfinite(rescaled.sigmas).all()


def test_grids_of_500_and_50_steps_nest_and_those_of_40_do_not() -> None:
    schedule = SCHEDULES[1]
    fine = set(schedule.timesteps(500, steps_offset=1).tolist())
    assert set(schedule.timesteps(50, steps_offset=1).tolist()) <= fine
    assert not set(schedule.timesteps(40, steps_offset=1).tolist()) <= set(schedule.timesteps(50, steps_offset=1).tolist())


def test_final_first_ends_at_the_level_of_timestep_0() -> None:
    schedule = SCHEDULES[1]
    table = schedule.table(10, steps_offset=1, sampler="ddim", final="first")
    assert table.shape == (11,)
    assert float(table[-1]) == float(schedule.sigmas[0])
    # With offset 0 the last timestep is 0 itself, and a step between equal levels would be none.
    assert schedule.table(10, sampler="ddim", final="first").shape == (10,)


def test_start_scale() -> None:
    assert start_scale(700.0, "leading") == pytest.approx((700.0**2 + 1) ** 0.5)
    assert start_scale(14.6, "trailing") == 14.6


@pytest.mark.bad_input
def test_misuse_is_refused() -> None:
    schedule = SCHEDULES[1]
    for wrong in (
        lambda: karras_sigmas(0, 0.1, 1.0),
        lambda: karras_sigmas(5, 1.0, 0.1),
        lambda: karras_sigmas(5, 0.0, 1.0),
        lambda: flow_sigmas(0),
        lambda: flow_sigmas(4, shift=0.0),
        lambda: schedule.timesteps(1001),
        lambda: schedule.timesteps(10, spacing="even"),  # type: ignore[arg-type]
        lambda: VPSchedule.of("cosine"),  # type: ignore[arg-type]
        lambda: VPSchedule(torch.tensor([0.5, 0.9], dtype=torch.float64)),
        lambda: VPSchedule(torch.tensor([0.9, 0.0], dtype=torch.float64)),
        lambda: VPSchedule(torch.tensor([0.9, 0.5])),
    ):
        with pytest.raises(InputError):
            wrong()
