"""Each sampler is pinned to diffusers' scheduler of that name: |difference| <= 1e-5 (1 + sigma) at every step, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from calotype.core.denoiser import Denoiser, Preconditioner, edm_timestep, flow_timestep
from calotype.core.inversion import invert
from calotype.core.noise import noise
from calotype.core.samplers import History, ddim_step, dpmpp_2m_step, euler_step, heun_step, sample
from calotype.core.schedule import VPSchedule, flow_sigmas, karras_sigmas, start_scale

SD15 = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000, "steps_offset": 1}
SD21 = SD15 | {"prediction_type": "v_prediction", "timestep_spacing": "leading"}
SDXL = SD15 | {"prediction_type": "epsilon", "timestep_spacing": "leading", "interpolation_type": "linear"}
SVD = SD15 | {
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
}
I2VGEN = {
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SHAPE = (2, 3, 5, 4)
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def network(z: Tensor, t: float) -> Tensor:
    """A smooth function of its input and its timestep, of the size of a network's output."""
    return torch.tanh(0.8 * z + 0.3 * z.roll(1, -1) + 0.001 * float(t)) - 0.4 * z.roll(1, 1)


def denoiser(preconditioner: Preconditioner) -> Denoiser:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return preconditioner.estimate(x, network(preconditioner.scale_input(x, sigma), preconditioner.timestep(sigma)), sigma)

    return denoise


def noisy(sigma: float, k: int) -> Tensor:
    """A sample at that level. Each step starts from its own: what is compared is the step, not the path of a made-up network."""
    return noise(SHAPE, 1) + sigma * noise(SHAPE, 2, k)


def assert_close(ours: Tensor, theirs: Tensor, sigma: float) -> None:
    assert ours.dtype == torch.float32
    assert torch.isfinite(theirs).all()
    difference = float((ours - theirs).abs().max())
    assert difference <= 1e-5 * (1 + sigma), f"differs by {difference:.2e} at sigma {sigma:.4g}"


def assert_table(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == torch.float64
    assert ours.shape == theirs.shape
    assert ((ours - theirs.double()).abs() <= 1e-5 * (1 + ours)).all(), (ours - theirs).abs().max()


def follow_sigma_scheduler(scheduler: Any, denoise: Denoiser, table: Tensor, spacing: str, n: int) -> None:
    """Walk diffusers' Euler scheduler; at each of its steps take ours from the same place."""
    scheduler.set_timesteps(n)
    assert_table(table, scheduler.sigmas)
    assert start_scale(float(table[0]), spacing) == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-5)
    for k, t in enumerate(scheduler.timesteps):
        x = noisy(float(table[k]), k)
        theirs = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        assert_close(euler_step(denoise, x, float(table[k]), float(table[k + 1])).x, theirs, float(table[k]))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n", [7, 25])
def test_euler_equals_diffusers(spacing: Any, prediction: Any, n: int) -> None:
    config = SD15 | {"timestep_spacing": spacing, "prediction_type": prediction}
    schedule = VPSchedule.from_config(config)
    table = schedule.table(n, spacing=spacing, steps_offset=1)
    scheduler = EulerDiscreteScheduler(**config)
    follow_sigma_scheduler(scheduler, denoiser(Preconditioner(prediction, schedule.t)), table, spacing, n)


@pytest.mark.parametrize("config", [SDXL, SD21, SDXL | {"use_karras_sigmas": True}], ids=["sdxl", "sd21", "sdxl-karras"])
def test_euler_equals_diffusers_on_public_configs(config: dict[str, Any]) -> None:
    schedule = VPSchedule.from_config(config)
    karras = bool(config.get("use_karras_sigmas"))
    table = schedule.table(10, spacing="leading", steps_offset=1, respacing="karras" if karras else None)
    prediction = Preconditioner(config["prediction_type"], schedule.t)
    follow_sigma_scheduler(EulerDiscreteScheduler(**config), denoiser(prediction), table, "leading", 10)


@pytest.mark.parametrize("n", [5, 25])
def test_euler_equals_diffusers_on_stable_video_diffusion(n: int) -> None:
    table = karras_sigmas(n, 0.002, 700.0)
    follow_sigma_scheduler(EulerDiscreteScheduler(**SVD), denoiser(Preconditioner("v_prediction", edm_timestep)), table, "leading", n)


def test_euler_equals_diffusers_at_zero_terminal_snr() -> None:
    config = SD21 | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    schedule = VPSchedule.from_config(config)
    table = schedule.table(10, spacing="trailing")
    assert float(table[0]) == pytest.approx(4096, abs=1e-3)
    follow_sigma_scheduler(EulerDiscreteScheduler(**config), denoiser(Preconditioner("v_prediction", schedule.t)), table, "trailing", 10)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("karras", [False, True])
def test_heun_equals_diffusers(spacing: Any, prediction: Any, karras: bool) -> None:
    n = 8
    config = SD15 | {"timestep_spacing": spacing, "prediction_type": prediction, "use_karras_sigmas": karras}
    scheduler = HeunDiscreteScheduler(**config)
    scheduler.set_timesteps(n)
    schedule = VPSchedule.from_config(config)
    table = schedule.table(n, spacing=spacing, steps_offset=1, sampler="heun", respacing="karras" if karras else None)
    assert_table(table, torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]))
    denoise = denoiser(Preconditioner(prediction, schedule.t))
    steps = iter(scheduler.timesteps)
    for k in range(n):
        x = theirs = noisy(float(table[k]), k)
        for _ in range(2 if k < n - 1 else 1):
            t = next(steps)
            theirs = scheduler.step(network(scheduler.scale_model_input(theirs, t), t), t, theirs).prev_sample
        assert_close(heun_step(denoise, x, float(table[k]), float(table[k + 1])).x, theirs, float(table[k]))


def vp(x: Tensor, sigma: float) -> Tensor:
    return x / (1 + sigma**2) ** 0.5


def ve(z: Tensor, sigma: float) -> Tensor:
    return z * (1 + sigma**2) ** 0.5


def follow_ddim(config: dict[str, Any], n: int, eta: float = 0.0, last_alpha: float | None = None) -> None:
    scheduler = DDIMScheduler(**config, clip_sample=False)
    if last_alpha is not None:
        scheduler.alphas_cumprod[-1] = last_alpha
    scheduler.set_timesteps(n)
    schedule = VPSchedule.from_config(config)
    spacing, offset = config.get("timestep_spacing", "leading"), config["steps_offset"]
    assert schedule.timesteps(n, spacing=spacing, steps_offset=offset, sampler="ddim").tolist() == scheduler.timesteps.tolist()
    final = "zero" if config["set_alpha_to_one"] else "first"
    table = schedule.table(n, spacing=spacing, steps_offset=offset, sampler="ddim", final=final)
    denoise = denoiser(Preconditioner(config.get("prediction_type", "epsilon"), schedule.t))
    stride = config["num_train_timesteps"] // n
    step = ddim_step(eta, lambda position: noise(SHAPE, 3, position))
    for k, t in enumerate(scheduler.timesteps.tolist()):
        sigma = schedule.sigma(t)
        z = vp(noisy(sigma, k), sigma)
        theirs = scheduler.step(network(z, t), t, z, eta=eta, variance_noise=noise(SHAPE, 3, k) if eta else None).prev_sample
        # diffusers steps to the level of t - T // n, which is the next timestep's own only where T is divisible.
        sigma_next = schedule.sigma(t - stride) if t >= stride else float(table[-1])
        if config["num_train_timesteps"] % n == 0 and spacing != "linspace" and k + 1 < len(table):
            assert sigma_next == float(table[k + 1])
        ours = step(denoise, ve(z, sigma), sigma, sigma_next, position=k).x
        assert_close(vp(ours, sigma_next), theirs, sigma)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("to_one", [False, True])
def test_ddim_equals_diffusers(spacing: Any, prediction: Any, to_one: bool) -> None:
    follow_ddim(SD15 | {"timestep_spacing": spacing, "prediction_type": prediction, "set_alpha_to_one": to_one}, 10)
    follow_ddim(SD15 | {"timestep_spacing": spacing, "prediction_type": prediction, "set_alpha_to_one": to_one}, 7)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_noise_equals_diffusers(eta: float, prediction: str) -> None:
    follow_ddim(SD15 | {"prediction_type": prediction, "set_alpha_to_one": False}, 10, eta)


def test_ddim_equals_diffusers_on_i2vgen() -> None:
    follow_ddim(I2VGEN, 50)


def test_ddim_at_zero_terminal_snr_takes_the_cap_of_diffusers_other_schedulers() -> None:
    follow_ddim(I2VGEN | {"timestep_spacing": "trailing"}, 10, last_alpha=2.0**-24)


def test_whole_ddim_run_equals_diffusers_in_its_own_variable() -> None:
    n, config = 20, SD21 | {"set_alpha_to_one": False}
    scheduler = DDIMScheduler(**config, clip_sample=False)
    scheduler.set_timesteps(n)
    schedule = VPSchedule.from_config(config)
    table = schedule.table(n, spacing="leading", steps_offset=1, sampler="ddim", final="first")
    z = noise(SHAPE, 1)
    ours = sample(denoiser(Preconditioner("v_prediction", schedule.t)), ve(z, float(table[0])), table)
    for t in scheduler.timesteps.tolist():
        z = scheduler.step(network(z, t), t, z).prev_sample
    assert (vp(ours, float(table[-1])) - z).abs().max() < 1e-4


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("n", "karras"), [(8, False), (20, False), (20, True)])
def test_dpmpp_2m_equals_diffusers(spacing: Any, prediction: Any, n: int, karras: bool) -> None:
    config = SD15 | {"timestep_spacing": spacing, "prediction_type": prediction, "use_karras_sigmas": karras}
    follow_dpm(config, spacing, n, karras)


def test_dpmpp_2m_equals_diffusers_at_zero_terminal_snr() -> None:
    config = SD21 | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    follow_dpm(config, "trailing", 20, False)


def follow_dpm(config: dict[str, Any], spacing: Any, n: int, karras: bool) -> None:
    scheduler = DPMSolverMultistepScheduler(**config)
    scheduler.set_timesteps(n)
    schedule = VPSchedule.from_config(config)
    table = schedule.table(n, spacing=spacing, steps_offset=1, sampler="dpmpp_2m", respacing="karras" if karras else None)
    assert_table(table, scheduler.sigmas)
    timestep = (lambda sigma: float(round(schedule.t(sigma)))) if karras else schedule.t
    if not karras:
        assert [schedule.t(float(s)) for s in table[:-1]] == scheduler.timesteps.tolist()
    denoise = denoiser(Preconditioner(config["prediction_type"], timestep))
    history: History = {}
    for k, t in enumerate(scheduler.timesteps):
        sigma, sigma_next = float(table[k]), float(table[k + 1])
        z = vp(noisy(sigma, k), sigma)
        theirs = scheduler.step(network(z, float(t)), t, z).prev_sample
        stepped = dpmpp_2m_step(denoise, ve(z, sigma), sigma, sigma_next, history)
        assert_close(vp(stepped.x, sigma_next), theirs, sigma)
        history = stepped.history


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("n", [4, 28])
def test_euler_equals_diffusers_on_flow(shift: float, n: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(n)
    table = flow_sigmas(n, shift=shift)
    assert ((table / (1 + table)) - scheduler.sigmas).abs().max() < 2e-6
    denoise = denoiser(Preconditioner("flow", flow_timestep))
    z = noise(SHAPE, 1)
    for k, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(network(z, float(t)), t, z).prev_sample
        sigma, sigma_next = float(table[k]), float(table[k + 1])
        assert_close(euler_step(denoise, z * (1 + sigma), sigma, sigma_next).x / (1 + sigma_next), theirs, 0.0)
        z = theirs


@pytest.mark.parametrize("n", [8, 20])
def test_dpmpp_2m_equals_diffusers_on_flow(n: int) -> None:
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(n)
    times = scheduler.sigmas.double()
    table = times / (1 - times)
    z = noise(SHAPE, 1)
    history: History = {}
    for k, t in enumerate(scheduler.timesteps):
        sigma, sigma_next = float(table[k]), float(table[k + 1])
        denoise = denoiser(Preconditioner("flow", lambda _, t=t: float(t)))
        theirs = scheduler.step(network(z, float(t)), t, z).prev_sample
        stepped = dpmpp_2m_step(denoise, z * (1 + sigma), sigma, sigma_next, history)
        assert_close(stepped.x / (1 + sigma_next), theirs, 0.0)
        z, history = theirs, stepped.history


# Not ("sample", True): there diffusers divides by the first level's noise, which is 0.
@pytest.mark.parametrize(
    ("prediction", "to_one"), [("epsilon", True), ("epsilon", False), ("v_prediction", True), ("v_prediction", False), ("sample", False)]
)
def test_inversion_equals_diffusers_inverse_fed_with_the_textbook_estimate(prediction: Any, to_one: bool) -> None:
    """diffusers' loop asks the network at the level that it goes to; given the estimate at the level it comes from, the steps are ours."""
    n, config = 20, SD15 | {"prediction_type": prediction, "set_alpha_to_one": to_one}
    scheduler = DDIMInverseScheduler(**config, clip_sample=False)
    scheduler.set_timesteps(n)
    schedule = VPSchedule.from_config(config)
    preconditioner = Preconditioner(prediction, schedule.t)
    denoise = denoiser(preconditioner)
    table = schedule.table(n, steps_offset=1, sampler="ddim", final="zero" if to_one else "first")
    x0 = noise(SHAPE, 4)
    trajectory = invert(denoise, ve(x0, float(table[-1])), table)
    reached = trajectory.sigmas.flip(0).tolist()
    sigma, z = float(table[-1]), x0
    for k, t in enumerate(scheduler.timesteps.tolist()):
        # Level 0 has no direction of its own: both take the one of the first level.
        sigma_next = schedule.sigma(t)
        at = sigma or sigma_next
        x = ve(z, sigma)
        epsilon = (x - denoise(x, at)) / at
        output = as_output(prediction, x, epsilon, sigma)
        z = scheduler.step(output, t, z).prev_sample
        sigma = sigma_next
        assert sigma == reached[k if to_one else k + 1]
        assert_close(vp(trajectory.at(sigma), sigma), z, 4.0)
        z = vp(trajectory.at(sigma), sigma)


def as_output(prediction: str, x: Tensor, epsilon: Tensor, sigma: float) -> Tensor:
    outputs: dict[str, Callable[[], Tensor]] = {
        "epsilon": lambda: epsilon,
        "sample": lambda: x - sigma * epsilon,
        "v_prediction": lambda: (epsilon - sigma * (x - sigma * epsilon)) / (1 + sigma**2) ** 0.5,
    }
    return outputs[prediction]()
