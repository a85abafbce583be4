"""Windows at random places of pictures, with their masks where they have some: what a network smaller than the pictures is trained on."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from calotype.data.segmentation_folder import told_size
from calotype.errors import InputError

COUNT = 1_000_000
"""Different windows of a data set."""
_KEPT_BYTES = 512_000_000
_MOST_PLACES = 1 << 16
"""Cells of a class that a window may be drawn around."""


class Pictures(Protocol):
    """What windows are cut out of: `image`, and `mask` where there is one."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]: ...
    def __len__(self) -> int: ...
    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]: ...
    def split(self, share: float, seed: int) -> tuple[Self, Self]: ...


class SegmentationWindows:
    """Windows at random places of pictures, as a data set; a window's number says where it lies.

    The pictures take turns. Where they have masks, a share of the windows (`foreground`) has its middle near a pixel of a foreground class,
    each class that the picture holds with the same chance. Decoded pictures are kept in memory up to half a gigabyte.

    Args:
        pictures: a folder or tensors.
        window: sides.
        foreground: share, 0 to 1.
        stream: two numbers that, with a window's own, its place is drawn from.

    Raises:
        InputError: a picture is smaller than the window.

    Example:
        >>> from calotype.data.segmentation_folder import SegmentationTensors
        >>> data = SegmentationTensors(torch.rand(2, 1, 20, 24), torch.zeros(2, 20, 24, dtype=torch.int64), ("a", "b"))
        >>> windows = SegmentationWindows(data, (16, 16))
        >>> {name: tuple(values.shape) for name, values in windows.rows([0, 7, 9]).items()}
        {'image': (3, 1, 16, 16), 'mask': (3, 16, 16)}
    """

    def __init__(self, pictures: Pictures, window: Sequence[int], *, foreground: float = 0.5, stream: tuple[int, int] = (0, 0)) -> None:
        self.pictures, self.window, self.foreground, self.stream = pictures, tuple(window), foreground, stream
        for sides in pictures.sizes:
            if len(sides) != len(self.window) or any(side < want for side, want in zip(sides, self.window, strict=True)):
                raise InputError(f"data: a picture of {told_size(sides)} has no window of {told_size(self.window)}; take a smaller window")
        self._kept: OrderedDict[int, tuple[dict[str, Tensor], list[Tensor]]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return COUNT

    @property
    def fingerprint(self) -> str:
        """Of the pictures and the windows' rule."""
        rule = json.dumps([self.pictures.fingerprint, self.window, self.foreground])
        return hashlib.sha256(rule.encode()).hexdigest()

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """`image` [rows, C, *window] and, where there are masks, `mask` [rows, *window]."""
        made = [self._cut(index) for index in indices]
        return {name: torch.stack([one[name] for one in made]) for name in made[0]}

    def split(self, share: float, seed: int = 0) -> tuple[SegmentationWindows, SegmentationWindows]:
        """Windows of the pictures for training, and of those that are held out."""
        train, held_out = self.pictures.split(share, seed)
        return (
            SegmentationWindows(train, self.window, foreground=self.foreground, stream=(0, seed)),
            SegmentationWindows(held_out, self.window, foreground=self.foreground, stream=(1, seed)),
        )

    def _cut(self, number: int) -> dict[str, Tensor]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.stream, number, 82])))
        order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.stream, number // len(self.pictures), 83])))
        whole, places = self._read(int(order.permutation(len(self.pictures))[number % len(self.pictures)]))
        sides = whole["image"].shape[1:]
        room = np.array(sides) - np.array(self.window)
        corner = (generator.random(len(sides)) * (room + 1)).astype(int)
        chosen, place, shift = generator.random(2), generator.random(), generator.random(len(sides))
        if places and chosen[0] < self.foreground:
            marked = places[int(chosen[1] * len(places))]
            middle = marked[int(place * len(marked))].numpy() - np.array(self.window) * (0.25 + 0.5 * shift)
            corner = np.clip(np.rint(middle).astype(int), 0, room)
        for axis, (first, side) in enumerate(zip(corner, self.window, strict=True)):
            whole = {name: values.narrow(axis - len(self.window), int(first), side) for name, values in whole.items()}
        return whole

    def _read(self, number: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """A picture with its mask, and the cells of each foreground class that it holds."""
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        whole = {name: values[0] for name, values in self.pictures.rows([number]).items()}
        self._kept[number] = whole, _places(whole["mask"]) if "mask" in whole else []
        self._bytes += _bytes(whole)
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1][0])
        return self._kept[number]


def _places(mask: Tensor) -> list[Tensor]:
    """The cells of each class but 0, evenly spaced ones where there are very many."""
    found = [(mask == value).nonzero() for value in torch.unique(mask) if value]
    return [cells[:: 1 + len(cells) // _MOST_PLACES].clone() for cells in found]


def _bytes(whole: Mapping[str, Tensor]) -> int:
    return sum(values.element_size() * values.numel() for values in whole.values())
