"""What the keys of a diffusers scheduler config mean to a run: used, of no meaning here, or refused by name.

A method brings its own solver and follows the checkpoint's noise levels. So what a config says about the noise levels and about the
network's output is used, what it says about its own solver isn't, and what would need another sampler than ours is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from calotype.errors import InputError

logger = logging.getLogger(__name__)

VARIANCE_PRESERVING = frozenset(
    {
        "DDIMInverseScheduler", "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler",
        "DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)  # fmt: skip
"""Schedulers over the cumulative alphas of a variance-preserving checkpoint; all of them fit the same networks."""
EDM = frozenset({"EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"})
"""Schedulers of checkpoints in EDM's preconditioning (Karras et al. 2022): CosXL, Playground 2.5."""

_FLOW = "its networks predict a flow, and flow-matching checkpoints have no role here yet"
_FEW_STEPS = "its networks are distilled for few steps of that sampler, which isn't supported"
_OTHER = "its networks aren't those of a variance-preserving or EDM latent diffusion model"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("FlowMapEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler",
         "HeliosDMDScheduler", "HeliosScheduler", "LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler", "PiflowScheduler", "SCMScheduler"),
        _FLOW,
    ),
    **dict.fromkeys(("CMStochasticIterativeScheduler", "ConsistencyDecoderScheduler", "LCMScheduler", "TCDScheduler"), _FEW_STEPS),
    **dict.fromkeys(
        ("AmusedScheduler", "BlockRefinementScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler",
         "CosineDPMSolverMultistepScheduler", "DDPMWuerstchenScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
         "IPNDMScheduler", "KarrasVeScheduler", "RFD4ProteinaScheduler", "RePaintScheduler", "ScoreSdeVeScheduler",
         "ScoreSdeVpScheduler", "UnCLIPScheduler", "VQDiffusionScheduler"),
        _OTHER,
    ),
}  # fmt: skip
"""Scheduler class -> why a checkpoint with it isn't sampled."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "HeunDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2AncestralDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2DiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "DPMSolverSDEScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    **{name: {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0, "sigma_schedule": "karras"} for name in EDM},
}
"""What a class takes for keys that its config leaves out, where that differs from the others (`beta_start` 0.0001, `beta_end` 0.02)."""

USED = frozenset(
    {
        "beta_end", "beta_schedule", "beta_start", "final_sigmas_type", "num_train_timesteps", "prediction_type", "rescale_betas_zero_snr",
        "sigma_max", "sigma_min", "steps_offset", "timestep_spacing", "timestep_type", "trained_betas", "use_beta_sigmas",
        "use_exponential_sigmas", "use_karras_sigmas",
    }
)  # fmt: skip
"""Read for a variance-preserving checkpoint."""
USED_EDM = frozenset({"final_sigmas_type", "prediction_type", "rho", "sigma_data", "sigma_max", "sigma_min", "sigma_schedule"})
"""Read for an EDM checkpoint; the other keys of `USED` mean nothing to one."""

IRRELEVANT: Mapping[str, str] = {
    **dict.fromkeys(
        ("algorithm_type", "corrector_order", "disable_corrector", "euler_at_final", "lower_order_final", "noise_sampler_seed",
         "predict_x0", "predictor_order", "skip_prk_steps", "solver_order", "solver_p", "solver_type", "tau_func"),
        "solver",
    ),
    **dict.fromkeys(("clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"), "pixels"),
    "set_alpha_to_one": "solver",
    **dict.fromkeys(("base_image_seq_len", "base_shift", "flow_shift", "max_image_seq_len", "max_shift", "time_shift_type"), "flow"),
    "tensor_format": "retired",
}  # fmt: skip
"""Key -> why it changes nothing, in a word.

`solver`: how diffusers' own sampler steps; a method brings its own, which ends at the level that the table ends at. `pixels`: bounds for
networks over pixels; latents have none, and diffusers' latent pipelines switch them off. `flow`: belongs to `use_flow_sigmas`, which is
refused. `retired`: of an old diffusers, which no version reads any more.
"""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "interpolation_type": (None, "linear"),
    "lambda_min_clipped": (None, float("-inf"), "-inf", "-Infinity"),
    "shift_terminal": (None,),
    "snr_shift_scale": (None, 1, 1.0),
    "thresholding": (None, False),
    "use_dynamic_shifting": (None, False),
    "use_flow_sigmas": (None, False),
    "use_lu_lambdas": (None, False),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
"""Key -> the values that ask for nothing that a run doesn't do; others are refused."""
ONLY_OUTSIDE_EDM: Mapping[str, tuple[Any, ...]] = {
    "rho": (None, 7, 7.0),
    "sigma_data": (None, 1, 1.0),
    "sigma_schedule": (None, "karras"),
}
"""The same for EDM's own keys in the config of another scheduler."""

LONGEST = 100_000
"""Training timesteps that a config may name."""


def check_scheduler(config: Mapping[str, Any], scheduler_class: str) -> None:
    """Refuse what a run can't follow; warn of keys that nobody knows.

    Args:
        config: the scheduler's config; keys that begin with an underscore are diffusers' own notes.
        scheduler_class: its class, as model_index.json names it.

    Raises:
        InputError: a scheduler or a value that isn't supported; the message names it.

    Example:
        >>> check_scheduler({"beta_schedule": "scaled_linear", "solver_order": 2}, "DPMSolverMultistepScheduler")
    """
    if scheduler_class not in VARIANCE_PRESERVING | EDM:
        why = REFUSED.get(scheduler_class, "calotype doesn't know it")
        raise InputError(
            f"the checkpoint's scheduler is {scheduler_class}: {why}; those read are {', '.join(sorted(VARIANCE_PRESERVING | EDM))}"
        )
    edm = scheduler_class in EDM
    bounds = ONLY if edm else {**ONLY, **ONLY_OUTSIDE_EDM}
    for key, accepted in bounds.items():
        value = config.get(key)
        # True == 1, but a flag isn't a number.
        if not any(type(value) is type(one) and value == one for one in accepted):
            raise InputError(
                f"the checkpoint's {scheduler_class} says {key} {_shown(value)}, which isn't supported; "
                f"it is sampled only with {' or '.join(repr(one) for one in accepted if one is not None) or 'none'}"
            )
    named = [name for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if read_flag(config, name)]
    if len(named) > 1 and not edm:
        raise InputError(f"the checkpoint's {scheduler_class} says {' and '.join(named)}; a run has one table of levels: set one of them")
    unknown = sorted(key for key in config if not key.startswith("_") and key not in known_keys())
    if unknown:
        logger.warning(
            "the checkpoint's %s has settings that calotype doesn't know and leaves out: %s", scheduler_class, ", ".join(unknown)
        )


def known_keys() -> frozenset[str]:
    """Every key that is used, of no meaning, or refused unless it asks for nothing."""
    return USED | USED_EDM | frozenset(IRRELEVANT) | frozenset(ONLY) | frozenset(ONLY_OUTSIDE_EDM)


def with_defaults(config: Mapping[str, Any], scheduler_class: str) -> dict[str, Any]:
    """The config with its class's own defaults for what it leaves out."""
    return {**DEFAULTS.get(scheduler_class, {}), **{key: value for key, value in config.items() if value is not None}}


def read_flag(config: Mapping[str, Any], key: str) -> bool:
    """A yes or no; no if it is left out.

    Raises:
        InputError: it is something else.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"the checkpoint's scheduler says {key} {_shown(value)}; it must be true or false")
    return bool(value)


def read_number(config: Mapping[str, Any], key: str, default: float, *, low: float = 0.0, high: float = 1e6) -> float:
    """A number from `low` to `high`.

    Raises:
        InputError: it is something else.
    """
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
        raise InputError(f"the checkpoint's scheduler says {key} {_shown(value)}; it must be a number from {low:g} to {high:g}")
    return value


def read_whole(config: Mapping[str, Any], key: str, default: int, *, low: int = 0, high: int = LONGEST) -> int:
    """A whole number from `low` to `high`.

    Raises:
        InputError: it is something else.
    """
    value = read_number(config, key, default, low=low, high=high)
    if value != int(value):
        raise InputError(f"the checkpoint's scheduler says {key} {_shown(value)}; it must be a whole number")
    return int(value)


def read_choice(config: Mapping[str, Any], key: str, choices: Sequence[str], default: str) -> str:
    """One of some words.

    Raises:
        InputError: it is something else.
    """
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"the checkpoint's scheduler says {key} {_shown(value)}; calotype reads {', '.join(choices)}")
    return value


def read_betas(config: Mapping[str, Any]) -> list[float] | None:
    """`trained_betas`, or None.

    Raises:
        InputError: they aren't numbers between 0 and 1.
    """
    values = config.get("trained_betas")
    if values is None:
        return None
    listed = values.tolist() if hasattr(values, "tolist") else values
    if (
        not isinstance(listed, list | tuple)
        or not 2 <= len(listed) <= LONGEST
        or not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= 1 for v in listed)
    ):
        raise InputError(f"the checkpoint's scheduler says trained_betas {_shown(values)}; they must be numbers between 0 and 1, 2 or more")
    return [float(value) for value in listed]


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
