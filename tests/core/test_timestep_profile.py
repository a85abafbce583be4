"""The loss at each noise level, against denoisers whose loss is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from calotype.core.timestep_profile import timestep_profile
from calotype.errors import InputError
from tests.recorder import Recorder

LEVELS = (0.2, 1.0, 5.0)


def best(x: Tensor, sigma: float) -> Tensor:
    """The posterior mean of standard normal data."""
    return x / (1 + sigma**2)


def test_the_best_denoiser_of_normal_data_has_the_error_that_is_known() -> None:
    clean = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    found = timestep_profile([(best, clean)], LEVELS, seed=3)
    expected = torch.tensor([sigma**2 / (1 + sigma**2) for sigma in LEVELS], dtype=torch.float64)
    assert torch.allclose(found.mean("sample"), expected, rtol=0.03)
    assert torch.allclose(found.mean("epsilon"), expected * found.snr, rtol=0.03)
    assert torch.equal(found.of("epsilon"), found.of("sample") * found.snr[:, None])


def test_a_denoiser_that_knows_the_noise_loses_nothing() -> None:
    clean = torch.ones(3, 2, 4)
    assert float(timestep_profile([(lambda x, sigma: torch.ones_like(x), clean)], LEVELS).errors.abs().max()) == 0


def test_a_sample_has_the_same_noise_in_any_batch_and_at_any_level() -> None:
    clean = torch.arange(4.0).view(4, 1, 1).expand(4, 1, 16)
    whole = timestep_profile([(best, clean)], LEVELS, seed=1)
    parts = timestep_profile([(best, clean[:1]), (best, clean[1:])], LEVELS, seed=1)
    assert torch.equal(whole.errors, parts.errors)
    assert torch.equal(timestep_profile([(best, clean)], LEVELS[1:], seed=1).errors, whole.errors[1:])
    assert not torch.equal(timestep_profile([(best, clean)], LEVELS, seed=2).errors, whole.errors)


def test_more_draws_are_their_mean() -> None:
    clean = torch.zeros(2, 1, 8)
    recorder = Recorder()
    twice = timestep_profile([(best, clean)], LEVELS, draws=2, events=recorder)
    assert recorder.steps == 2 * len(LEVELS)
    assert twice.errors.shape == (3, 2)
    assert not torch.equal(twice.errors, timestep_profile([(best, clean)], LEVELS).errors)


@pytest.mark.parametrize(
    ("levels", "batches"), [((), [(best, torch.zeros(1, 1))]), ((0.0, 1.0), [(best, torch.zeros(1, 1))]), ((1.0,), [])]
)
def test_levels_must_be_positive_and_samples_there(levels: tuple[float, ...], batches: list[tuple[object, Tensor]]) -> None:
    with pytest.raises(InputError):
        timestep_profile(batches, levels)  # type: ignore[arg-type]


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(InputError, match="sample or epsilon"):
        timestep_profile([(best, torch.zeros(1, 1))], (1.0,)).of("v")
