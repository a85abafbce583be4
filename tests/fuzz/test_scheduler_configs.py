"""Scheduler configs of strangers: levels that a run can follow, or one line."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from calotype.backbones.model_sampling import ModelSampling
from calotype.backbones.scheduler_config import EDM, REFUSED, VARIANCE_PRESERVING
from tests.fuzz.mutations import fuzzed, reads_or_refuses, tampered
from tests.tiny import _SCHEDULERS

EVERYTHING: dict[str, Any] = {
    "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": [0.01, 0.02, 0.03], "num_train_timesteps": 1000,
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "timestep_type": "continuous",
    "steps_offset": 1, "use_karras_sigmas": False, "use_exponential_sigmas": True, "use_beta_sigmas": False, "sigma_min": 0.002,
    "sigma_max": 80.0, "final_sigmas_type": "sigma_min", "interpolation_type": "linear", "variance_type": None, "thresholding": False,
    "use_flow_sigmas": False, "lambda_min_clipped": float("-inf"), "solver_order": 2, "clip_sample": False,
}  # fmt: skip
PLAYGROUND = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "rho": 7.0,
    "sigma_schedule": "karras",
    "prediction_type": "epsilon",
}
SEEDS = [*_SCHEDULERS.values(), EVERYTHING, {"num_train_timesteps": 50, "use_beta_sigmas": True}, PLAYGROUND]
CLASSES = [*sorted(VARIANCE_PRESERVING | EDM), next(iter(REFUSED)), "", "../x"]


@fuzzed
@given(
    config=tampered(SEEDS), name=st.sampled_from(CLASSES), steps=st.sampled_from((1, 2, 10)), sampler=st.sampled_from(("euler", "dpmpp_2m"))
)
def test_configs_give_levels_or_one_line(config: dict[str, Any], name: str, steps: int, sampler: Any) -> None:
    def read() -> object:
        found = ModelSampling(config, name)
        table = found.sigmas(steps, sampler)
        assert table.dtype == torch.float64
        assert bool(torch.isfinite(table).all())
        assert bool((table.diff() < 0).all())
        assert float(table[-1]) >= 0
        x, sigma = torch.ones(1, 2), float(table[0])
        estimate = found.preconditioner.estimate(x, found.preconditioner.scale_input(x, sigma), sigma)
        assert bool(torch.isfinite(estimate).all())
        assert found.init_noise_sigma(sigma, sampler) >= sigma
        return found.preconditioner.timestep(sigma)

    reads_or_refuses(read)
