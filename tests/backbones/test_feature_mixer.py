"""Features of layers and steps to one descriptor: weights, shapes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calotype.backbones.feature_mixer import FeatureMixer
from calotype.errors import InputError, ShapeError


def taps(batch: int = 2, steps: int = 2) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(batch, c, side, side, generator=generator) for c, side in ((12, 4), (12, 8), (8, 8))] for _ in range(steps)]


def mixer(**changes: object) -> FeatureMixer:
    torch.manual_seed(0)
    return FeatureMixer(**({"widths": (12, 12, 8), "num_steps": 2, "out_channels": 32, "groups": 4} | changes)).eval()


def test_an_untrained_mixer_weighs_all_alike() -> None:
    assert torch.allclose(mixer().weights(), torch.full((2, 3), 1 / 6))


@torch.no_grad()
def test_the_descriptor_is_the_weighted_sum_of_the_blocks() -> None:
    network, given = mixer(), taps()
    network.mixing_weights.copy_(torch.tensor([-1e4, -1e4, -1e4, -1e4, -1e4, 0.0]))
    assert torch.allclose(network(given), network.bottlenecks[2](given[1][2]), atol=1e-6)
    network.mixing_weights.copy_(torch.tensor([1.0, 0, 0, 0, 2, 0]))
    shares = network.weights().flatten()
    enlarged = [[torch.nn.functional.interpolate(one, size=(8, 8), mode="bilinear") for one in step] for step in given]
    summed = sum(shares[3 * t + k] * network.bottlenecks[k](enlarged[t][k]) for t in range(2) for k in range(3))
    assert torch.allclose(network(given), summed, atol=1e-5)


@torch.no_grad()
def test_rows_do_not_see_each_other_and_the_grid_is_as_asked() -> None:
    network, given = mixer(), taps(batch=3)
    alone = torch.cat([network([[one[row : row + 1] for one in step] for step in given]) for row in range(3)])
    assert torch.allclose(network(given), alone, atol=1e-5)
    assert network(given, (5, 7)).shape == (3, 32, 5, 7)


def test_all_of_it_learns_and_survives_a_folder(tmp_path: Path) -> None:
    network = mixer(layers=("a", "b", "c"), timesteps=(1.0, 261.0), num_inversion_steps=50)
    network(taps()).square().mean().backward()
    assert all(value.grad is not None and bool(value.grad.abs().sum() > 0) for value in network.parameters())
    network.save_pretrained(tmp_path / "mixer")
    again = FeatureMixer.from_pretrained(tmp_path / "mixer")
    assert tuple(again.config.layers) == ("a", "b", "c")
    assert tuple(again.config.timesteps) == (1.0, 261.0)
    with torch.no_grad():
        assert torch.equal(again.eval()(taps()), network.eval()(taps()))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="a quarter of the channels must be a multiple of the groups"):
        mixer(out_channels=20)
    with pytest.raises(InputError, match="name each once"):
        mixer(layers=("a",))
    with pytest.raises(ShapeError, match="features of 1 steps"):
        mixer()(taps(steps=1))
    with pytest.raises(ShapeError, match="the mixer was made for 2 with"):
        mixer()([step[:2] for step in taps()])
