"""Several denoising paths at one noise level, fused into one denoiser.

A path looks at the sample through a view (turned in time, a window, a layer), is denoised there, and is put back with a weight. Time
reversal fusion's two directions, sliding windows over a long clip and edited layers are all this. Fusing the estimates of x0 equals
fusing the next x of a deterministic first-order step, because such a step is affine in the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Denoiser
from calotype.core.errors import InputError, ShapeError

WeightKind = Literal["linear", "uniform", "exponential", "smooth"]


@dataclass(frozen=True)
class Path:
    """One way of looking at the sample. `restore(view(x))` puts every value of `view(x)` back where it came from."""

    view: Callable[[Tensor], Tensor]
    """The sample [B, ...] as this path sees it; all paths of one fusion give the same shape."""
    restore: Callable[[Tensor], Tensor]
    """The inverse of `view`, linear; what the path doesn't see becomes 0. It is applied to the weight too."""
    weight: Tensor
    """Weight in the path's own order, >= 0; broadcasts against `view(x)`, and has full length on every axis that `restore` moves."""


def fuse(denoise: Denoiser, paths: Sequence[Path]) -> Denoiser:
    """One denoiser out of several paths: D(x) = sum restore(weight * denoise(view(x))) / sum restore(weight).

    The views are stacked on dimension 0, path after path, for one call: the conditions behind `denoise` must have their rows in that order.

    Args:
        denoise: takes [paths * B, ...].
        paths: at least one; together they must cover the sample with positive weight.

    Returns:
        A denoiser of [B, ...].

    Raises:
        InputError: no path, or a place where the weights sum to 0 (raised at the first call).
        ShapeError: the views differ in shape.

    Example:
        >>> import torch
        >>> w = frame_weights("linear", 3)
        >>> both = fuse(lambda x, sigma: x * 0 + torch.tensor([1.0, 5.0]).view(2, 1, 1, 1, 1), time_reversal(w))
        >>> both(torch.zeros(1, 3, 1, 1, 1), 2.0).flatten().tolist()
        [1.0, 3.0, 5.0]
    """
    if not paths:
        raise InputError("no path was given; fusion needs at least one")

    def fused(x: Float[Tensor, "batch ..."], sigma: float) -> Float[Tensor, "batch ..."]:
        views = [path.view(x) for path in paths]
        if len({view.shape for view in views}) != 1:
            raise ShapeError(
                f"the paths see the sample in different shapes, {[tuple(v.shape) for v in views]}; all views must have one shape"
            )
        estimates = denoise(torch.cat(views), sigma).chunk(len(paths))
        # Summed in the order of the paths, in the estimates' own type: the result doesn't depend on how the rows were batched.
        weights = [path.weight.to(estimates[0]) for path in paths]
        total = _sum([path.restore(weight) for path, weight in zip(paths, weights, strict=True)])
        if not bool((total > 0).all()):
            raise InputError("the weights of the paths sum to 0 somewhere; together the paths must cover the whole sample")
        return _sum([path.restore(w * e) for path, w, e in zip(paths, weights, estimates, strict=True)]) / total

    return fused


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def flip_frames(x: Float[Tensor, "batch frames ..."]) -> Float[Tensor, "batch frames ..."]:
    """Reverse the time axis (dimension 1). Its own inverse."""
    return x.flip(1)


def frame_weights(kind: WeightKind, num_frames: int) -> Float[Tensor, "1 frames 1 1 1"]:
    """Weights of a path along its own frames, which together with their own reversal sum to 1 at every frame.

    - `linear`: 1 at the first frame, falling to 0 at the last (what time reversal fusion uses).
    - `uniform`: 1/2 everywhere.
    - `exponential`: 0.85^i, normalised against its reversal.
    - `smooth`: a cosine from 1 to 0.

    Raises:
        InputError: an unknown kind, or `num_frames` < 1.

    Example:
        >>> frame_weights("linear", 3).flatten().tolist()
        [1.0, 0.5, 0.0]
    """
    if num_frames < 1:
        raise InputError(f"num_frames is {num_frames}; it must be at least 1")
    if num_frames == 1:
        weights = torch.full((1,), 0.5, dtype=torch.float64)
    elif kind == "linear":
        weights = torch.linspace(1, 0, num_frames, dtype=torch.float64)
    elif kind == "uniform":
        weights = torch.full((num_frames,), 0.5, dtype=torch.float64)
    elif kind == "exponential":
        weights = 0.85 ** torch.arange(num_frames, dtype=torch.float64)
        weights = weights / (weights + weights.flip(0))
    elif kind == "smooth":
        weights = torch.cos(torch.linspace(0, torch.pi / 2, num_frames, dtype=torch.float64)) ** 2
    else:
        raise InputError(f"frame weights {kind!r} are unknown; choose one of {', '.join(get_args(WeightKind))}")
    return weights.float().view(1, num_frames, 1, 1, 1)


def time_reversal(weight: Float[Tensor, "1 frames 1 1 1"]) -> tuple[Path, Path]:
    """The two paths of time reversal fusion: forward in time, and backward (turned round, denoised forward, turned back)."""
    return Path(_identity, _identity, weight), Path(flip_frames, flip_frames, weight)


def _identity(x: Tensor) -> Tensor:
    return x


def windows(length: int, size: int, stride: int, *, dim: int = 1, rank: int = 5) -> list[Path]:
    """Overlapping windows over a long axis, each weighted by a triangle that is positive throughout.

    The last window is moved back to end at the axis's end, so all windows have the same size.

    Args:
        length: the axis's length.
        size: length of a window, 1 .. length.
        stride: distance between windows, 1 .. size (a greater one would leave gaps).
        dim: the axis.
        rank: dimensions of the sample.

    Raises:
        InputError: size or stride out of range.
    """
    if not 1 <= size <= length:
        raise InputError(f"the window's size is {size}; it must lie between 1 and the axis's length, {length}")
    if not 1 <= stride <= size:
        raise InputError(f"the windows' stride is {stride}; it must lie between 1 and their size, {size}")
    starts = [*range(0, length - size, stride), length - size]
    ramp = torch.arange(1, size + 1, dtype=torch.float32)
    shape = [1] * rank
    shape[dim] = size
    weight = torch.minimum(ramp, ramp.flip(0)).view(shape)
    return [_window(start, size, length, dim, weight) for start in starts]


def _window(start: int, size: int, length: int, dim: int, weight: Tensor) -> Path:
    def view(x: Tensor) -> Tensor:
        if x.shape[dim] != length:
            raise ShapeError(f"axis {dim} of the sample has length {x.shape[dim]}; these windows were made for {length}")
        return x.narrow(dim, start, size)

    def restore(x: Tensor) -> Tensor:
        shape = list(x.shape)
        shape[dim] = length
        whole = x.new_zeros(shape)
        whole.narrow(dim, start, size).copy_(x)
        return whole

    return Path(view, restore, weight)
