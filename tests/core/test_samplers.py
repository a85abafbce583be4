"""The steps against exact solutions, and the loop: walks, re-noising, events, resumption."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.core.noise import batch_noise, noise, renoiser
from calotype.core.samplers import History, Step, ddim_step, dpmpp_2m_step, euler_step, heun_step, sample
from calotype.core.schedule import karras_sigmas
from calotype.core.timetravel import Reinject, resampling_schedule
from calotype.errors import Cancelled, InputError
from calotype.imaging.types import Image
from tests.core.closed_form import GAUSSIAN, counted
from tests.recorder import Recorder
from tests.tolerance import close

SHAPE = (4,)
TABLE = karras_sigmas(12, 0.02, 20.0)


def start(count: int = 3) -> Tensor:
    return 20.0 * batch_noise(SHAPE, 5, count)


@pytest.mark.parametrize(("step", "order"), [(euler_step, 1), (ddim_step(), 1), (heun_step, 2), (dpmpp_2m_step, 2)])
def test_samplers_converge_with_their_order(step: Step, order: int) -> None:
    """The error of n steps falls as n^-order. It ends above 0: the last step to 0 is of first order for every sampler."""
    x = start().double()
    exact = GAUSSIAN.flow(x, 20.0, 0.5).double()
    errors = []
    for n in (40, 80, 160):
        table = karras_sigmas(n + 1, 0.5, 20.0)[:-1]
        # Float64 through the steps themselves: at these step numbers float32's rounding would hide the second order.
        history: History = {}
        at = x
        for a, b in pairwise(table.tolist()):
            stepped = step(GAUSSIAN.denoise, at, a, b, history)
            at, history = stepped.x, stepped.history
        errors.append(float((at - exact).abs().max()))
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert measured == pytest.approx([order] * 2, abs=0.25), (errors, measured)


@pytest.mark.parametrize("step", [euler_step, heun_step, dpmpp_2m_step])
def test_sampling_ends_at_the_data(step: Step) -> None:
    """From pure noise, exact mean and deviation of the data come out: the flow maps N(mean, c^2 + s^2) to N(mean, c^2)."""
    x = GAUSSIAN.mean + (GAUSSIAN.deviation**2 + 20.0**2).sqrt() * batch_noise(SHAPE, 5, 64)
    result = sample(GAUSSIAN.denoise, x, karras_sigmas(200, 0.002, 20.0), step=step)
    assert (result - GAUSSIAN.flow(x, 20.0, 0.0)).abs().max() < 0.05


def test_constant_estimate_is_reached_in_one_step() -> None:
    x = sample(lambda x, sigma: torch.full_like(x, 0.25), start(), torch.tensor([20.0, 0.0]))
    assert torch.equal(x, torch.full_like(x, 0.25))


def test_large_levels_lose_no_digits() -> None:
    """From sigma = 2^20 (the cap of flow schedules) the estimate still arrives with float32's own precision."""
    target = noise((1000,), 1)
    x = sample(lambda x, sigma: target, 2.0**20 * noise((1000,), 2), torch.tensor([2.0**20, 3.0, 0.5, 0.0]))
    assert (x - target).abs().max() < 1e-6


def test_loop_runs_in_float32_whatever_it_is_given() -> None:
    assert sample(GAUSSIAN.denoise, start().double(), TABLE).dtype == torch.float32


def test_rows_are_independent() -> None:
    """Row i of a batch is that row sampled alone, re-noising included."""
    moves = resampling_schedule(TABLE, Reinject(ratio=0.5, length=3))
    together = sample(GAUSSIAN.denoise, start(3), TABLE, schedule=moves, renoise=renoiser(SHAPE, 9, 3))
    alone = sample(GAUSSIAN.denoise, start(3)[2:], TABLE, schedule=moves, renoise=renoiser(SHAPE, 9, 1, first_index=2))
    close(together[2:], alone, depth=8 * len(moves))


def test_renoising_restores_the_variance_of_the_level() -> None:
    """With x0 known exactly, ten levels up from level k + 1 leave noise of variance sigma_k^2."""
    x0 = 3.0
    n = 40000
    x = x0 + float(TABLE[0]) * noise((1, n), 3)
    levels: list[tuple[float, float]] = []

    def keep_noise(x: Tensor, sigma: float) -> Tensor:
        levels.append((sigma, float((x - x0).std())))
        return torch.full_like(x, x0)

    moves = resampling_schedule(TABLE[:8], Reinject(ratio=0.0, length=3, repeats=2))
    assert ("up", 2) in moves
    sample(keep_noise, x, TABLE[:8], schedule=moves, renoise=renoiser((n,), 4))
    assert len(levels) > 8
    for sigma, deviation in levels:
        # The sample deviation's own standard error is sigma / sqrt(2 n) = 0.35 %.
        assert deviation == pytest.approx(sigma, rel=0.02)


def test_noise_scale_scales_the_added_noise() -> None:
    table = torch.tensor([5.0, 3.0, 1.0])
    moves: Any = [("down", 0), ("up", 0), ("down", 0), ("down", 1)]
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    fresh = noise(SHAPE, 8)[None]
    sample(denoise, torch.full((1, 4), 5.0), table, schedule=moves, renoise=lambda position: fresh, noise_scale=0.5)
    assert torch.allclose(seen[1], 3.0 + 0.5 * 4.0 * fresh)


def test_each_up_step_draws_by_its_position() -> None:
    drawn: list[int] = []

    def renoise(position: int) -> Tensor:
        drawn.append(position)
        return torch.zeros(3, 4)

    moves = resampling_schedule(TABLE, Reinject(ratio=0.5, length=2))
    sample(GAUSSIAN.denoise, start(), TABLE, schedule=moves, renoise=renoise)
    assert drawn == [i for i, (kind, _) in enumerate(moves) if kind == "up"]
    assert drawn


def test_stochastic_ddim_keeps_the_marginal() -> None:
    """DDPM steps (eta = 1) with a point mass as data: after each step the noise has the level's deviation."""
    n, levels = 40000, []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        levels.append((sigma, float((x - 1.0).std())))
        return torch.ones_like(x)

    sample(denoise, 1.0 + 20.0 * noise((1, n), 3), TABLE, step=ddim_step(1.0, renoiser((n,), 4)))
    for sigma, deviation in levels:
        assert deviation == pytest.approx(sigma, rel=0.02)


def test_multistep_history_is_dropped_after_renoising() -> None:
    """The step after a jump is of first order: its estimate is not extrapolated from the other side of the jump."""
    moves: Any = [("down", 0), ("down", 1), ("up", 1), ("down", 1), ("down", 2)]
    table = torch.tensor([8.0, 4.0, 2.0, 1.0])
    histories: list[bool] = []

    def spy(denoise: Any, x: Tensor, sigma: float, sigma_next: float, history: Any = None, position: int = 0) -> Any:
        histories.append(bool(history))
        return dpmpp_2m_step(denoise, x, sigma, sigma_next, history, position)

    sample(GAUSSIAN.denoise, start(), table, step=spy, schedule=moves, renoise=renoiser(SHAPE, 1, 3))
    assert histories == [False, True, False, True]


def test_events_of_a_step_come_in_order() -> None:
    listener = Recorder()
    sample(GAUSSIAN.denoise, start(), TABLE[-3:], events=listener, key="clip", preview=lambda x0: Image(torch.zeros(3, 2, 2)))
    assert listener.heard == ["stage clip 2"] + ["step 1", "save", "check"] * 2
    assert len(listener.previews) == 2


def test_preview_shows_the_estimate_of_its_own_step() -> None:
    listener, estimates = Recorder(), []

    def preview(x0: Tensor) -> Image:
        estimates.append(x0)
        return Image(torch.zeros(3, 2, 2))

    x = start()
    sample(GAUSSIAN.denoise, x, TABLE, events=listener, preview=preview)
    assert torch.equal(estimates[0], GAUSSIAN.denoise(x, float(TABLE[0])))


@pytest.mark.parametrize("step", [euler_step, heun_step, dpmpp_2m_step, ddim_step(0.7, renoiser(SHAPE, 11, 3))])
@pytest.mark.parametrize("stop_after", [1, 4, 9, 17])
def test_resumed_run_is_bit_equal(step: Step, stop_after: int) -> None:
    moves = resampling_schedule(TABLE, Reinject(ratio=0.5, length=3))
    assert len(moves) == 18
    options: dict[str, Any] = {"step": step, "schedule": moves, "renoise": renoiser(SHAPE, 9, 3)}
    whole = sample(GAUSSIAN.denoise, start(), TABLE, **options)
    listener = Recorder(stop_after=stop_after)
    denoise, calls = counted(GAUSSIAN.denoise)
    with pytest.raises(Cancelled):
        sample(denoise, start(), TABLE, events=listener, **options)
    listener.stop_after = None
    listener.steps = 0
    resumed = sample(denoise, start(), TABLE, events=listener, **options)
    assert torch.equal(resumed, whole)
    assert listener.steps == len(moves)
    fresh, once = counted(GAUSSIAN.denoise)
    sample(fresh, start(), TABLE, **options)
    assert len(calls) == len(once)


def test_state_of_another_run_is_refused() -> None:
    listener = Recorder(stop_after=2)
    with pytest.raises(Cancelled):
        sample(GAUSSIAN.denoise, start(), TABLE, events=listener)
    with pytest.raises(InputError, match="other settings"):
        sample(GAUSSIAN.denoise, start(), TABLE * 2, events=listener)
    with pytest.raises(InputError, match="other settings"):
        sample(GAUSSIAN.denoise, start(2), TABLE, events=listener)
    with pytest.raises(InputError, match="other settings"):
        sample(
            GAUSSIAN.denoise,
            start(),
            TABLE,
            schedule=resampling_schedule(TABLE, Reinject(ratio=0.5)),
            renoise=renoiser(SHAPE, 1, 3),
            events=listener,
        )


@pytest.mark.parametrize(
    ("sigmas", "moves", "match"),
    [
        ([1.0], None, "at least two"),
        ([1.0, 2.0], None, "fall"),
        ([2.0, 2.0, 0.0], None, "fall"),
        ([2.0, -1.0], None, "at 0 or above"),
        ([float("nan"), 0.0], None, "fall"),
        ([2.0, 1.0, 0.0], [("down", 0), ("up", 1), ("down", 1)], "begin where"),
        ([2.0, 1.0, 0.0], [("down", 0)], "ends at level 1"),
        ([2.0, 1.0, 0.0], [("down", 0), ("up", 0), ("down", 0), ("down", 1)], "renoise"),
    ],
)
def test_impossible_walks_are_refused(sigmas: list[float], moves: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        sample(GAUSSIAN.denoise, start(), torch.tensor(sigmas), schedule=moves)


@pytest.mark.parametrize(("eta", "given"), [(-0.1, True), (1.1, True), (0.5, False)])
def test_ddim_refuses_what_it_cannot_do(eta: float, given: bool) -> None:
    with pytest.raises(InputError, match="eta"):
        ddim_step(eta, renoiser(SHAPE, 1) if given else None)
