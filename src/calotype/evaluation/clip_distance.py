"""How far the clips of two folders are apart as samples of a distribution, by the features of a video network."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.backbones.clip_features import load_clip_features
from calotype.backbones.i3d import LEAST_FRAMES, SIDE, load_i3d
from calotype.backbones.placement import place
from calotype.core.events import SILENT, Events
from calotype.data.clip_folder import ClipFolder
from calotype.errors import InputError
from calotype.metrics import Distance, frechet_interval, kernel_interval
from calotype.metrics.frechet import GROUPS

TOY = "toy-clip-features"
"""The embedded network, by name; any other name is the file of an I3D."""
LEAST_CLIPS = 2 * GROUPS


@dataclass(frozen=True)
class ClipDistance:
    """Two distances of the same features."""

    name: str
    """What the Frechet distance is called."""
    frechet: Distance
    kernel: Distance
    num_frames: int
    """That were looked at of each clip, from its first on."""
    stride: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "features": self.name,
            "frechet": {"value": self.frechet.value, "corrected": self.frechet.corrected, "error": self.frechet.error},
            "kernel": {"value": self.kernel.value, "error": self.kernel.error},
            "clips": list(self.frechet.counts),
            "dimensions": self.frechet.dimensions,
            "num_frames": self.num_frames,
            "stride": self.stride,
        }


@dataclass(frozen=True)
class _Network:
    name: str
    side: int
    num_frames: int
    features: Callable[[Tensor], Tensor]


def clip_distance(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    features: str = TOY,
    num_frames: int | None = None,
    stride: int = 1,
    device: str = "auto",
    events: Events = SILENT,
) -> ClipDistance:
    """Frechet and kernel distance between the clips of two folders.

    Args:
        first, second: folders of clips, 20 or more each. Of each clip the first frames are looked at, resized and centre-cropped.
        features: `toy-clip-features`, for clips of the toy world; or a safetensors file of I3D: then the Frechet distance is the FVD.
        num_frames: of each clip; by default 8 for the toy network and 16 for I3D, as FVD is usually measured.
        stride: every so many frames one is taken.
        device: of the network.
        events: hears the stages, and a note where the clips are few.

    Returns:
        Both distances with their errors. The Frechet distance is biased by the number of clips: compare only figures of equal numbers, or
        the corrected ones.

    Raises:
        InputError: a folder without enough clips, clips that are too short or can't be read, or a file that is no I3D.
    """
    network = _network(features, num_frames, str(place(device, "float32", None).device))
    count = num_frames or network.num_frames
    one, two = (_features(Path(folder), network, count, stride, events) for folder in (first, second))
    frechet = frechet_interval(one, two)
    if frechet.rank_deficient:
        events.note(
            f"{min(frechet.counts)} clips are few for {frechet.dimensions} features: the Frechet distance depends on their number; give "
            f"more than {frechet.dimensions} for a figure that can be compared with others, or take the kernel distance"
        )
    return ClipDistance(network.name, frechet, kernel_interval(one, two), count, stride)


def _network(features: str, num_frames: int | None, device: str) -> _Network:
    if features == TOY:
        toy = load_clip_features(device=device)
        return _Network("Frechet distance of toy-clip features", 64, 8, toy)
    if num_frames is not None and num_frames < LEAST_FRAMES:
        raise InputError(f"frames is {num_frames}; I3D needs {LEAST_FRAMES} or more")
    i3d = load_i3d(features, device)
    return _Network("FVD (Frechet distance of I3D's logits)", SIDE, 16, i3d.features)


def _features(folder: Path, network: _Network, num_frames: int, stride: int, events: Events) -> Tensor:
    """Of the first excerpt of every clip."""
    data = ClipFolder.open(folder, size=(network.side, network.side), num_frames=num_frames, stride=stride, captions=False, events=events)
    rows = list({sample.stem: number for number, sample in reversed(list(enumerate(data.content)))}.values())[::-1]
    if len(rows) < LEAST_CLIPS:
        raise InputError(f"{folder} has {len(rows)} clips; {LEAST_CLIPS} or more are needed")
    events.stage(f"look at {folder.name}", len(rows))
    made = []
    for row in rows:
        made.append(network.features(data.rows([row])["clip"]))
        events.step()
        events.check()
    return torch.cat(made)
