"""The translation between networks and x = x0 + sigma n."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from calotype.core.denoiser import Condition, Preconditioner, Rates, edm_timestep, flow_timestep
from calotype.core.noise import batch_noise
from calotype.errors import InputError

PREDICTIONS = ["epsilon", "v_prediction", "sample", "flow"]
X0, N = batch_noise((3, 4, 4), 1, 2), batch_noise((3, 4, 4), 2, 2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 14.6])
def test_a_perfect_network_gives_the_clean_sample(prediction: Any, sigma: float) -> None:
    p = Preconditioner(prediction, edm_timestep)
    estimate = p.estimate(X0 + sigma * N, p.target(X0, N, sigma), sigma)
    assert torch.allclose(estimate, X0, atol=1e-5 * (1 + sigma))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_levels_can_differ_by_row(prediction: Any) -> None:
    """Training draws one level per row."""
    p = Preconditioner(prediction, edm_timestep)
    levels = torch.tensor([0.3, 5.0]).view(2, 1, 1, 1)
    x = X0 + levels * N
    together = p.scale_input(x, levels), p.target(X0, N, levels), p.estimate(x, N, levels)
    for i, sigma in enumerate((0.3, 5.0)):
        alone = (
            p.scale_input(x[i : i + 1], sigma),
            p.target(X0[i : i + 1], N[i : i + 1], sigma),
            p.estimate(x[i : i + 1], N[i : i + 1], sigma),
        )
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[i : i + 1], b, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 700.0])
def test_network_sees_unit_variance(prediction: Any, sigma: float) -> None:
    x0, n = torch.randn(2, 100000, generator=torch.Generator().manual_seed(0))
    assert Preconditioner(prediction, edm_timestep).scale_input(x0 + sigma * n, sigma).std() == pytest.approx(1, abs=0.01)


def test_stable_video_diffusions_formula() -> None:
    """D = x / (s^2 + 1) - F s / sqrt(s^2 + 1), timestep 0.25 ln s."""
    p = Preconditioner("v_prediction", edm_timestep)
    sigma, x, output = 700.0, 700.0 * X0, N
    assert torch.allclose(p.estimate(x, output, sigma), x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5, atol=1e-6)
    assert p.timestep(700.0) == pytest.approx(0.25 * 6.5510803)


def test_flow_time() -> None:
    assert flow_timestep(1.0) == 500
    assert flow_timestep(3.0) == 750


def test_estimate_is_float32_whatever_the_network_computes_in() -> None:
    p = Preconditioner("epsilon", edm_timestep)
    assert p.estimate(X0.half(), N.half(), 2.0).dtype == torch.float32


@pytest.mark.bad_input
def test_unknown_predictions_are_refused() -> None:
    with pytest.raises(InputError, match=r"'noise' is unknown; .* epsilon, v_prediction, sample, flow"):
        Preconditioner("noise", edm_timestep)  # type: ignore[arg-type]


def test_conditions_stack_by_row() -> None:
    a = Condition({"text": torch.zeros(1, 4, 8), "ids": torch.zeros(1, 3)})
    b = Condition({"text": torch.ones(2, 4, 8), "ids": torch.ones(2, 3)})
    both = Condition.cat([a, b])
    assert both.rows == 3
    assert both.tensors["ids"][:, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "edm"])
def test_a_training_example_is_the_sample_as_the_network_sees_it(prediction: Any) -> None:
    """Given as sigma or as the rates of the network's input, per row."""
    p = Preconditioner(prediction, edm_timestep)
    signal = torch.tensor([0.3, 0.9]).view(2, 1, 1, 1)
    rates = Rates.of_flow_time(1 - signal) if prediction == "flow" else Rates.of_alpha(signal.square())
    sigma = rates.noise / rates.signal
    by_sigma, by_rates = p.example(X0, N, sigma), p.example(X0, N, rates)
    for a, b in zip(by_sigma, by_rates, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(by_sigma[0], p.scale_input(X0 + sigma * N, sigma))
    assert torch.allclose(by_sigma[1], p.target(X0, N, sigma))


@pytest.mark.parametrize(("prediction", "sigma_data"), [*((name, 1.0) for name in PREDICTIONS), ("edm", 0.5), ("v_prediction", 0.5)])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_regression_on_the_target_learns_the_posterior_mean(prediction: Any, sigma_data: float, sigma: float) -> None:
    """Of Gaussian data, where both have a closed form: the best linear answer, and x d^2 / (d^2 + sigma^2)."""
    p = Preconditioner(prediction, edm_timestep, sigma_data)
    x0, n = torch.randn(2, 4000, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x0, n = x0 - x0.mean(), n - n.mean()
    n -= (n * x0).sum() / (x0 * x0).sum() * x0
    x0, n = sigma_data * x0 / x0.square().mean().sqrt(), n / n.square().mean().sqrt()
    seen, target = p.example(x0, n, sigma)
    learnt = (seen * target).sum() / seen.square().sum() * seen
    x = x0 + sigma * n
    assert torch.allclose(p.estimate(x, learnt, sigma).double(), x * sigma_data**2 / (sigma_data**2 + sigma**2), atol=2e-6 * (1 + sigma))


def test_flow_matching_has_straight_paths_up_to_pure_noise() -> None:
    """Lipman et al. 2023 with z = (1 - s) x0 + s n: the target is dz/ds, the timestep 1000 s, and time 1 is the noise itself."""
    p = Preconditioner("flow", flow_timestep)
    times = torch.tensor([0.25, 1.0]).view(2, 1, 1, 1)
    (seen, target), (later, _) = (p.example(X0, N, Rates.of_flow_time(times + step)) for step in (0.0, 0.125))
    assert torch.allclose((later - seen) / 0.125, target, atol=1e-5)
    assert torch.equal(seen[1], N[1])
    assert torch.equal(target, N - X0)
    sigma = times[:1] / (1 - times[:1])
    assert flow_timestep(sigma).item() == pytest.approx(250)
    assert torch.allclose(p.estimate(X0[:1] + sigma * N[:1], target[:1], sigma), X0[:1], atol=1e-6)


def test_rates_are_refused_where_the_data_has_another_size() -> None:
    with pytest.raises(InputError, match=r"sigma_data is 0\.5; give the level as sigma"):
        Preconditioner("edm", edm_timestep, 0.5).example(X0, N, Rates(0.6, 0.8))
