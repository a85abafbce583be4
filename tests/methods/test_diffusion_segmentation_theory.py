"""What noise does to a mask: against integrals, exact denoisers and diffusers' schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from calotype.core.schedule import VPSchedule
from calotype.core.timestep_profile import timestep_profile
from calotype.errors import InputError
from calotype.evaluation.segmentation_study import oracle_gap
from calotype.methods.diffusion_segmentation.theory import (
    READABLE,
    advised_scaling,
    binary_error,
    half_time,
    least_epsilon_loss,
    object_area,
    predicted_half_time,
    signal_to_noise,
)

LINEAR = VPSchedule.of("linear", beta_start=1e-4, beta_end=0.02)


@pytest.mark.parametrize("snr", [0.0, 0.01, 0.3, 1.0, 4.0, 12.0, 40.0])
def test_the_binary_error_is_its_integral(snr: float) -> None:
    def integrand(z: float) -> float:
        return float(norm.pdf(z) * 2 / (1 + np.exp(np.clip(2 * (snr + snr**0.5 * z), -700, 700))))

    expected = sum(quad(integrand, low, low + 1, epsabs=1e-14)[0] for low in range(-15, 15))
    assert float(binary_error(snr)) == pytest.approx(expected, rel=1e-6)


def test_the_hump_has_the_figures_of_the_card() -> None:
    known = {50: 0.0, 100: 0.048, 150: 0.306, 200: 0.468, 250: 0.460, 300: 0.377, 400: 0.193, 500: 0.078, 600: 0.026, 800: 0.0015}
    found = least_epsilon_loss(signal_to_noise(LINEAR, list(known)))
    assert np.allclose(found, list(known.values()), atol=3e-3)
    assert 190 <= list(range(1000))[int(least_epsilon_loss(signal_to_noise(LINEAR, range(1000))).argmax())] <= 240


def test_the_hump_is_that_of_an_exact_denoiser() -> None:
    assert oracle_gap(LINEAR, seed=4) < 0.02


@pytest.mark.parametrize("pixels", [1, 4])
def test_pixels_that_are_equal_are_one_pixel_with_more_signal(pixels: int) -> None:
    """Two readers' masks that differ in a group of pixels, and the exact posterior mean over the two."""
    sign = (torch.arange(20_000) % 2).double() * 2 - 1
    clean = sign.view(-1, 1).expand(-1, pixels)
    sigmas = [LINEAR.sigma(float(t)) for t in (200, 300, 400)]

    def posterior(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.tanh(x.double().sum(1, keepdim=True) / sigma**2).expand(-1, pixels)

    found = timestep_profile([(posterior, clean)], sigmas, seed=2).mean("epsilon").numpy()
    assert np.allclose(found, least_epsilon_loss(np.array(sigmas) ** -2.0, pixels), rtol=0.06)


def test_object_area_is_what_a_foreground_pixel_sees() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.int64)
    masks[0, :4, :4] = 1
    masks[1, 0, 0] = masks[1, 2, 2] = 1
    assert object_area(masks) == pytest.approx((16 * 16 + 1 + 1) / 18)
    masks[1, 0, 1] = 2  # touches, but is of another class
    assert object_area(masks) == pytest.approx((16 * 16 + 3) / 19)
    volume = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    volume[0, :2, :2, :2] = 1
    assert object_area(volume) == 8
    with pytest.raises(InputError, match="foreground"):
        object_area(torch.zeros(1, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize("area", [1.0, 9.0, 200.0])
def test_larger_objects_are_read_longer(area: float) -> None:
    found = predicted_half_time(area, LINEAR)
    assert area * float(signal_to_noise(LINEAR, found)[0]) == pytest.approx(READABLE, rel=1e-3)
    assert predicted_half_time(4 * area, LINEAR) > found + 50


def test_half_time_is_between_the_measured_timesteps() -> None:
    assert half_time([0, 10, 20], np.array([0.0, 0.0, 1.0])) == 15
    assert np.isnan(half_time([0, 10, 20], np.array([0.6, 0.8, 1.0])))
    assert np.isnan(advised_scaling(float("nan"), LINEAR))


@given(st.floats(150, 900))
def test_the_advised_scaling_moves_the_half_time_to_where_it_is_wanted(half: float) -> None:
    scaled = LINEAR.input_scaled(advised_scaling(half, LINEAR, 0.4))
    assert scaled.sigma(400.0) == pytest.approx(LINEAR.sigma(half), rel=1e-6)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_input_scaling_is_what_diffusers_makes_of_the_betas(scale: float) -> None:
    from diffusers import DDPMScheduler

    scaled = LINEAR.input_scaled(scale)
    known = DDPMScheduler(num_train_timesteps=1000, trained_betas=scaled.betas.tolist()).alphas_cumprod.double()
    alphas = LINEAR.alphas_cumprod
    expected = scale**2 * alphas / ((scale**2 - 1) * alphas + 1)
    assert torch.allclose(scaled.alphas_cumprod, expected, rtol=1e-12)
    assert torch.allclose(known, expected, rtol=3e-4)
    assert torch.allclose((scaled.sigmas * scale), LINEAR.sigmas, rtol=1e-9)
    assert torch.allclose(LINEAR.input_scaled(1.0).alphas_cumprod, alphas)
    with pytest.raises(InputError, match="scaling"):
        LINEAR.input_scaled(0.0)
