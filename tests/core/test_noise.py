"""Noise depends on seed, item and stream alone."""

from __future__ import annotations

import pytest
import torch

from calotype.core.noise import AUGMENTATION, RENOISE, START, batch_noise, noise, renoiser
from calotype.errors import InputError

SHAPE = (3, 16, 16)


def test_item_alone_equals_item_in_a_batch() -> None:
    batch = batch_noise(SHAPE, 7, 4)
    for i in range(4):
        assert torch.equal(noise(SHAPE, 7, i), batch[i])
    assert torch.equal(batch_noise(SHAPE, 7, 2, first_index=2), batch[2:])


def test_start_noise_is_that_of_a_generator_with_the_seed() -> None:
    """So a run can be compared with any pipeline that takes a generator."""
    assert torch.equal(noise(SHAPE, 41, 1), torch.randn(SHAPE, generator=torch.Generator().manual_seed(42)))


def test_streams_seeds_and_items_are_unlike() -> None:
    samples = [noise(SHAPE, seed, stream=stream).flatten() for seed in (0, 1, 2) for stream in (START, AUGMENTATION, RENOISE, RENOISE + 1)]
    correlation = torch.corrcoef(torch.stack(samples)) - torch.eye(len(samples))
    # 768 values: the standard error of a correlation is 0.036.
    assert correlation.abs().max() < 0.16


@pytest.mark.parametrize("stream", [START, AUGMENTATION, RENOISE + 17])
def test_noise_is_standard_normal(stream: int) -> None:
    x = noise((200000,), 3, stream=stream)
    assert x.dtype == torch.float32
    assert x.mean().abs() < 0.01
    assert x.std() == pytest.approx(1, abs=0.01)
    assert (x**4).mean() == pytest.approx(3, abs=0.1)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    renoiser(SHAPE, 3, 2)(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_renoiser_has_no_memory() -> None:
    at = renoiser(SHAPE, 3, 2)
    first = at(5)
    at(6)
    assert torch.equal(at(5), first)
    assert torch.equal(renoiser(SHAPE, 3, 1, first_index=1)(5), first[1:])


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (2**32, 0), (2**32 - 1, 1)])
def test_seeds_that_would_wrap_are_refused(seed: int, index: int) -> None:
    with pytest.raises(InputError, match="between 0 and 4294967295"):
        noise(SHAPE, seed, index)


def test_negative_stream_is_refused() -> None:
    with pytest.raises(InputError, match="stream is -1"):
        noise(SHAPE, 0, stream=-1)
