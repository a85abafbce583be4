"""Reads a scheduler config: what the network predicts, and at which noise levels it is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from torch import Tensor

from calotype.core.denoiser import Preconditioner, Prediction, edm_timestep
from calotype.core.errors import InputError
from calotype.core.schedule import SamplerName, Spacing, VPSchedule, karras_sigmas, start_scale

DEFAULT_SPACING: Mapping[SamplerName, Spacing] = {"euler": "linspace", "heun": "linspace", "ddim": "leading", "dpmpp_2m": "linspace"}
"""How diffusers' scheduler of a sampler's name spaces its timesteps where a checkpoint's config doesn't say."""


class Parametrisation:
    """One checkpoint's scheduler config in terms of x = x0 + sigma n: a variance-preserving model, or a continuous sigma (EDM, SVD).

    Raises:
        InputError: the config asks for something else.
    """

    def __init__(self, config: Mapping[str, Any], scheduler_class: str) -> None:
        if "Flow" in scheduler_class:
            raise InputError(f"the checkpoint's scheduler is {scheduler_class}; flow-matching checkpoints have no role here yet")
        self.config = dict(config)
        self.schedule = VPSchedule.from_config(config)
        self.continuous: bool = config.get("timestep_type") == "continuous"
        prediction: Prediction = config.get("prediction_type") or "epsilon"
        if prediction == "flow" or (self.continuous and prediction != "v_prediction"):
            raise InputError(
                f"the checkpoint predicts {prediction} with {'continuous' if self.continuous else 'discrete'} timesteps; "
                "continuous ones go with v_prediction, discrete ones with epsilon, v_prediction or sample"
            )
        self.preconditioner = Preconditioner(prediction, edm_timestep if self.continuous else self.schedule.t)
        spacing = config.get("timestep_spacing")
        if spacing is not None and spacing not in get_args(Spacing):
            raise InputError(f"the checkpoint's timestep_spacing is {spacing!r}; {', '.join(get_args(Spacing))} are known")
        self._spacing = cast(Spacing | None, spacing)

    def spacing(self, sampler: SamplerName = "euler") -> Spacing:
        """The checkpoint's own spacing, else the sampler's."""
        return self._spacing or DEFAULT_SPACING[sampler]

    def sigmas(self, num_inference_steps: int, sampler: SamplerName = "euler") -> Tensor:
        """Noise levels of a run: [num_inference_steps + 1], float64, falling, the last one 0."""
        karras = bool(self.config.get("use_karras_sigmas"))
        low, high = self.config.get("sigma_min"), self.config.get("sigma_max")
        if karras and low is not None and high is not None:
            return karras_sigmas(num_inference_steps, float(low), float(high))
        offset = int(self.config.get("steps_offset") or 0)
        return self.schedule.table(
            num_inference_steps, spacing=self.spacing(sampler), steps_offset=offset, sampler=sampler, use_karras_sigmas=karras
        )

    def init_noise_sigma(self, sigma: float, sampler: SamplerName = "euler") -> float:
        """Factor of the starting noise at the first level. DDIM and DPM-Solver++ start from unit variance in the network's input."""
        return start_scale(sigma, "leading" if sampler in ("ddim", "dpmpp_2m") else self.spacing(sampler))
