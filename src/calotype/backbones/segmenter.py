"""The role `Segmenter`: a picture or a volume to a probability for each class and pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.components import Components
from calotype.backbones.segmenter_network import PictureFacts
from calotype.backbones.source import CheckpointSource
from calotype.core.paths import fuse, sliding_windows
from calotype.errors import InputError, ShapeError

OVERLAP = 0.5
"""Share of a window that the next one repeats."""
ROWS = 16
"""Windows that the network evaluates at once."""


@runtime_checkable
class Segments(Protocol):
    """What every segmenter offers, feed-forward or not."""

    role: str
    name: str
    """The name that it was loaded by."""
    num_classes: int
    """With the background, which is class 0."""
    channels: int
    """Of a picture."""
    window: tuple[int, ...]
    """Sides that it was trained at, two or three."""
    class_values: tuple[int, ...]
    """Each class's value in the masks' files."""
    intensity: Mapping[str, Any]
    """How a file's values become [0, 1]."""

    def segment(self, images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch classes *sides"]:
        """Pictures in [0, 1] to probabilities, which sum to 1 over the classes."""
        ...


class SegmenterAdapter:
    """What the adapters of the role share: the facts of model_index.json, the one network, and how many rows it evaluates at once."""

    role = "Segmenter"

    def __init__(
        self,
        source: CheckpointSource,
        modules: Mapping[str, Any],
        *,
        device: torch.device,
        facts: PictureFacts,
        max_rows: int | None = None,
    ) -> None:
        self.source, self.name, self.device = source, source.name, device
        self.modules, self.facts = dict(modules), facts
        if max_rows is not None and max_rows < 1:
            raise InputError(f"max_rows is {max_rows}; it must be at least 1, or nothing for the model's own bound")
        self.max_rows = max_rows or ROWS
        self.num_classes, self.channels, self.window = facts.num_classes, facts.channels, facts.window
        self.class_values, self.intensity = facts.class_values, facts.intensity

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that have weights."""
        return {"network": self.modules["network"]}

    @property
    def size(self) -> tuple[int, ...]:
        """What the network was trained at: the window."""
        return self.window

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network. A sampler's state is float32 whatever it is."""
        kind: torch.dtype = next(self.modules["network"].parameters()).dtype
        return kind


class FeedForwardSegmenter(SegmenterAdapter):
    """A `SegmenterPipeline` folder (`calotype.backbones.segmenter_network`). See `Segments`.

    Raises:
        InputError: the folder's facts are no window, classes or channels.
    """

    @classmethod
    def from_components(cls, found: Components) -> Self:
        """The model that runs these components."""
        facts = PictureFacts.of_index(found.index)
        return cls(found.source, found.modules, device=found.device, facts=facts, max_rows=found.max_rows)

    @property
    def network(self) -> nn.Module:
        """Gives logits."""
        network: nn.Module = self.modules["network"]
        return network

    @torch.no_grad()
    def segment(self, images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch classes *sides"]:
        """Pictures in [0, 1] to probabilities on the same device, float32.

        A picture that is larger than the window is seen through windows that overlap by half, and their probabilities are averaged with
        Gaussian weights; a smaller one is continued by its border.

        Raises:
            ShapeError: another number of channels or of sides.
        """
        check_pictures(images, self.facts)

        def probabilities(x: Tensor) -> Tensor:
            logits: Tensor = self.network(x.to(self.dtype))
            return logits.float().softmax(1)

        return in_windows(probabilities, images.to(self.device, torch.float32), self.window, max_rows=self.max_rows).to(images.device)


def in_windows(
    probabilities: Callable[[Tensor], Tensor],
    images: Float[Tensor, "batch channels *sides"],
    window: Sequence[int],
    *,
    max_rows: int = ROWS,
) -> Float[Tensor, "batch classes *sides"]:
    """Probabilities of pictures of any size by a function of windows: those of windows that overlap by half, with Gaussian weights.

    Args:
        probabilities: of windows [rows, C, *window]; [rows, K, *window].
        images: a side that is shorter than the window's is continued by its border.
        window: sides.
        max_rows: windows that are evaluated at once.
    """
    padded = pad_to_window(images, window)
    sides = tuple(padded.shape[2:])
    if sides == tuple(window):
        found = torch.cat([probabilities(rows) for rows in padded.split(max_rows)])
    else:
        whole = fuse(lambda x, sigma: probabilities(x), sliding_windows(sides, window, OVERLAP), max_rows=max_rows)
        found = torch.cat([whole(row[None], 0.0) for row in padded])
    return cut_to(found, images.shape[2:])


def check_pictures(images: Tensor, facts: PictureFacts) -> None:
    """Refuse a batch of pictures of another kind than a segmenter was trained on.

    Raises:
        ShapeError: another number of channels or of sides.
    """
    if images.ndim != 2 + facts.spatial_dims or images.shape[1] != facts.channels:
        raise ShapeError(
            f"the pictures have the shape {list(images.shape)}; the segmenter was trained on {facts.channels} channels and "
            f"{facts.spatial_dims} sides: [batch, {facts.channels}, ...]"
        )


def pad_to_window(images: Float[Tensor, "batch channels *sides"], window: Sequence[int]) -> Float[Tensor, "batch channels *padded"]:
    """Pictures continued by their border values, at the end of each side that is shorter than the window's."""
    missing = [max(0, least - side) for side, least in zip(images.shape[2:], window, strict=True)]
    if not any(missing):
        return images
    return functional.pad(images, [size for short in reversed(missing) for size in (0, short)], mode="replicate")


def cut_to(maps: Float[Tensor, "batch classes *padded"], sides: Sequence[int]) -> Float[Tensor, "batch classes *sides"]:
    """What `pad_to_window` put at the ends cut off again."""
    return maps[(slice(None), slice(None), *(slice(side) for side in sides))]
