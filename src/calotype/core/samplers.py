"""Sampling: stateless steps, and the one loop that walks the noise levels.

Everything is written for x = x0 + sigma n, where the probability-flow equation is dx/dsigma = (x - D(x; sigma)) / sigma (Karras et al.
2022, eq. 1 and 3). A variance-preserving checkpoint is the same equation under z = x / sqrt(1 + sigma^2), so that DDIM with eta = 0 is
`euler_step`, and a flow checkpoint is it under z = x / (1 + sigma).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log, sqrt
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Denoiser, in_step
from calotype.core.events import SILENT, Events
from calotype.core.stepping import StepContext
from calotype.core.timetravel import Move
from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.imaging.types import Image, Video

Sample = Float[Tensor, "batch ..."]
History = Mapping[str, Tensor]
"""What a multistep method remembers of its last step; empty at the start and after a re-noising."""
_NOTHING: dict[str, Tensor] = {}


@dataclass(frozen=True)
class StepOutput:
    """The result of one step."""

    x: Sample
    """The sample at the next noise level."""
    x0: Sample
    """The estimate of the clean sample that the step began with."""
    history: History = field(default_factory=dict)


@runtime_checkable
class Step(Protocol):
    """One step from `sigma` to `sigma_next` (lower when sampling, higher when inverting; `sigma` > 0).

    `position` is the place in the schedule; a stochastic step takes its noise by it.
    """

    def __call__(
        self, denoise: Denoiser, x: Sample, sigma: float, sigma_next: float, history: History = _NOTHING, position: int = 0
    ) -> StepOutput: ...


def move_to(x: Sample, x0: Sample, sigma: float, sigma_next: float) -> Sample:
    """Euler's step given the estimate `x0`: x + (sigma_next - sigma) (x - x0) / sigma, in the form that doesn't cancel at large sigma."""
    return x0 + (sigma_next / sigma) * (x - x0)


def euler_step(denoise: Denoiser, x: Sample, sigma: float, sigma_next: float, history: History = _NOTHING, position: int = 0) -> StepOutput:
    """Euler's method, first order, one call. Equals diffusers' `EulerDiscreteScheduler`, and `FlowMatchEulerDiscreteScheduler` for flow.

    Example:
        >>> import torch
        >>> euler_step(lambda x, sigma: torch.zeros_like(x), torch.tensor([4.0]), 2.0, 1.0).x
        tensor([2.])
    """
    x0 = denoise(x, sigma)
    return StepOutput(move_to(x, x0, sigma, sigma_next), x0)


def heun_step(denoise: Denoiser, x: Sample, sigma: float, sigma_next: float, history: History = _NOTHING, position: int = 0) -> StepOutput:
    """Heun's method, second order, two calls, one if `sigma_next` is 0 (Karras et al. 2022, algorithm 1 without churn).

    Equals diffusers' `HeunDiscreteScheduler`.

    Example:
        >>> import torch
        >>> calls = []
        >>> _ = heun_step(lambda x, sigma: calls.append(sigma) or x, torch.tensor([4.0]), 2.0, 1.0)
        >>> calls
        [2.0, 1.0]
    """
    x0 = denoise(x, sigma)
    ahead = move_to(x, x0, sigma, sigma_next)
    if sigma_next == 0:
        return StepOutput(ahead, x0)
    slope = ((x - x0) / sigma + (ahead - denoise(ahead, sigma_next)) / sigma_next) / 2
    return StepOutput(x + (sigma_next - sigma) * slope, x0)


def ddim_step(eta: float = 0.0, noise: Callable[[int], Tensor] | None = None) -> Step:
    """DDIM, first order, one call (Song et al. 2021, eq. 12 and 16), written for x = x0 + sigma n.

    Its noise has the variance eta^2 sigma_next^2 (sigma^2 - sigma_next^2) / sigma^2. With eta = 0 it is `euler_step`; eta = 1 is DDPM.
    Equals diffusers' `DDIMScheduler` under z = x / sqrt(1 + sigma^2).

    Args:
        eta: 0 .. 1.
        noise: position in the schedule -> fresh noise shaped like x (`calotype.core.noise.renoiser`); needed if eta > 0.

    Raises:
        InputError: eta out of range, or no noise for eta > 0.

    Example:
        >>> import torch
        >>> ddim_step()(lambda x, sigma: torch.zeros_like(x), torch.tensor([4.0]), 2.0, 1.0).x
        tensor([2.])
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta is {eta}; it must lie between 0 (deterministic) and 1 (DDPM)")
    if eta == 0:
        return euler_step
    if noise is None:
        raise InputError(f"eta is {eta} but no noise was given; pass calotype.core.noise.renoiser(shape, seed)")
    fresh = noise

    def stochastic(
        denoise: Denoiser, x: Sample, sigma: float, sigma_next: float, history: History = _NOTHING, position: int = 0
    ) -> StepOutput:
        x0 = denoise(x, sigma)
        up = eta * sigma_next / sigma * sqrt(max(renoise_variance(sigma, sigma_next), 0.0))
        down = sqrt(max(renoise_variance(sigma_next, up), 0.0))
        return StepOutput(move_to(x, x0, sigma, down) + up * fresh(position).to(x), x0)

    return stochastic


def dpmpp_2m_step(
    denoise: Denoiser, x: Sample, sigma: float, sigma_next: float, history: History = _NOTHING, position: int = 0
) -> StepOutput:
    """DPM-Solver++ 2M, second order multistep, one call (Lu et al. 2022, algorithm 2); first order at the start and at `sigma_next` = 0.

    Equals diffusers' `DPMSolverMultistepScheduler` in its default setting (`dpmsolver++`, order 2, midpoint, last level 0).

    Example:
        >>> import torch
        >>> first = dpmpp_2m_step(lambda x, sigma: x / 2, torch.tensor([4.0]), 4.0, 2.0)
        >>> sorted(first.history)
        ['sigma', 'x0']
    """
    x0 = denoise(x, sigma)
    remembered = {"x0": x0, "sigma": torch.tensor(sigma, dtype=torch.float64)}
    estimate = x0
    if history and sigma_next > 0:
        last = log(float(history["sigma"]) / sigma)
        step = log(sigma / sigma_next)
        estimate = x0 + (step / (2 * last)) * (x0 - history["x0"])
    return StepOutput(move_to(x, estimate, sigma, sigma_next), x0, remembered)


def renoise_variance(sigma: float, sigma_next: float) -> float:
    """sigma^2 - sigma_next^2, written so that close levels don't cancel."""
    return (sigma - sigma_next) * (sigma + sigma_next)


def sample(
    denoise: Denoiser,
    x: Sample,
    sigmas: Float[Tensor, " levels"],
    *,
    step: Step = euler_step,
    schedule: Sequence[Move] | None = None,
    renoise: Callable[[int], Tensor] | None = None,
    noise_scale: float = 1.0,
    preview: Callable[[Tensor], Image | Video] | None = None,
    events: Events = SILENT,
    key: str = "sample",
) -> Sample:
    """Walk the noise levels from the first to the last: the one sampling loop.

    After each move the state (sample, position, history) is offered to `events.save_state`; a run that is called again with the same
    arguments and a listener that returns that state goes on from there, and ends bit-equal to the uninterrupted one.

    Args:
        denoise: (x, sigma) -> estimate of x0. A `calotype.core.denoiser.StepDenoiser` is told the step of each call.
        x: the sample at level sigmas[0], usually sigmas[0] * noise. Taken as float32.
        sigmas: noise levels [n + 1], falling; the last one is usually 0.
        step: how to go down.
        schedule: ("down", k) goes from level k to k + 1, ("up", k) adds the noise that leads from k + 1 back to k. Plain descent if None.
        renoise: fresh noise for the move at a position, shaped like x (see `calotype.core.noise.renoiser`). Needed for "up".
        noise_scale: factor on that noise; 1 restores the level's variance exactly.
        preview: makes a picture or a clip from an estimate of x0; called only if a listener wants one.
        events: told of each step; may stop the run.
        key: name of the stage and of the saved state; must be unique in a run.

    Returns:
        The sample at level sigmas[-1], float32.

    Raises:
        InputError: the levels don't fall, the schedule jumps, or the saved state belongs to another run.
        Cancelled: the user stopped; the state was saved.

    Example:
        >>> import torch
        >>> sample(lambda x, sigma: torch.ones_like(x), torch.tensor([[5.0]]), torch.tensor([4.0, 2.0, 0.0]))
        tensor([[1.]])
    """
    levels = [float(s) for s in sigmas]
    moves = list(schedule) if schedule is not None else [("down", k) for k in range(len(levels) - 1)]
    fresh = _check(levels, moves, renoise)
    x, count = x.float(), len(levels) - 1
    position, history = 0, _NOTHING
    # What makes a saved state this run's own: its levels and its schedule.
    plan = {
        "sigmas": torch.tensor(levels, dtype=torch.float64),
        "walk": torch.tensor([k + 1 if kind == "down" else -(k + 1) for kind, k in moves]),
    }
    state = events.load_state(key)
    if state is not None:
        x, position, history = _resume(state, x, plan, key)
    events.stage(key, len(moves))
    if position:
        events.step(position)
    while position < len(moves):
        kind, k = moves[position]
        if kind == "down":
            here, ahead = (StepContext(min(n, count - 1), count, levels[n]) for n in (k, k + 1))
            stepped = step(in_step(denoise, here, ahead), x, levels[k], levels[k + 1], history, position)
            x, history = stepped.x, dict(stepped.history)
            if preview is not None:
                _offer(events, preview, stepped.x0)
        else:
            x = x + noise_scale * sqrt(renoise_variance(levels[k], levels[k + 1])) * fresh(position).to(x)
            history = _NOTHING
        position += 1
        events.step()
        events.save_state(
            key,
            {"x": x, "position": torch.tensor(position)} | plan | {f"history.{name}": tensor for name, tensor in history.items()},
        )
        events.check()
    return x


def _offer(events: Events, preview: Callable[[Tensor], Image | Video], x0: Tensor) -> None:
    events.preview(lambda: preview(x0))


def _check(levels: list[float], moves: Sequence[Move], renoise: Callable[[int], Tensor] | None) -> Callable[[int], Tensor]:
    if len(levels) < 2 or any(not a > b >= 0 for a, b in pairwise(levels)):
        raise InputError(
            f"the noise levels are {[round(s, 4) for s in levels[:8]]}...; they must be at least two, fall, and end at 0 or above"
        )
    at = 0
    for kind, k in moves:
        if kind not in ("down", "up") or (k if kind == "down" else k + 1) != at or not 0 <= k < len(levels) - 1:
            raise InputError(
                f"the schedule has the move {(kind, k)} at level {at} of {len(levels) - 1}; each move must begin where the last one ended"
            )
        at = k + 1 if kind == "down" else k
    if at != len(levels) - 1:
        raise InputError(f"the schedule ends at level {at}; it must end at the last one, {len(levels) - 1}")
    if any(kind == "up" for kind, _ in moves) and renoise is None:
        raise InputError("the schedule goes up but `renoise` is missing; pass calotype.core.noise.renoiser(shape, seed)")
    return renoise or torch.empty


def _resume(state: Mapping[str, Tensor], x: Tensor, plan: Mapping[str, Tensor], key: str) -> tuple[Tensor, int, dict[str, Tensor]]:
    same = all(name in state and torch.equal(state[name].cpu(), tensor) for name, tensor in plan.items())
    if not same or state["x"].shape != x.shape:
        raise InputError(f"the saved state of {key!r} is of a run with other settings; start anew, or resume with its own settings")
    history = {name.removeprefix("history."): tensor.to(x.device) for name, tensor in state.items() if name.startswith("history.")}
    return state["x"].to(x), int(state["position"]), history
