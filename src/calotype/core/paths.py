"""Several denoising paths at one noise level, fused into one denoiser.

A path looks at the sample through a view (turned in time, a window, a layer), is denoised there, and is put back with a weight. Time
reversal fusion's two directions, sliding windows over a long clip and edited layers are all this. Fusing the estimates of x0 equals
fusing the next x of a deterministic first-order step, because such a step is affine in the estimate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Denoiser, at_step
from calotype.core.stepping import StepContext
from calotype.errors import InputError, ShapeError

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
    add_to: Callable[[Tensor, Tensor], None] | None = None
    """`add_to(whole, part)` adds `restore(part)` to `whole` in place, for paths that see a small part of a large sample."""


def fuse(denoise: Denoiser, paths: Sequence[Path], *, max_rows: int | None = None) -> Denoiser:
    """One denoiser out of several paths: D(x) = sum restore(weight * denoise(view(x))) / sum restore(weight).

    The views are stacked on dimension 0, path after path, for one call: the conditions behind `denoise` must have their rows in that order.

    Args:
        denoise: takes [paths * B, ...].
        paths: at least one; together they must cover the sample with positive weight.
        max_rows: at most this many rows in one call (but always a whole path), which bounds the memory of hundreds of windows; each call
            then has the rows of some of the paths, so they need one condition for all. None: everything in one call.

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
    if max_rows is not None and max_rows < 1:
        raise InputError(f"max_rows is {max_rows}; it must be at least 1")
    return _Fused(denoise, paths, max_rows)


@dataclass(frozen=True, eq=False)
class _Fused:
    """See `fuse`."""

    denoise: Denoiser
    paths: Sequence[Path]
    max_rows: int | None
    known: dict[tuple[torch.Size, torch.dtype, torch.device], Tensor] = field(default_factory=dict)
    """The total weight of the last shape."""

    def at(self, step: StepContext) -> _Fused:
        return replace(self, denoise=at_step(self.denoise, step))

    def __call__(self, x: Float[Tensor, "batch ..."], sigma: float) -> Float[Tensor, "batch ..."]:
        paths = self.paths
        views = [path.view(x) for path in paths]
        if len({view.shape for view in views}) != 1:
            raise ShapeError(
                f"the paths see the sample in different shapes, {[tuple(v.shape) for v in views]}; all views must have one shape"
            )
        rows = views[0].shape[0]
        step = len(paths) if self.max_rows is None else max(1, self.max_rows // rows)

        def weighted() -> Iterator[Tensor]:
            for start in range(0, len(paths), step):
                group = paths[start : start + step]
                estimates = self.denoise(torch.cat(views[start : start + step]), sigma).chunk(len(group))
                yield from (path.weight.to(each) * each for path, each in zip(group, estimates, strict=True))

        # Summed in the order of the paths, in the estimates' own type: the result doesn't depend on how the rows were batched.
        whole = _sum(paths, weighted())
        return whole / self._total_weight(whole, x.shape)

    def _total_weight(self, like: Tensor, shape: torch.Size) -> Tensor:
        key = (shape, like.dtype, like.device)
        if key not in self.known:
            total = _sum(self.paths, (path.weight.to(like) for path in self.paths))
            if not bool((total > 0).all()):
                raise InputError("the weights of the paths sum to 0 somewhere; together the paths must cover the whole sample")
            self.known.clear()
            self.known[key] = total
        return self.known[key]


def _sum(paths: Sequence[Path], parts: Iterable[Tensor]) -> Tensor:
    """Sum of restore(part), one part in memory at a time."""
    in_place = all(path.add_to is not None for path in paths)
    remaining = iter(parts)
    total = paths[0].restore(next(remaining))
    for path, part in zip(paths[1:], remaining, strict=True):
        if in_place and path.add_to is not None:
            path.add_to(total, part)
        else:
            total = total + path.restore(part)
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
    ramp = torch.arange(1, size + 1, dtype=torch.float32)
    shape = [1] * rank
    shape[dim] = size
    weight = torch.minimum(ramp, ramp.flip(0)).view(shape)
    return [_box((dim,), (start,), (size,), (length,), weight) for start in _starts(length, size, stride)]


def sliding_windows(size: Sequence[int], window: Sequence[int], overlap: float = 0.25, *, rank: int | None = None) -> list[Path]:
    """Overlapping windows over the last axes, each weighted by a Gaussian about its centre: of pictures, of volumes.

    Give `fuse` a `max_rows`, since there can be hundreds. The standard deviation is an eighth of the window on each axis; weights below
    0.001 are raised to it. The last window along each axis ends at the border. Where the sample is shorter than a window, the window
    shrinks to it: a caller whose network needs certain sizes pads the sample to one of them first.

    Args:
        size: lengths of the sample's last axes.
        window: lengths of a window along them.
        overlap: share of a window that the next one repeats, 0 <= overlap < 1.
        rank: dimensions of the sample; a batch and channels before those axes by default.

    Raises:
        InputError: lengths that don't match or are below 1, or `overlap` out of range.

    Example:
        >>> paths = sliding_windows((40, 20), (32, 32), 0.5)
        >>> [tuple(path.view(torch.zeros(1, 3, 40, 20)).shape[2:]) for path in paths]
        [(32, 20), (32, 20)]
    """
    count = len(size)
    rank = count + 2 if rank is None else rank
    if not count or len(window) != count or min(*size, *window) < 1 or rank < count:
        raise InputError(f"windows of {tuple(window)} over {tuple(size)} were asked for; both must have equally many lengths of at least 1")
    if not 0 <= overlap < 1:
        raise InputError(f"the windows' overlap is {overlap}; it must lie between 0 and 1, below 1")
    sides = tuple(min(side, whole) for side, whole in zip(window, size, strict=True))
    weight = torch.ones(())
    for side in sides:
        offset = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (offset / (side / 8)).square())
    weight = weight.clamp(min=1e-3).view([1] * (rank - count) + list(sides))
    along = [_starts(whole, side, max(1, round(side * (1 - overlap)))) for whole, side in zip(size, sides, strict=True)]
    dims = tuple(range(rank - count, rank))
    return [_box(dims, starts, sides, tuple(size), weight) for starts in itertools.product(*along)]


def _starts(length: int, size: int, stride: int) -> list[int]:
    return [*range(0, length - size, stride), length - size]


def _box(dims: tuple[int, ...], starts: tuple[int, ...], sizes: tuple[int, ...], lengths: tuple[int, ...], weight: Tensor) -> Path:
    """A window along several axes."""

    def view(x: Tensor) -> Tensor:
        for dim, length in zip(dims, lengths, strict=True):
            if x.shape[dim] != length:
                raise ShapeError(f"axis {dim} of the sample has length {x.shape[dim]}; these windows were made for {length}")
        return inside(x)

    def inside(x: Tensor) -> Tensor:
        for dim, start, size in zip(dims, starts, sizes, strict=True):
            x = x.narrow(dim, start, size)
        return x

    def restore(x: Tensor) -> Tensor:
        shape = list(x.shape)
        for dim, length in zip(dims, lengths, strict=True):
            shape[dim] = length
        whole = x.new_zeros(shape)
        inside(whole).copy_(x)
        return whole

    def add_to(whole: Tensor, part: Tensor) -> None:
        inside(whole).add_(part)

    return Path(view, restore, weight, add_to)
