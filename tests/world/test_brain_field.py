"""The measured field of a synthetic brain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calotype.core.dipole import DipoleOperator
from calotype.errors import InputError
from calotype.world.brains.anatomy import Brain
from calotype.world.brains.field import measured_field

SHAPE = (16, 20, 18)
KEY = {"split": "tune", "seed": 3, "index": 1}


@pytest.fixture(scope="module")
def ball() -> Brain:
    """A ball of 0.1 ppm in a wider brain, darker on one side; its axes are turned by 90 degrees about x."""
    axes = torch.meshgrid(*[torch.arange(n) - n / 2 + 0.5 for n in SHAPE], indexing="ij")
    radius = sum(axis**2 for axis in axes) ** 0.5
    mask = (radius < 8).float()
    magnitude = torch.where(axes[0] > 0, 1.0, 0.25) * mask
    affine = np.array([[2.0, 0, 0, 0], [0, 0, -2, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    return Brain(0.1 * (radius < 3).float(), mask, magnitude, mask.long() * 0, affine)


def test_field_is_the_dipoles_along_the_scanner(ball: Brain) -> None:
    """World z is array axis 1 here."""
    clean = measured_field(ball, noise_ppm=0, **KEY)
    inside = ball.mask > 0
    expected = DipoleOperator(SHAPE, (2, 2, 2), (0, 1, 0)).forward(ball.susceptibility) * inside
    assert (clean - expected).abs().max() < 2e-4
    assert clean[8, 14, 9] > 0.003 > -0.001 > clean[8, 10, 14]
    assert (clean[~inside] == 0).all()
    turned = measured_field(ball, noise_ppm=0, direction=(0, 0, 2), **KEY)
    assert turned[8, 10, 14] > 0.003


def test_noise_is_as_strong_as_said_and_follows_the_signal(ball: Brain) -> None:
    inside = ball.mask > 0
    clean = measured_field(ball, noise_ppm=0, **KEY)
    noise = measured_field(ball, noise_ppm=0.006, **KEY) - clean
    assert abs(noise[inside].square().mean().sqrt() - 0.006) < 1e-6
    assert (noise[~inside] == 0).all()
    bright, dark = (noise[inside & (ball.magnitude == level)].std() for level in (1.0, 0.25))
    assert 3.6 < dark / bright < 4.4
    assert noise[inside].mean().abs() < 5e-4


def test_noise_belongs_to_the_brain_alone(ball: Brain) -> None:
    def noise(level: float = 0.004, **changes: object) -> torch.Tensor:
        key = {**KEY, **changes}
        return (measured_field(ball, noise_ppm=level, **key) - measured_field(ball, noise_ppm=0, **key)) / level  # type: ignore[arg-type]

    assert torch.allclose(noise(), noise(level=0.001, direction=(1, 0, 0)), atol=1e-4)
    for change in ({"index": 2}, {"seed": 4}, {"split": "eval"}):
        assert not torch.allclose(noise(), noise(**change), atol=0.1)


def test_refusals(ball: Brain) -> None:
    for change, said in (({"noise_ppm": -1}, "noise is -1"), ({"split": "all"}, "split 'all'"), ({"direction": (0, 0, 0)}, "not all 0")):
        with pytest.raises(InputError, match=said):
            measured_field(ball, **{"noise_ppm": 0.0, **KEY, **change})  # type: ignore[arg-type]
