"""Resize and centre-crop: the one way in which pictures and clips are brought to the size that a checkpoint samples at."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from calotype.errors import InputError
from calotype.imaging.types import Image

LARGEST = 2.0
"""Sides of the largest pictures that a network looks at, in sides of those that it was trained on (`working_size`)."""


def fit(image: Image, size: tuple[int, int]) -> Image:
    """Resize so that the picture covers `size`, then cut the middle out of it. Every picture of that shape is cut alike.

    Args:
        image: any size, values in [0, 1].
        size: (height, width) in pixels.

    Returns:
        An image of exactly that size, values in [0, 1]; the same object if it has that size already.

    Example:
        >>> import torch
        >>> fit(Image(torch.rand(3, 40, 100)), (32, 32)).size
        (32, 32)
    """
    if image.size == tuple(size):
        return image
    return Image(fit_pixels(image.pixels[None], size)[0])


def fit_pixels(pixels: Float[Tensor, "batch 3 height width"], size: tuple[int, int]) -> Float[Tensor, "batch 3 new_height new_width"]:
    """`fit` for a stack of pictures or frames of one shape.

    Raises:
        InputError: a side of `size` is not positive.
    """
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"size {height}x{width} was given; both sides must be at least 1 px")
    old_height, old_width = pixels.shape[-2:]
    if (old_height, old_width) == (height, width):
        return pixels
    scale = max(height / old_height, width / old_width)
    resized_height, resized_width = max(height, round(old_height * scale)), max(width, round(old_width * scale))
    resized = resize_pixels(pixels, (resized_height, resized_width))
    top, left = (resized_height - height) // 2, (resized_width - width) // 2
    return resized[..., top : top + height, left : left + width].contiguous()


def working_size(size: tuple[int, int], trained: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Height and width at which a network of any resolution looks at a picture: its own, within one to four times the area trained at.

    Args:
        size: of the picture.
        trained: of the pictures that the network was trained on.
        multiple: what both sides must be multiples of; they are rounded to the nearest ones.

    Example:
        >>> working_size((480, 640), (512, 512), 64), working_size((3000, 4000), (512, 512), 64), working_size((100, 50), (128, 128), 16)
        ((512, 640), (896, 1152), (176, 96))
    """
    least = (trained[0] * trained[1] / (size[0] * size[1])) ** 0.5
    scale = min(max(1.0, least), LARGEST * least)
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return height, width


def resize_pixels(pixels: Float[Tensor, "*batch 3 height width"], size: tuple[int, int]) -> Float[Tensor, "*batch 3 new_height new_width"]:
    """Pictures as a whole at another size, nothing cut off: bicubic, averaged where it shrinks, values in [0, 1]."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    stacked = pixels.reshape(-1, *pixels.shape[-3:])
    # Antialiased bicubic overshoots at edges, so the range is restored.
    resized: Tensor = F.interpolate(stacked, size=tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
    return resized.reshape(*pixels.shape[:-2], *size)


def fit_note(name: str, old: tuple[int, int], new: tuple[int, int]) -> str:
    """The line that tells the user what `fit` did.

    Example:
        >>> fit_note("start", (480, 640), (64, 64))
        'start: 640x480 px resized to 64x64, 25 % of it cut off at the sides'
    """
    (height, width), (new_height, new_width) = old, new
    scale = max(new_height / height, new_width / width)
    lost = 1 - (new_height * new_width) / (height * scale * width * scale)
    where = "sides" if width * new_height > height * new_width else "top and bottom"
    text = f"{name}: {width}x{height} px resized to {new_width}x{new_height}"
    return f"{text}, {lost * 100:.0f} % of it cut off at the {where}" if lost >= 0.005 else text
