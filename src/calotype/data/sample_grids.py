"""Contact sheets: a clip on one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from calotype.data.fitting import resize_pixels
from calotype.imaging.types import Image, Video


def contact_sheet(video: Video, *, max_frames: int = 16, columns: int | None = None, gap: int = 4, target_width: int = 1280) -> Image:
    """The frames of a clip side by side, first to last, row by row, on white.

    Args:
        video: the clip; of a long one, `max_frames` frames are chosen evenly, the first and the last among them.
        columns: frames a row; by default the number that makes rows equally long, at most eight.
        gap: white pixels between and around the frames.
        target_width: small frames are enlarged by a whole factor up to this width of the sheet, large ones are reduced to it.

    Example:
        >>> import torch
        >>> contact_sheet(Video(torch.zeros(8, 3, 64, 64), 7.0), target_width=600).size
        (72, 548)
    """
    count = min(video.frames.shape[0], max_frames)
    chosen = torch.linspace(0, video.frames.shape[0] - 1, count).round().long()
    frames = video.frames[chosen].detach().float().cpu()
    per_row = columns or _columns(count)
    width = frames.shape[-1]
    room = (target_width - gap * (per_row + 1)) // per_row
    if room >= 2 * width:
        factor = room // width
        frames = frames.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)
    elif room < width and room >= 16:
        height = max(1, round(frames.shape[-2] * room / width))
        frames = F.interpolate(frames, size=(height, room), mode="bicubic", antialias=True).clamp(0, 1)
    rows = math.ceil(count / per_row)
    height, width = frames.shape[-2:]
    sample_grid = torch.ones(3, rows * (height + gap) + gap, per_row * (width + gap) + gap)
    for index, frame in enumerate(frames):
        top = gap + (index // per_row) * (height + gap)
        left = gap + (index % per_row) * (width + gap)
        sample_grid[:, top : top + height, left : left + width] = frame
    return Image(sample_grid)


def rows_sheet(rows: Sequence[Sequence[Image]], *, height: int = 96, gap: int = 4) -> Image:
    """Rows of pictures of any sizes, all brought to one height, on white.

    Example:
        >>> import torch
        >>> rows_sheet([[Image(torch.zeros(3, 48, 48))] * 3, [Image(torch.ones(3, 48, 96))]]).size
        (204, 304)
    """
    shown = [[_of_height(picture.pixels.detach().float().cpu(), height) for picture in row] for row in rows]
    width = max(sum(pixels.shape[-1] + gap for pixels in row) for row in shown) + gap
    sample_grid = torch.ones(3, len(shown) * (height + gap) + gap, width)
    for number, row in enumerate(shown):
        top, left = gap + number * (height + gap), gap
        for pixels in row:
            sample_grid[:, top : top + height, left : left + pixels.shape[-1]] = pixels
            left += pixels.shape[-1] + gap
    return Image(sample_grid)


def _of_height(pixels: Float[Tensor, "3 height width"], height: int) -> Float[Tensor, "3 new_height new_width"]:
    return resize_pixels(pixels, (height, max(1, round(pixels.shape[-1] * height / pixels.shape[-2]))))


def _columns(count: int) -> int:
    if count <= 8:
        return count
    rows = math.ceil(count / 8)
    return math.ceil(count / rows)
