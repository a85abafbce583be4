"""Where things are at a moment of the clip: paths of objects and of the camera as functions of u in [0, 1].

All lengths are in sides of the picture, angles in radians (clockwise on the screen, because y points down).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FAMILIES: tuple[str, ...] = ("straight", "arc", "bounce", "turning", "directed")
"""The motion families; an object may also be `still`."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How an object moves during the clip; `straight`, `arc`, `bounce` and `turning` look the same backwards, `directed` doesn't."""

    family: str = "still"
    """`still`, `straight`, `arc`, `bounce`, `turning` or `directed` (nose-first along its path)."""
    dx: float = 0.0
    """Displacement from the first to the last moment, to the right, in sides."""
    dy: float = 0.0
    """The same, downwards."""
    bend_x: float = 0.0
    """How far the path's middle lies off the straight line, in sides."""
    bend_y: float = 0.0
    """The same, downwards."""
    hops: int = 0
    """Number of hops of a bounce."""
    height: float = 0.0
    """Height of a hop in sides."""
    turn: float = 0.0
    """Angle turned in place, in radians."""

    def offset(self, u: Array) -> tuple[Array, Array]:
        """Displacement (right, down) at the moments `u`, in sides."""
        middle = 4.0 * u * (1.0 - u)
        hop = self.height * np.abs(np.sin(np.pi * self.hops * u)) if self.hops else np.zeros_like(u)
        return self.dx * u + self.bend_x * middle, self.dy * u + self.bend_y * middle - hop

    def turned(self, u: Array) -> Array:
        """Angle turned since the first moment, in radians: a turning object's own, a directed one's change of heading."""
        if self.family != "directed":
            return self.turn * u
        slope = 4.0 * (1.0 - 2.0 * u)
        heading = np.arctan2(self.dy + self.bend_y * slope, self.dx + self.bend_x * slope)
        start = np.arctan2(self.dy + 4.0 * self.bend_y, self.dx + 4.0 * self.bend_x)
        change: Array = (heading - start + np.pi) % (2.0 * np.pi) - np.pi
        return change


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Which part of the world the picture shows: at rest the unit square; (x, y) shift it, `zoom` magnifies about its centre."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0
    pan_x: float = 0.0
    """Shift added during the clip, in sides; the content moves the other way."""
    pan_y: float = 0.0
    zoom_ratio: float = 1.0
    """Magnification at the last moment relative to the first."""

    @property
    def moves(self) -> bool:
        """Whether the view changes during the clip."""
        return self.pan_x != 0.0 or self.pan_y != 0.0 or self.zoom_ratio != 1.0

    def view(self, u: Array) -> tuple[Array, Array, Array]:
        """Centre (x, y) of the view in world coordinates and its magnification at the moments `u`."""
        return 0.5 + self.x + self.pan_x * u, 0.5 + self.y + self.pan_y * u, self.zoom * self.zoom_ratio**u


def moments(num_frames: int) -> Array:
    """The moment u of each frame: 0 for the first, 1 for the last.

    >>> moments(3).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)
