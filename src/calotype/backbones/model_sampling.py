"""Reads a scheduler config: what the network predicts, and at which noise levels it is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any, cast, get_args

from torch import Tensor

from calotype.backbones.scheduler_config import (
    EDM,
    check_scheduler,
    read_betas,
    read_choice,
    read_flag,
    read_number,
    read_whole,
    with_defaults,
)
from calotype.core.denoiser import Preconditioner, Prediction, edm_timestep
from calotype.core.schedule import (
    BetaSchedule,
    Respacing,
    SamplerName,
    Spacing,
    VPSchedule,
    exponential_sigmas,
    karras_sigmas,
    start_scale,
)
from calotype.errors import InputError

DEFAULT_SPACING: Mapping[SamplerName, Spacing] = {"euler": "linspace", "heun": "linspace", "ddim": "leading", "dpmpp_2m": "linspace"}
"""How diffusers' scheduler of a sampler's name spaces its timesteps where a checkpoint's config doesn't say."""


class ModelSampling:
    """One checkpoint's scheduler config in terms of x = x0 + sigma n: a variance-preserving model, or a continuous sigma (EDM, SVD).

    `calotype.backbones.scheduler_config` says what becomes of each key.

    Raises:
        InputError: the config asks for something else.

    Example:
        >>> playground = ModelSampling({"sigma_data": 0.5, "sigma_max": 80.0}, "EDMDPMSolverMultistepScheduler")
        >>> [round(float(sigma), 3) for sigma in playground.sigmas(2)]
        [80.0, 0.002, 0.0]
    """

    preconditioner: Preconditioner

    def __init__(self, config: Mapping[str, Any], scheduler_class: str) -> None:
        check_scheduler(config, scheduler_class)
        self.config = with_defaults(config, scheduler_class)
        self._levels = _EDMLevels(self.config) if scheduler_class in EDM else _VPLevels(self.config)
        self.preconditioner = self._levels.preconditioner

    def sigmas(self, num_inference_steps: int, sampler: SamplerName = "euler") -> Tensor:
        """Noise levels of a run: [num_inference_steps + 1], float64, falling, the last one 0.

        A config with `final_sigmas_type` "sigma_min" ends at its lowest level instead, which is left out where the table ends there anyway.
        """
        return self._levels.sigmas(num_inference_steps, sampler)

    def sigma_at(self, timestep: float) -> float:
        """The noise level that the network calls by this timestep; between whole ones, as `timestep` of its preconditioner undoes it.

        Raises:
            InputError: the checkpoint has no such timestep.
        """
        return self._levels.sigma_at(timestep)

    def init_noise_sigma(self, sigma: float, sampler: SamplerName = "euler") -> float:
        """Factor of the starting noise at the first level. DDIM and DPM-Solver++ start from unit variance in the network's input."""
        return self._levels.init_noise_sigma(sigma, sampler)


class _EDMLevels:
    """EDM's own schedulers: levels between two sigmas, data of a standard deviation that the config names."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        predicted = read_choice(config, "prediction_type", ("epsilon", "v_prediction"), "epsilon")
        prediction: Prediction = "edm" if predicted == "epsilon" else "v_prediction"
        self.preconditioner = Preconditioner(prediction, edm_timestep, read_number(config, "sigma_data", 0.5, low=1e-6))
        self._low, self._high = (read_number(config, name, 1.0, low=1e-9, high=1e9) for name in ("sigma_min", "sigma_max"))
        self._rho = read_number(config, "rho", 7.0, low=1e-3)
        self._exponential = read_choice(config, "sigma_schedule", ("karras", "exponential"), "karras") == "exponential"
        self._ends_noisy = _ends_noisy(config)
        self.sigmas(2)

    def sigmas(self, num_inference_steps: int, sampler: SamplerName = "euler") -> Tensor:
        if self._exponential:
            table = exponential_sigmas(num_inference_steps, self._low, self._high)
        else:
            table = karras_sigmas(num_inference_steps, self._low, self._high, self._rho)
        return table[:-1] if self._ends_noisy else table

    def sigma_at(self, timestep: float) -> float:
        return exp(4.0 * timestep)

    def init_noise_sigma(self, sigma: float, sampler: SamplerName) -> float:
        return start_scale(sigma, "leading")


class _VPLevels:
    """The levels of the cumulative alphas, or of a table between two of them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._respacing: Respacing | None = next((name for name in get_args(Respacing) if read_flag(config, f"use_{name}_sigmas")), None)
        self.schedule = _schedule(config)
        continuous = read_choice(config, "timestep_type", ("discrete", "continuous"), "discrete") == "continuous"
        prediction = cast(Prediction, read_choice(config, "prediction_type", ("epsilon", "v_prediction", "sample"), "epsilon"))
        if continuous and prediction != "v_prediction":
            raise InputError(
                f"the checkpoint predicts {prediction} with continuous timesteps; continuous ones go with v_prediction, "
                "discrete ones with epsilon, v_prediction or sample"
            )
        self.preconditioner = Preconditioner(prediction, edm_timestep if continuous else self.schedule.t)
        spacing = read_choice(config, "timestep_spacing", (*get_args(Spacing), ""), "")
        self._spacing = cast(Spacing | None, spacing or None)
        self._offset = read_whole(config, "steps_offset", 0)
        self._low, self._high = (
            None if config.get(name) is None else read_number(config, name, 1.0, low=1e-9, high=1e9) for name in ("sigma_min", "sigma_max")
        )
        self._ends_noisy = _ends_noisy(config)

    def sigmas(self, num_inference_steps: int, sampler: SamplerName = "euler") -> Tensor:
        return self.schedule.table(
            num_inference_steps,
            spacing=self._spacing or DEFAULT_SPACING[sampler],
            steps_offset=self._offset,
            sampler=sampler,
            respacing=self._respacing,
            sigma_min=self._low,
            sigma_max=self._high,
            final="first" if self._ends_noisy else "zero",
        )

    def sigma_at(self, timestep: float) -> float:
        last = len(self.schedule.alphas_cumprod) - 1
        if not 0 <= timestep <= last:
            raise InputError(f"timestep {timestep:g} was asked for; the checkpoint has 0 to {last}")
        return self.schedule.sigma(timestep)

    def init_noise_sigma(self, sigma: float, sampler: SamplerName) -> float:
        return start_scale(sigma, "leading" if sampler in ("ddim", "dpmpp_2m") else self._spacing or DEFAULT_SPACING[sampler])


def _schedule(config: Mapping[str, Any]) -> VPSchedule:
    """The schedule of values that were checked."""
    checked = {
        "beta_schedule": read_choice(config, "beta_schedule", get_args(BetaSchedule), "linear"),
        "num_train_timesteps": read_whole(config, "num_train_timesteps", 1000, low=2),
        "beta_start": read_number(config, "beta_start", 0.0001, high=1.0),
        "beta_end": read_number(config, "beta_end", 0.02, high=1.0),
        "trained_betas": read_betas(config),
        "rescale_betas_zero_snr": read_flag(config, "rescale_betas_zero_snr"),
        **{f"use_{name}_sigmas": read_flag(config, f"use_{name}_sigmas") for name in get_args(Respacing)},
    }
    return VPSchedule.from_config(checked)


def _ends_noisy(config: Mapping[str, Any]) -> bool:
    return read_choice(config, "final_sigmas_type", ("zero", "sigma_min"), "zero") == "sigma_min"
