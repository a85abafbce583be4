"""Noise schedules: which noise levels there are, and which of them a run visits.

Levels are sigma of x = x0 + sigma n, whatever the checkpoint was trained with. Tables are float64, [n + 1], falling, the last level 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import cos, exp, inf, log, pi
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from calotype.errors import InputError

Sigmas = Float64[Tensor, " levels"]
Spacing = Literal["leading", "trailing", "linspace"]
SamplerName = Literal["euler", "ddim", "heun", "dpmpp_2m"]
Respacing = Literal["karras", "exponential", "beta"]
"""How levels are spread between the two ends of a run, instead of by timesteps."""
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]

ZERO_SNR_ALPHA = 2.0**-24
"""What replaces a cumulative alpha of exactly 0 (sigma infinite) at the end of a zero-terminal-SNR schedule, as diffusers' Euler and
DPM-Solver schedulers do. The first level is then sigma = 4096."""
FLOW_SIGMA_MAX = 2.0**20
"""Level that stands for the flow time 1, where sigma is infinite: the network's input differs from pure noise by a millionth there."""


def karras_sigmas(num_inference_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Sigmas:
    """The levels of Karras et al. 2022, eq. 5: evenly spaced in sigma^(1/rho).

    Args:
        num_inference_steps: n, at least 1.
        sigma_min: last level before 0, > 0 (SVD: 0.002).
        sigma_max: first level (SVD: 700).
        rho: larger values put more steps at low noise.

    Returns:
        [n + 1], float64.

    Raises:
        InputError: no steps, or 0 < sigma_min < sigma_max doesn't hold.

    Example:
        >>> karras_sigmas(3, 0.002, 80.0).tolist()[0], karras_sigmas(3, 0.002, 80.0).tolist()[-1]
        (80.0, 0.0)
    """
    _check_ends(num_inference_steps, sigma_min, sigma_max)
    if not 0 < rho < inf:
        raise InputError(f"rho is {rho}; it must be positive")
    ramp = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return _between((high + ramp * (low - high)) ** rho, sigma_min, sigma_max)


def exponential_sigmas(num_inference_steps: int, sigma_min: float, sigma_max: float) -> Sigmas:
    """Levels evenly spaced in log sigma, as diffusers' `use_exponential_sigmas` and its EDM schedulers' `exponential` have them.

    Args:
        num_inference_steps: n, at least 1.
        sigma_min: last level before 0, > 0.
        sigma_max: first level.

    Returns:
        [n + 1], float64.

    Raises:
        InputError: no steps, or 0 < sigma_min < sigma_max doesn't hold.

    Example:
        >>> [round(s, 6) for s in exponential_sigmas(3, 1.0, 100.0).tolist()]
        [100.0, 10.0, 1.0, 0.0]
    """
    _check_ends(num_inference_steps, sigma_min, sigma_max)
    sigmas = torch.linspace(log(sigma_max), log(sigma_min), num_inference_steps, dtype=torch.float64).exp()
    return _between(sigmas, sigma_min, sigma_max)


def beta_sigmas(num_inference_steps: int, sigma_min: float, sigma_max: float, alpha: float = 0.6, beta: float = 0.6) -> Sigmas:
    """Levels at evenly spaced quantiles of a beta distribution over sigma, denser at both ends (Lee et al. 2024, arXiv 2407.12173).

    Args:
        num_inference_steps: n, at least 1.
        sigma_min: last level before 0, > 0.
        sigma_max: first level.
        alpha, beta: of the distribution, > 0; below 1 the ends are dense.

    Returns:
        [n + 1], float64.

    Raises:
        InputError: no steps, or 0 < sigma_min < sigma_max doesn't hold.

    Example:
        >>> [round(s, 3) for s in beta_sigmas(3, 1.0, 3.0).tolist()]
        [3.0, 2.0, 1.0, 0.0]
    """
    from scipy.special import betaincinv

    _check_ends(num_inference_steps, sigma_min, sigma_max)
    quantiles = torch.linspace(1, 0, num_inference_steps, dtype=torch.float64)
    spread = torch.from_numpy(betaincinv(alpha, beta, quantiles.numpy())).double()
    return _between(sigma_min + spread * (sigma_max - sigma_min), sigma_min, sigma_max)


def flow_sigmas(num_inference_steps: int, *, shift: float = 1.0, num_train_timesteps: int = 1000) -> Sigmas:
    """The levels of a rectified-flow checkpoint (Esser et al. 2024, section 5.3.2), as `FlowMatchEulerDiscreteScheduler` spaces them.

    Flow time s mixes z = (1 - s) x0 + s n, so sigma = s / (1 - s) and x = z / (1 - s). Time 1 becomes `FLOW_SIGMA_MAX`.

    Args:
        num_inference_steps: n, at least 1.
        shift: moves the times towards noise, s -> shift s / (1 + (shift - 1) s); 3 for Stable Diffusion 3.
        num_train_timesteps: the network's timestep is num_train_timesteps * s.

    Returns:
        [n + 1], float64.

    Raises:
        InputError: no steps, or a shift that is not positive.

    Example:
        >>> [round(s, 3) for s in flow_sigmas(2).tolist()]
        [1048576.0, 0.001, 0.0]
    """
    _check_steps(num_inference_steps)
    if shift <= 0:
        raise InputError(f"shift is {shift}; it must be positive")
    # diffusers shifts twice: once when it makes its training table, whose ends it then spaces evenly, and once more here.
    ends = [shift * s / (1 + (shift - 1) * s) for s in (1.0, 1.0 / num_train_timesteps)]
    times = torch.linspace(ends[0], ends[1], num_inference_steps, dtype=torch.float64)
    times = shift * times / (1 + (shift - 1) * times)
    return torch.cat([sigma_of_flow_time(times), times.new_zeros(1)])


def sigma_of_flow_time(time: Tensor) -> Tensor:
    """s -> s / (1 - s), at most `FLOW_SIGMA_MAX`."""
    return (time / (1 - time)).clamp(max=FLOW_SIGMA_MAX)


def start_scale(sigma: float, spacing: Spacing) -> float:
    """Standard deviation of the sample that a run starts from at level `sigma`.

    Spacing `leading` starts below the noisiest level, where the data's own (unit) variance counts: sqrt(sigma^2 + 1). The others start at
    sigma. So diffusers' `init_noise_sigma` has it.
    """
    return float((sigma**2 + 1) ** 0.5) if spacing == "leading" else sigma


@dataclass(frozen=True, eq=False)
class VPSchedule:
    """The discrete schedule of a variance-preserving checkpoint (DDPM, Stable Diffusion): cumulative alphas by timestep.

    The checkpoint's own variable is z = x / sqrt(1 + sigma^2), with alpha = 1 / (1 + sigma^2).

    Raises:
        InputError: the alphas don't fall within (0, 1), or are fewer than 2.

    Example:
        >>> sd = VPSchedule.of("scaled_linear", beta_start=0.00085, beta_end=0.012)
        >>> round(sd.sigma(999.0), 2), round(sd.t(sd.sigma(500.5)), 6)
        (14.61, 500.5)
    """

    alphas_cumprod: Float64[Tensor, " timesteps"]
    """Falling, in (0, 1)."""
    interpolation: Literal["linear", "log"] = "linear"
    """Between whole timesteps: sigma linear in t (the tables of diffusers' schedulers) or log sigma linear in t (what its schedulers use
    to find the timestep of a Karras table's level)."""

    def __post_init__(self) -> None:
        alphas = self.alphas_cumprod
        if alphas.ndim != 1 or len(alphas) < 2 or alphas.dtype != torch.float64:
            raise InputError(
                f"the cumulative alphas were given as {alphas.dtype} {list(alphas.shape)}; they must be float64 [timesteps >= 2]"
            )
        if not bool((alphas.diff() < 0).all()) or not 0 < float(alphas[-1]) <= float(alphas[0]) < 1:
            raise InputError("the cumulative alphas must fall and lie between 0 and 1")

    @staticmethod
    def of(
        beta_schedule: BetaSchedule = "scaled_linear",
        *,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        rescale_betas_zero_snr: bool = False,
        interpolation: Literal["linear", "log"] = "linear",
    ) -> VPSchedule:
        """From diffusers' names. `rescale_betas_zero_snr` moves the last level to (almost) pure noise (Lin et al. 2023, algorithm 1).

        Raises:
            InputError: an unknown beta schedule.
        """
        steps = num_train_timesteps
        if beta_schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, steps)
        elif beta_schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2
        elif beta_schedule == "squaredcos_cap_v2":
            curve = [cos((i / steps + 0.008) / 1.008 * pi / 2) ** 2 for i in range(steps + 1)]
            betas = torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(curve)], dtype=torch.float64)
        else:
            raise InputError(f"beta schedule {beta_schedule!r} is unknown; choose one of {', '.join(get_args(BetaSchedule))}")
        return VPSchedule.from_betas(betas, rescale_betas_zero_snr=rescale_betas_zero_snr, interpolation=interpolation)

    @staticmethod
    def from_betas(
        betas: Tensor, *, rescale_betas_zero_snr: bool = False, interpolation: Literal["linear", "log"] = "linear"
    ) -> VPSchedule:
        """From per-step betas [timesteps].

        The products are taken in float32, as diffusers takes them: near the end of a zero-SNR schedule the rounding moves sigma by 1e-5
        of itself, and checkpoints were trained with the rounded levels.
        """
        betas = betas.float()
        if rescale_betas_zero_snr:
            root = torch.cumprod(1 - betas, 0).sqrt()
            first, last = root[0].clone(), root[-1].clone()
            rescaled = ((root - last) * (first / (first - last))) ** 2
            betas = 1 - torch.cat([rescaled[:1], rescaled[1:] / rescaled[:-1]])
        alphas = torch.cumprod(1 - betas, 0).double()
        if rescale_betas_zero_snr:
            # With linear betas some alphas before the last are smaller than the cap already: they fall towards it instead.
            seen = int((alphas > ZERO_SNR_ALPHA).sum().item()) - 1
            if seen < 0:
                raise InputError("rescaled to zero terminal SNR these betas leave no signal at any timestep; they must begin near 0")
            fall = torch.linspace(float(alphas[seen].log()), log(ZERO_SNR_ALPHA), len(alphas) - seen, dtype=torch.float64).exp()
            alphas[seen + 1 :] = fall[1:]
            alphas[-1] = ZERO_SNR_ALPHA
        return VPSchedule(alphas, interpolation)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> VPSchedule:
        """From a diffusers scheduler's configuration (its `scheduler_config.json`).

        Tables that aren't spaced by timesteps look these up in log sigma, as diffusers does.

        Raises:
            InputError: an unknown beta schedule.
        """
        interpolation: Literal["linear", "log"] = (
            "log" if any(config.get(f"use_{name}_sigmas") for name in get_args(Respacing)) else "linear"
        )
        zero_snr = bool(config.get("rescale_betas_zero_snr"))
        if config.get("trained_betas") is not None:
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
            return VPSchedule.from_betas(betas, rescale_betas_zero_snr=zero_snr, interpolation=interpolation)
        return VPSchedule.of(
            config.get("beta_schedule", "linear"),
            num_train_timesteps=int(config.get("num_train_timesteps", 1000)),
            beta_start=float(config.get("beta_start", 0.0001)),
            beta_end=float(config.get("beta_end", 0.02)),
            rescale_betas_zero_snr=zero_snr,
            interpolation=interpolation,
        )

    def input_scaled(self, scale: float) -> VPSchedule:
        """The schedule of data multiplied by `scale`: alpha' = b^2 alpha / ((b^2 - 1) alpha + 1) (arXiv 2504.05977).

        The ratio of signal to noise is b^2 times as large at every timestep; a scale below 1 is a harder schedule.

        Raises:
            InputError: a scale that isn't positive.

        Example:
            >>> plain = VPSchedule.of("linear", beta_start=1e-4, beta_end=0.02)
            >>> round(float((plain.input_scaled(0.5).sigmas / plain.sigmas)[300]), 6)
            2.0
        """
        if not 0 < scale < inf:
            raise InputError(f"the input scaling is {scale}; it must be positive")
        alphas = self.alphas_cumprod
        return VPSchedule(scale**2 * alphas / ((scale**2 - 1) * alphas + 1), self.interpolation)

    @property
    def betas(self) -> Float64[Tensor, " timesteps"]:
        """Per-step betas, as a scheduler config's `trained_betas` has them."""
        alphas = torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod])
        return 1 - alphas[1:] / alphas[:-1]

    @property
    def num_train_timesteps(self) -> int:
        """Number of timesteps; they count from 0."""
        return len(self.alphas_cumprod)

    @cached_property
    def sigmas(self) -> Float64[Tensor, " timesteps"]:
        """Level of each whole timestep, rising."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def sigma(self, t: float) -> float:
        """Level of a timestep; fractions are interpolated, and what lies outside 0 .. T - 1 is clipped."""
        values = self.sigmas.log() if self.interpolation == "log" else self.sigmas
        t = min(max(float(t), 0.0), self.num_train_timesteps - 1.0)
        below = min(int(t), self.num_train_timesteps - 2)
        value = float(values[below] + (t - below) * (values[below + 1] - values[below]))
        if t == int(t):
            return float(self.sigmas[int(t)])
        return exp(value) if self.interpolation == "log" else value

    def t(self, sigma: float) -> float:
        """Timestep of a level, the inverse of `sigma`; a level outside the schedule gets its nearest end.

        A result within 1e-6 of a whole number is that number, so that a network sees the timesteps that it was trained with.
        """
        above = int(torch.searchsorted(self.sigmas, torch.tensor(float(sigma), dtype=torch.float64)))
        if above == 0:
            return 0.0
        if above == self.num_train_timesteps:
            return self.num_train_timesteps - 1.0
        low, high, value = self.sigmas[above - 1], self.sigmas[above], torch.tensor(float(sigma), dtype=torch.float64)
        if self.interpolation == "log":
            low, high, value = low.log(), high.log(), value.log()
        t = above - 1 + float((value - low) / (high - low))
        return float(round(t)) if abs(t - round(t)) < 1e-6 else t

    def timesteps(
        self, num_inference_steps: int, *, spacing: Spacing = "leading", steps_offset: int = 0, sampler: SamplerName = "euler"
    ) -> Float64[Tensor, " steps"]:
        """The timesteps of a run, falling [n], as diffusers' scheduler of that name spaces them (Lin et al. 2023, table 2).

        DPM-Solver++ divides the range by n + 1 and leaves the least noisy point out (`leading`, `linspace`); DDIM rounds to whole numbers.

        Raises:
            InputError: no steps, more steps than timesteps, or an unknown spacing.
        """
        _check_steps(num_inference_steps)
        total, n = self.num_train_timesteps, num_inference_steps
        if n > total:
            raise InputError(f"num_inference_steps is {n}; this checkpoint has {total} timesteps, choose at most that many")
        if spacing not in get_args(Spacing):
            raise InputError(f"timestep spacing {spacing!r} is unknown; choose one of {', '.join(get_args(Spacing))}")
        points = n + 1 if sampler == "dpmpp_2m" else n
        if spacing == "linspace":
            t = torch.linspace(0, total - 1, points, dtype=torch.float64).flip(0)
            t = t.round() if sampler in ("ddim", "dpmpp_2m") else t
        elif spacing == "leading":
            t = (torch.arange(points, dtype=torch.float64) * (total // points)).flip(0) + steps_offset
        else:
            return torch.tensor([round(total - i * (total / n)) - 1 for i in range(n)], dtype=torch.float64)
        return t[:n]

    def table(
        self,
        num_inference_steps: int,
        *,
        spacing: Spacing = "leading",
        steps_offset: int = 0,
        sampler: SamplerName = "euler",
        respacing: Respacing | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        final: Literal["zero", "first"] = "zero",
    ) -> Sigmas:
        """The levels of a run, as diffusers' scheduler of that name has them.

        Args:
            num_inference_steps, spacing, steps_offset, sampler: see `timesteps`.
            respacing: replace the levels between the ends by `karras_sigmas`, `exponential_sigmas` or `beta_sigmas`. The ends are the run's
                own; for DPM-Solver++ the schedule's.
            sigma_min, sigma_max: other ends for it.
            final: the last level is 0, or that of timestep 0 (diffusers' `final_sigmas_type="sigma_min"`, and `set_alpha_to_one=False`).
                With the latter a run ends slightly noisy, and z = x / sqrt(1 + sigma^2) is what diffusers' DDIM returns. A table that is
                there already ends there, with n levels.

        Returns:
            [n + 1], float64.
        """
        t = self.timesteps(num_inference_steps, spacing=spacing, steps_offset=steps_offset, sampler=sampler)
        linear = VPSchedule(self.alphas_cumprod)
        sigmas = torch.tensor([linear.sigma(float(v)) for v in t], dtype=torch.float64)
        if respacing is not None:
            ends = self.sigmas if sampler == "dpmpp_2m" else sigmas.flip(0)
            low, high = (float(end if given is None else given) for given, end in ((sigma_min, ends[0]), (sigma_max, ends[-1])))
            sigmas = RESPACINGS[respacing](num_inference_steps, low, high)[:-1]
        last = self.sigmas[:1] if final == "first" else sigmas.new_zeros(1)
        # A run whose last timestep is 0 has the first alpha already: there is nothing left to do between equal levels.
        return sigmas if float(sigmas[-1]) <= float(last) else torch.cat([sigmas, last])


RESPACINGS: Mapping[Respacing, Callable[[int, float, float], Sigmas]] = {
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "beta": beta_sigmas,
}


def _between(sigmas: Tensor, sigma_min: float, sigma_max: float) -> Sigmas:
    """The levels with their exact ends, of which powers and logarithms lose the last digits, and 0 behind them."""
    if len(sigmas) > 1:
        sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _check_ends(num_inference_steps: int, sigma_min: float, sigma_max: float) -> None:
    _check_steps(num_inference_steps)
    if not 0 < sigma_min <= sigma_max < inf or (num_inference_steps > 1 and sigma_min == sigma_max):
        raise InputError(f"sigma_min is {sigma_min} and sigma_max {sigma_max}; 0 < sigma_min < sigma_max must hold")


def _check_steps(num_inference_steps: int) -> None:
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps is {num_inference_steps}; it must be at least 1")
