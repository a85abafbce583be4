"""Frames of films as players show them: upright, with square pixels, in the colours that they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

from calotype.core.events import Events

_HD_LINES = 720
"""Untagged pictures of so many lines have BT.709's colours, smaller ones BT.601's: what players assume."""
_UNSPECIFIED = 2
_HDR = {16: "PQ", 18: "HLG"}


class Shown:
    """Makes pictures of a stream's decoded frames: uint8 [H, W, 3], all of one size.

    Args:
        stream: PyAV's picture stream.
        name: what messages call the clip.
        events: hears a note for every conversion, once.
    """

    def __init__(self, stream: Any, name: str, events: Events) -> None:
        self.name, self.events = name, events
        self._said: set[str] = set()
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        self._aspect = float(aspect) if aspect and 0.1 < float(aspect) < 10 else 1.0
        self.size = (int(stream.height), max(1, round(int(stream.width) * self._aspect)))
        """Height and width of a frame before it is turned."""
        if self._aspect != 1.0:
            self._note(f"its pixels are {aspect.numerator}:{aspect.denominator}, and it is shown {self.size[1]}x{self.size[0]}")
        if {**stream.metadata}.get("alpha_mode", {**stream.metadata}.get("ALPHA_MODE")) == "1":
            self._note("it has transparency in a track of its own, which isn't read")

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        """One frame as a player shows it."""
        height, width = self.size
        if (frame.height, round(frame.width * self._aspect)) != self.size:
            self._note(f"its size changes to {frame.width}x{frame.height}; all frames are shown {width}x{height}")
        if int(frame.color_trc or 0) in _HDR:
            self._note(f"it is HDR ({_HDR[int(frame.color_trc)]}), which is read without tone mapping and looks flat")
        kept = (frame.height, frame.width) == (height, width)
        sides: dict[str, Any] = {} if kept else {"width": width, "height": height, "interpolation": "BICUBIC"}
        if any(part.is_alpha for part in frame.format.components):
            layers = self._converted(frame, "rgba", sides)
            alpha = layers[..., 3:].astype(np.uint16)
            if int(alpha.min()) < 255:
                self._note("its transparency was laid over white")
            pixels = ((layers[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        else:
            pixels = self._converted(frame, "rgb24", sides)
        return np.ascontiguousarray(_turned(pixels, frame))

    def _converted(self, frame: Any, form: str, sides: dict[str, Any]) -> np.ndarray:
        if not frame.format.is_rgb and int(frame.colorspace) == _UNSPECIFIED:
            frame.colorspace = 1 if frame.height >= _HD_LINES else 5
        array: np.ndarray = frame.reformat(format=form, **sides).to_ndarray()
        return array

    def _note(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.events.note(f"{self.name}: {line}")


def _turned(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """The picture as its display matrix places it: the nearest of the eight ways to turn and mirror it."""
    matrix = display_matrix(frame)
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a < 0, d < 0
    else:
        pixels, across, down = pixels.swapaxes(0, 1), c < 0, b < 0
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def display_matrix(frame: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """((a, b), (c, d)) of a frame's display matrix, None where it has none: pixel (x, y) is shown at (a x + c y, b x + d y)."""
    from av.sidedata.sidedata import Type

    for data in frame.side_data:
        if data.type == Type.DISPLAYMATRIX:
            numbers = np.frombuffer(bytes(data), dtype=np.int32)
            if len(numbers) == 9 and (numbers[0] or numbers[1] or numbers[3] or numbers[4]):
                return (int(numbers[0]), int(numbers[1])), (int(numbers[3]), int(numbers[4]))
    return None
