"""Phase to field: units, the fit over echoes, wraps."""

from __future__ import annotations

import math

import pytest
import torch

from calotype.errors import InputError, ShapeError
from calotype.methods.qsmdiff.phase import field_from_phase, radians_per_ppm, wrapped_share

SHAPE = (12, 10, 14)
MASK = torch.ones(SHAPE, dtype=torch.bool)


def smooth(seed: int = 0) -> torch.Tensor:
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return 0.2 * (x * y + z**2 - 0.3 * x + 0.1 * seed)


def test_larmor_frequency_of_a_ppm() -> None:
    """1 ppm is 127.7 Hz at 3 T, so 10 ms of it make 1.277 turns."""
    assert math.isclose(radians_per_ppm(0.01, 3) / 2 / math.pi, 1.2773, rel_tol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_field_comes_back_from_its_phase(sign: int) -> None:
    mask, field, times = MASK.clone(), smooth(), [0.004, 0.012, 0.020]
    mask[:2] = False
    phase = torch.stack([sign * radians_per_ppm(time, 7.0) * field for time in times])
    assert torch.allclose(field_from_phase(phase, mask, times, 7.0, sign=sign), field * mask, atol=1e-6)
    assert torch.allclose(field_from_phase(phase[1], mask, times[1:2], 7.0, sign=sign), field * mask, atol=1e-6)


def test_late_echoes_weigh_more() -> None:
    """With equal noise in every echo the fit is the minimum-variance one: sd = noise / sqrt(sum of squared scales)."""
    times, noise = [0.005, 0.010, 0.020], 0.1
    drawn = noise * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = field_from_phase(drawn, MASK, times, 3.0).std()
    expected = noise / math.sqrt(sum(radians_per_ppm(time, 3.0) ** 2 for time in times))
    assert math.isclose(float(found), expected, rel_tol=0.05)


def test_wraps_are_refused_and_noise_is_not() -> None:
    phase = radians_per_ppm(0.02, 3.0) * 2 * smooth()
    wrapped = torch.remainder(phase + math.pi, 2 * math.pi) - math.pi
    assert wrapped_share(phase, MASK) == 0
    assert wrapped_share(wrapped, MASK) > 0.01
    with pytest.raises(InputError, match="the phase is wrapped: "):
        field_from_phase(wrapped, MASK, [0.02], 3.0)
    outside = MASK.clone()
    outside[4:] = False
    spike = phase.clone()
    spike[6, 5, 5] += 20
    assert wrapped_share(spike, outside) == 0
    assert 0 < wrapped_share(spike, MASK) < 0.002
    field_from_phase(spike, MASK, [0.02], 3.0)


def test_refusals() -> None:
    phase = smooth()
    broken = phase.clone()
    broken[3, 3, 3] = math.nan
    for call, said in (
        (lambda: field_from_phase(broken, MASK, [0.02], 3.0), "NaN"),
        (lambda: field_from_phase(phase, MASK, [20.0], 3.0), "in seconds"),
        (lambda: field_from_phase(phase, MASK, [0.02], 300.0), "in tesla"),
        (lambda: field_from_phase(phase, MASK, [0.02], 3.0, sign=2), "sign is 2"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    with pytest.raises(ShapeError, match="2 echo times"):
        field_from_phase(phase, MASK, [0.01, 0.02], 3.0)
    with pytest.raises(ShapeError, match="fit each echo"):
        field_from_phase(phase[1:], MASK, [0.02], 3.0)
    inside = MASK.clone()
    inside[3, 3, 3] = False
    assert torch.isfinite(field_from_phase(broken, inside, [0.02], 3.0)).all()
