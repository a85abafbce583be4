"""Gaussian noise that depends on a seed, an item and a purpose, and on nothing else.

Every item has its own CPU generator, so item 3 of a batch can be made alone, on any device. A stream number keeps purposes apart: the
start of sampling, the augmentation of a condition, each re-noising of a run. Nothing is drawn from a global generator, and no state is
kept, so that a resumed run meets the noise that the uninterrupted one would have met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError

START = 0
"""Stream of the noise that sampling starts from: `torch.randn(shape, generator=torch.Generator().manual_seed(seed + index))`."""
AUGMENTATION = 1
"""Stream of the noise that is added to a condition (`noise_aug_strength`)."""
RENOISE = 1 << 20
"""First of the streams for noise during sampling; position p of a run's schedule uses `RENOISE + p`."""

_MASK = (1 << 64) - 1


def generator(seed: int, index: int = 0, *, stream: int = START) -> torch.Generator:
    """The CPU generator of one item.

    Args:
        seed: the run's seed; `seed + index` must lie in 0 .. 2^32 - 1 (PyTorch's CPU generator uses no more bits).
        index: number of the item; item i of seed s is item 0 of seed s + i.
        stream: purpose of the noise, >= 0.

    Raises:
        InputError: a number is out of range.
    """
    number = seed + index
    if not 0 <= number < 1 << 32:
        raise InputError(f"seed + index is {number}; it must lie between 0 and {(1 << 32) - 1}")
    if stream < 0:
        raise InputError(f"stream is {stream}; it must be 0 or more")
    if stream != START:
        # SplitMix64 (Steele et al., 2014) spreads the pair over the 32 bits that the generator keeps.
        number = (number + (stream << 32) + 0x9E3779B97F4A7C15) & _MASK
        number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
        number = (number ^ (number >> 31)) >> 32
    return torch.Generator("cpu").manual_seed(number)


def noise(shape: Sequence[int], seed: int, index: int = 0, *, stream: int = START) -> Float[Tensor, " *shape"]:
    """Standard normal noise for one item.

    Args:
        shape: shape of the item, without a batch dimension.
        seed, index, stream: see `generator`.

    Returns:
        float32 on the CPU.

    Example:
        >>> import torch
        >>> torch.equal(noise((2, 3), seed=7, index=3), batch_noise((2, 3), seed=7, count=5)[3])
        True
    """
    return torch.randn(tuple(shape), generator=generator(seed, index, stream=stream), dtype=torch.float32)


def batch_noise(
    shape: Sequence[int], seed: int, count: int, first_index: int = 0, *, stream: int = START
) -> Float[Tensor, " batch *shape"]:
    """`noise` of the items first_index .. first_index + count - 1, stacked: [count, *shape]."""
    return torch.stack([noise(shape, seed, first_index + i, stream=stream) for i in range(count)])


def renoiser(shape: Sequence[int], seed: int, count: int = 1, first_index: int = 0) -> Callable[[int], Float[Tensor, " batch *shape"]]:
    """What `sample` asks for fresh noise during a run: position -> [count, *shape], a stream of its own for each."""

    def at(position: int) -> Tensor:
        return batch_noise(shape, seed, count, first_index, stream=RENOISE + position)

    return at
