"""Resize and centre-crop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.data import as_image, fit
from calotype.errors import InputError
from calotype.imaging.types import Image
from tests.recorder import Recorder

sides = st.integers(16, 200)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, new_height=sides, new_width=sides)
def test_the_size_is_exact_and_the_range_is_kept(height: int, width: int, new_height: int, new_width: int) -> None:
    fitted = fit(Image(torch.rand(3, height, width).round()), (new_height, new_width))
    assert fitted.size == (new_height, new_width)
    assert 0 <= float(fitted.pixels.min()) <= float(fitted.pixels.max()) <= 1


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, new_height=sides, new_width=sides)
def test_the_middle_stays_in_the_middle_and_both_sides_lose_alike(height: int, width: int, new_height: int, new_width: int) -> None:
    across = torch.linspace(0, 1, width).expand(3, height, width)
    fitted = fit(Image(across.contiguous()), (new_height, new_width)).pixels
    left, right = float(fitted[0, :, 0].mean()), float(1 - fitted[0, :, -1].mean())
    assert left == pytest.approx(right, abs=1.5 / min(width, new_width) + 0.01)


def test_the_same_size_is_the_same_picture() -> None:
    image = Image(torch.rand(3, 32, 48))
    assert fit(image, (32, 48)) is image


def test_what_is_cut_is_told() -> None:
    notes = Recorder()
    as_image(Image(torch.rand(3, 100, 200)), size=(50, 50), name="end", events=notes)
    assert notes.notes == ["end: 200x100 px resized to 50x50, 50 % of it cut off at the sides"]
    as_image(Image(torch.rand(3, 200, 100)), size=(50, 50), name="end", events=notes)
    assert notes.notes[1].endswith("50 % of it cut off at the top and bottom")


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(InputError, match="0x5"):
        fit(Image(torch.rand(3, 32, 32)), (0, 5))
