"""Reads a scheduler config: what the network predicts, and at which noise levels it is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from torch import Tensor

from calotype.core.denoiser import Preconditioner, edm_timestep
from calotype.core.errors import InputError
from calotype.core.schedule import SamplerName, Spacing, VPSchedule, karras_sigmas, start_scale

LEADING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
"""Schedulers that space their timesteps `leading` where the config doesn't say; the others of this family say `linspace`."""


class Parametrisation:
    """One checkpoint's scheduler config in terms of x = x0 + sigma n: a variance-preserving model, or one with a continuous sigma (EDM, SVD).

    Raises:
        InputError: the config asks for something else.
    """

    def __init__(self, config: Mapping[str, Any], scheduler_class: str) -> None:
        if "Flow" in scheduler_class:
            raise InputError(f"the checkpoint's scheduler is {scheduler_class}; flow-matching checkpoints have no role here yet")
        self.config = dict(config)
        self.schedule = VPSchedule.from_config(config)
        self.continuous: bool = config.get("timestep_type") == "continuous"
        prediction = config.get("prediction_type") or "epsilon"
        if prediction == "flow" or (self.continuous and prediction != "v_prediction"):
            raise InputError(
                f"the checkpoint predicts {prediction} with {'continuous' if self.continuous else 'discrete'} timesteps, which isn't supported"
            )
        self.preconditioner = Preconditioner(prediction, edm_timestep if self.continuous else self.schedule.t)
        spacing = config.get("timestep_spacing") or ("leading" if scheduler_class in LEADING else "linspace")
        if spacing not in get_args(Spacing):
            raise InputError(f"the checkpoint's timestep_spacing is {spacing!r}; {', '.join(get_args(Spacing))} are known")
        self.spacing = cast(Spacing, spacing)

    def sigmas(self, num_inference_steps: int, sampler: SamplerName = "euler") -> Tensor:
        """Noise levels of a run: [num_inference_steps + 1], float64, falling, the last one 0."""
        karras = bool(self.config.get("use_karras_sigmas"))
        low, high = self.config.get("sigma_min"), self.config.get("sigma_max")
        if karras and low is not None and high is not None:
            return karras_sigmas(num_inference_steps, float(low), float(high))
        offset = int(self.config.get("steps_offset") or 0)
        return self.schedule.table(
            num_inference_steps, spacing=self.spacing, steps_offset=offset, sampler=sampler, use_karras_sigmas=karras
        )

    def init_noise_sigma(self, sigma: float) -> float:
        """Factor of the starting noise at the first level."""
        return start_scale(sigma, self.spacing)
