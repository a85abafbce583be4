"""Deterministic inversion: from a clean sample up the noise levels, along the path that sampling comes down.

It is the probability-flow equation run upwards over a sigma table (DDIM inversion is its Euler form under z = x / sqrt(1 + sigma^2); Song
et al. 2021, section 4.3), so variance-preserving and variance-exploding checkpoints share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from calotype.core.denoiser import Denoiser, in_step
from calotype.core.events import SILENT, Events
from calotype.core.samplers import History, Step, StepOutput, euler_step
from calotype.core.schedule import Sigmas
from calotype.core.stepping import StepContext
from calotype.errors import InputError

_SAME = 1e-6
"""Relative distance below which two levels are the same."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The sample at the noise levels that were kept, in CPU memory."""

    sigmas: Sigmas
    """The kept levels, falling, without 0."""
    latents: tuple[Tensor, ...]
    """The sample at each of them, [B, ...], in the type that `invert` was asked for."""

    @property
    def start(self) -> Float[Tensor, "batch ..."]:
        """The noisiest sample, float32: where sampling starts."""
        return self.latents[0].float()

    @property
    def table(self) -> Sigmas:
        """The kept levels followed by 0: the table to sample with."""
        return torch.cat([self.sigmas, self.sigmas.new_zeros(1)])

    @property
    def megabytes(self) -> float:
        """Memory that the samples take."""
        return sum(latent.numel() * latent.element_size() for latent in self.latents) / 1e6

    def at(self, sigma: float) -> Float[Tensor, "batch ..."]:
        """The sample at the kept level nearest to `sigma` (in log sigma), float32."""
        return self.latents[nearest(self.sigmas, sigma)].float()


def nearest(levels: Sigmas, sigma: float) -> int:
    """Index of the positive level nearest to `sigma` in log sigma.

    Example:
        >>> import torch
        >>> nearest(torch.tensor([8.0, 4.0, 1.0]), 3.0)
        1
    """
    return int((levels.log() - torch.tensor(sigma, dtype=torch.float64).log()).abs().argmin())


def invert(
    denoise: Denoiser,
    x0: Float[Tensor, "batch ..."],
    sigmas: Sigmas,
    *,
    step: Step = euler_step,
    keep: Float64[Tensor, " kept"] | None = None,
    dtype: torch.dtype = torch.float32,
    max_megabytes: float = 4096.0,
    events: Events = SILENT,
    key: str = "invert",
) -> Trajectory:
    """Run the probability-flow equation upwards from a clean sample.

    Each step from a level uses the estimate made at that level (the textbook form). Level 0 has no direction of its own, so the first step
    asks the denoiser at the level that it goes to.

    Args:
        denoise: usually without guidance, which makes the way back another way. A `StepDenoiser` is told the step of each call.
        x0: the sample at level sigmas[-1].
        sigmas: the inversion's levels, [n + 1], falling as for sampling; a sampling table serves, a finer one is more exact.
        step: `euler_step`, `heun_step` or `dpmpp_2m_step`.
        keep: the levels that sampling will need, its own table (0 is passed over); all levels if None. They should be among `sigmas`;
            where they are not, the nearest are kept and `events.note` says so.
        dtype: type of the kept samples; float16 halves the memory. The integration itself is float32.
        max_megabytes: bound on the memory of the kept samples.
        events: told of each step; may stop the run, which then resumes where it was.
        key: name of the stage and of the saved state.

    Raises:
        InputError: the levels don't fall, the kept samples would take more than `max_megabytes`, or the saved state isn't this run's.
        Cancelled: the user stopped; the state was saved.

    Example:
        >>> import torch
        >>> unit = lambda x, sigma: x / (1 + sigma**2)  # data of unit variance
        >>> path = invert(unit, torch.tensor([[1.0]]), torch.linspace(1, 0, 101, dtype=torch.float64))
        >>> bool((path.start - 2**0.5).abs() < 0.01)
        True
    """
    table = sigmas.double().cpu()
    if table.ndim != 1 or len(table) < 2 or not bool((table.diff() < 0).all()) or float(table[-1]) < 0:
        raise InputError("the inversion's noise levels must be at least two, fall and end at 0 or above, such as model.sigmas(500)")
    kept_levels = _levels_to_keep(table, keep, events)
    need = len(kept_levels) * x0.numel() * torch.empty((), dtype=dtype).element_size() / 1e6
    if need > max_megabytes:
        raise InputError(
            f"{len(kept_levels)} kept levels would take {need:.0f} MB and {max_megabytes:.0f} MB are allowed; "
            "pass the sampling table as keep, dtype=torch.float16, or a larger max_megabytes"
        )
    rising = [float(s) for s in table.flip(0)]
    count = len(rising) - 1
    kept: dict[int, Tensor] = {}
    x, position, history = x0.float(), 0, _EMPTY
    state = events.load_state(key)
    if state is not None:
        x, position, history, kept = _resume(state, x, table, key)
    events.stage(key, count)
    if position:
        events.step(position)
    elif rising[0] in kept_levels:
        kept[0] = x.to("cpu", dtype)
    while position < count:
        sigma, sigma_next = rising[position], rising[position + 1]
        # Steps are numbered as on the way down.
        here, ahead = (StepContext(min(count - n, count - 1), count, rising[n], phase="invert") for n in (position, position + 1))
        told = in_step(denoise, here, ahead)
        stepped = _leave_zero(told, x, sigma_next) if sigma == 0 else step(told, x, sigma, sigma_next, history, position)
        x, history = stepped.x, dict(stepped.history)
        position += 1
        if rising[position] in kept_levels:
            kept[position] = x.to("cpu", dtype)
        events.step()
        events.save_state(
            key,
            {"x": x, "position": torch.tensor(position), "sigmas": table}
            | {f"history.{name}": tensor for name, tensor in history.items()}
            | {f"kept.{k}": latent for k, latent in kept.items()},
        )
        events.check()
    order = sorted(kept, reverse=True)
    return Trajectory(torch.tensor([rising[k] for k in order], dtype=torch.float64), tuple(kept[k] for k in order))


_EMPTY: History = {}


def _leave_zero(denoise: Denoiser, x: Tensor, sigma_next: float) -> StepOutput:
    x0 = denoise(x, sigma_next)
    return StepOutput(x + (x - x0), x0)


def _levels_to_keep(table: Sigmas, keep: Float64[Tensor, " kept"] | None, events: Events) -> set[float]:
    positive = table[table > 0]
    if keep is None:
        return {float(s) for s in positive}
    wanted = [float(s) for s in keep.double().cpu() if s > 0]
    if not wanted:
        raise InputError("keep holds no level above 0; pass the table that will be sampled with")
    found = [float(positive[nearest(positive, s)]) for s in wanted]
    shifts = [abs(f / s - 1) for f, s in zip(found, wanted, strict=True)]
    off = sum(shift > _SAME for shift in shifts)
    if off:
        events.note(
            f"{off} of {len(wanted)} sampling levels are not among the {len(positive)} inversion levels: the nearest were kept (shifted by "
            f"at most {max(shifts):.1%}); choose step numbers whose grids nest, such as 500 and 50, or sample with the trajectory's table"
        )
    return set(found)


def _resume(state: Mapping[str, Tensor], x: Tensor, table: Sigmas, key: str) -> tuple[Tensor, int, dict[str, Tensor], dict[int, Tensor]]:
    if state["x"].shape != x.shape or state["sigmas"].shape != table.shape or not torch.equal(state["sigmas"].cpu(), table):
        raise InputError(f"the saved state of {key!r} is of a run with other settings; start anew, or resume with its own settings")
    history = {name.removeprefix("history."): tensor.to(x.device) for name, tensor in state.items() if name.startswith("history.")}
    kept = {int(name.removeprefix("kept.")): tensor.cpu() for name, tensor in state.items() if name.startswith("kept.")}
    return state["x"].to(x), int(state["position"]), history, kept
