"""Boxes of parallel jaws."""

from __future__ import annotations

import pytest

from calotype.core.grippers import GRIPPERS, Gripper
from calotype.errors import InputError


@pytest.mark.parametrize("name", GRIPPERS)
def test_the_fingers_leave_the_opening_free_and_the_palm_lies_behind_them(name: str) -> None:
    gripper = GRIPPERS[name]()
    assert gripper.name == name
    for width in (0.0, 0.03, gripper.max_width):
        centres, halves = gripper.boxes(width)
        low, high = centres - halves, centres + halves
        assert float(low[0, 1]) == pytest.approx(width / 2)
        assert float(high[1, 1]) == pytest.approx(-width / 2)
        assert high[:2, 2].tolist() == pytest.approx([gripper.pad_half[1]] * 2)
        assert float(high[2, 2]) == pytest.approx(float(low[0, 2]))
        assert (high[:2, 2] - low[:2, 2]).tolist() == pytest.approx([gripper.finger_length] * 2)


@pytest.mark.parametrize("width", [-0.01, 0.081, float("nan")])
def test_an_opening_that_it_does_not_have_is_refused(width: float) -> None:
    with pytest.raises(InputError, match=r"panda has 0 to 0\.08 m"):
        Gripper.panda().boxes(width)


def test_a_gripper_without_size_is_refused() -> None:
    with pytest.raises(InputError, match="max_width is 0"):
        Gripper(name="none", max_width=0.0, pad_half=(0.01, 0.01), finger_thickness=0.01, finger_length=0.05, palm_half=(0.03, 0.1, 0.03))
