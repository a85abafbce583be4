"""What a user gives Click to Grasp as text: pixels to click on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from calotype.errors import InputError

_CLICK = re.compile(r"\s*(\d{1,5}(?:\.\d{1,6})?)\s*,\s*(\d{1,5}(?:\.\d{1,6})?)\s*")


def read_click(text: str, size: tuple[int, int] | None = None, name: str = "click") -> tuple[float, float]:
    """A pixel `X,Y`, as drawing programs number them from 0 at the top left, as the place of its middle.

    Args:
        text: what was given.
        size: height and width of the picture in pixels; None where it isn't known yet.
        name: what messages call it.

    Returns:
        (x, y) from the outer corner of the top left pixel: half a pixel more.

    Raises:
        InputError: no such pixel.

    Example:
        >>> read_click("212,148", (256, 256))
        (212.5, 148.5)
        >>> read_click("212,300", (256, 256))
        Traceback (most recent call last):
        calotype.errors.InputError: click 212,300 is outside of the picture, which has 256x256 px (x from 0 to 255, y from 0 to 255)
    """
    found = _CLICK.fullmatch(text)
    if found is None:
        raise InputError(f"{name} {text!r} is no pixel; write X,Y from the top left, such as 212,148")
    x, y = float(found[1]), float(found[2])
    if size is not None and not (x <= size[1] - 1 and y <= size[0] - 1):
        raise InputError(
            f"{name} {text.strip()} is outside of the picture, which has {size[1]}x{size[0]} px (x from 0 to {size[1] - 1}, y from 0 to"
            f" {size[0] - 1})"
        )
    return x + 0.5, y + 0.5


def read_negatives(texts: Sequence[str], size: tuple[int, int] | None = None) -> tuple[tuple[float, float], ...]:
    """Pixels that are not meant, as `read_click`."""
    return tuple(read_click(text, size, "negative") for text in texts)
