"""Parallel jaws: two fingers that open along one axis before a palm, as boxes.

In a gripper's own axes the origin is the middle between its two pads, y the axis along which they close, and z the direction in which it
comes, from the palm to the fingertips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.fields import above
from calotype.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """A parallel jaw; all lengths in metres."""

    name: str
    max_width: float
    """Widest opening between the pads."""
    pad_half: tuple[float, float]
    """Half sizes of a pad along x and z."""
    finger_thickness: float
    """Of a finger, along y."""
    finger_length: float
    """From the palm to the fingertips, along z."""
    palm_half: tuple[float, float, float]
    """Half sizes of the palm along x, y and z."""

    def __post_init__(self) -> None:
        above(self, 0.0, "max_width", "finger_thickness", "finger_length")

    @classmethod
    def panda(cls) -> Gripper:
        """Franka's hand: 8 cm. Rounded sizes of the hand and its standard fingers, from memory of its data sheet: measure yours."""
        return cls(
            name="panda",
            max_width=0.08,
            pad_half=(0.01, 0.009),
            finger_thickness=0.014,
            finger_length=0.054,
            palm_half=(0.032, 0.102, 0.033),
        )

    @classmethod
    def wsg50(cls) -> Gripper:
        """Schunk's WSG 50-110: 11 cm. Rounded sizes, from memory of its data sheet; its fingers are exchangeable: measure yours."""
        sizes = {"finger_thickness": 0.012, "finger_length": 0.075}
        return cls(name="wsg50", max_width=0.11, pad_half=(0.01, 0.011), palm_half=(0.025, 0.073, 0.036), **sizes)

    @classmethod
    def wsg50_long(cls) -> Gripper:
        """The same with slim fingers of 12 cm, which reach between the limbs of small things."""
        return replace(cls.wsg50(), name="wsg50-long", pad_half=(0.008, 0.009), finger_thickness=0.009, finger_length=0.12)

    def boxes(self, width: float) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
        """Middles and half sizes of its three boxes in its own axes: the finger at +y, the finger at -y, the palm.

        Args:
            width: opening between the pads, 0 to `max_width`.

        Raises:
            InputError: the width is out of range.

        Example:
            >>> middles, halves = Gripper.panda().boxes(0.04)
            >>> round(float(middles[0, 1] - halves[0, 1]), 4)
            0.02
        """
        if not 0.0 <= width <= self.max_width:
            raise InputError(f"an opening of {width:g} m; {self.name} has 0 to {self.max_width:g} m")
        wide, tip = self.pad_half
        finger, middle = self.finger_length / 2, tip - self.finger_length / 2
        aside = width / 2 + self.finger_thickness / 2
        behind = tip - self.finger_length - self.palm_half[2]
        centres = torch.tensor([[0.0, aside, middle], [0.0, -aside, middle], [0.0, 0.0, behind]])
        halves = torch.tensor([[wide, self.finger_thickness / 2, finger]] * 2 + [list(self.palm_half)])
        return centres, halves


GRIPPERS = {"panda": Gripper.panda, "wsg50": Gripper.wsg50, "wsg50-long": Gripper.wsg50_long}
"""By name."""
