"""Motion that a clip shows, measured by block matching: where the pattern of a window of the first frame lies in later frames.

A window's pattern is followed from frame to frame, so that a periodic pattern (ripples) isn't taken for its neighbour, but it is always
compared with the first frame, so that errors don't add up. Only windows with structure in both directions are used: along a straight edge
the displacement can't be seen (the aperture problem).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

WINDOW = 13
"""Side of a window in pixels."""
REACH = 2.0
"""Largest change of a displacement from one frame to the next that is found, in pixels."""
BLUR = 2.5
"""Standard deviation in pixels of the blur that is taken off: shading that stays where it is isn't motion."""
LEAST_STRUCTURE = 3e-5
"""Smaller eigenvalue of a window's structure tensor from which on its motion can be seen, in 1 / pixel^2."""
LEAST_COVER = 0.75
"""Share of a window that has to lie in the mask."""


def window_places(
    picture: Float[Tensor, "3 height width"],
    mask: Bool[Tensor, "height width"],
    *,
    least: float = LEAST_STRUCTURE,
    step: int = 4,
    window: int = WINDOW,
) -> Float[Tensor, "places 2"]:
    """Centres (x, y) of the windows of a picture in which motion can be seen.

    Args:
        picture: in [0, 1].
        mask: the region whose motion is asked for; three quarters of a window have to lie in it.
        least: see `LEAST_STRUCTURE`; the tensor is the mean outer product of the gradient of `moving_detail`.
        step: between windows, in pixels.
        window: side in pixels, odd.

    Returns:
        Their centres; none where the region is flat.

    Example:
        >>> dots = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> window_places(dots, torch.ones(32, 32, dtype=torch.bool)).shape[1]
        2
    """
    inside = mask.float()[None, None]
    detail = moving_detail(picture[None], mask)
    right = functional.pad(detail[..., 2:] - detail[..., :-2], (1, 1, 0, 0)) / 2
    down = functional.pad(detail[..., 2:, :] - detail[..., :-2, :], (0, 0, 1, 1)) / 2
    known = 1.0 - functional.max_pool2d(1.0 - inside, 3, 1, 1)
    xx, xy, yy = (functional.avg_pool2d(product * known, window, 1) for product in (right**2, right * down, down**2))
    smaller = (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()
    good = (smaller >= least) & (functional.avg_pool2d(inside, window, 1) >= LEAST_COVER)
    centres = (good[0, 0, ::step, ::step].nonzero() * step + window // 2).flip(1)
    return centres.float()


def follow_windows(
    clip: Float[Tensor, "frames 3 height width"],
    mask: Bool[Tensor, "height width"],
    places: Float[Tensor, "places 2"],
    expected: Float[Tensor, "frames 2 height width"] | None = None,
    *,
    window: int = WINDOW,
    reach: float = REACH,
) -> Float[Tensor, "frames places 2"]:
    """How far the pattern of each window of frame 0 has moved in every frame, in pixels (right, down); 0 in frame 0.

    The displacement of the least squared difference over the window's pixels that lie in the mask and, moved, in the picture: searched
    within `reach` of the previous frame's in steps of half a pixel, then of an eighth.

    Args:
        clip: in [0, 1].
        mask: pixels of frame 0 that move.
        places: centres of windows, see `window_places`.
        expected: displacement of each pixel of frame 0 in every frame. What is found is then the displacement that comes on top of it, and
            a field that differs within a window (a river, faster in the middle) deforms the window as it has to.
        window: side in pixels, odd.
        reach: see above.
    """
    detail = moving_detail(clip, mask)[:, 0]
    found = torch.zeros(len(clip), len(places), 2)
    if not len(places):
        return found
    sides = torch.arange(window, dtype=torch.float32) - window // 2
    offsets = torch.stack(torch.meshgrid(sides, sides, indexing="ij")[::-1], -1).reshape(1, -1, 2)
    pixels = places[:, None] + offsets
    weight = _sampled(mask.float(), pixels) > 0.5
    template = _sampled(detail[0], pixels)
    for frame in range(1, len(clip)):
        best, there = found[frame - 1], pixels
        if expected is not None:
            there = pixels + torch.stack([_sampled(part, pixels) for part in expected[frame]], -1)
        for step, far in ((0.5, reach), (0.125, 0.375)):
            best = _best(detail[frame], there, template, weight, best, _lattice(step, far))
        found[frame] = best
    return found


def _best(frame: Tensor, pixels: Tensor, template: Tensor, weight: Tensor, start: Tensor, tried: Tensor) -> Tensor:
    """For each window, of the displacements `start + tried` the one that fits best, [places, 2]."""
    height, width = frame.shape
    candidates = start[:, None] + tried
    moved = pixels[:, None] + candidates[:, :, None]
    seen = (moved >= 0).all(-1) & (moved[..., 0] <= width - 1) & (moved[..., 1] <= height - 1) & weight[:, None]
    error = (_sampled(frame, moved) - template[:, None]).square() * seen
    count = seen.sum(-1)
    enough = count >= LEAST_COVER * weight.sum(-1, keepdim=True)
    mean = torch.where(enough, error.sum(-1) / count.clamp(min=1), torch.inf)
    chosen = mean.argmin(1)
    return candidates[torch.arange(len(pixels)), chosen]


def _lattice(step: float, reach: float) -> Tensor:
    """Displacements on a square lattice, the smallest first, so that nothing moves where nothing is seen."""
    line = torch.arange(-round(reach / step), round(reach / step) + 1) * step
    tried = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return tried[tried.square().sum(1).argsort(stable=True)]


def _sampled(picture: Tensor, places: Tensor) -> Tensor:
    """Bilinear values of a picture [H, W] at places [..., 2] (x, y)."""
    height, width = picture.shape
    scale = torch.tensor([2.0 / (width - 1), 2.0 / (height - 1)])
    grid = (places * scale - 1.0).reshape(1, 1, -1, 2)
    taken = functional.grid_sample(picture[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return taken.reshape(places.shape[:-1])


def moving_detail(
    clip: Float[Tensor, "frames 3 height width"], mask: Bool[Tensor, "height width"]
) -> Float[Tensor, "frames 1 height width"]:
    """Mean of the channels minus its blur within the mask: the pattern, without the shading. 0 outside of the mask."""
    inside = mask.float()[None, None]
    luminance = clip.mean(1, keepdim=True) * inside
    radius = round(3 * BLUR)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / BLUR) ** 2)
    kernel = (line / line.sum()).view(1, 1, -1)

    def blurred(values: Tensor) -> Tensor:
        across = functional.conv2d(values, kernel[:, :, None], padding=(0, radius))
        return functional.conv2d(across, kernel[..., None], padding=(radius, 0))

    return (luminance - blurred(luminance) / blurred(inside).clamp(min=1e-4)) * inside
