"""Films: which frames are read, and these as players show them: upright, with square pixels, in the colours that they mean."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from calotype.core import fields
from calotype.core.events import SILENT, Events
from calotype.data.files import check_size, seems_to_be
from calotype.data.fitting import fit_note, fit_pixels
from calotype.errors import InputError
from calotype.imaging.boundary import refusing
from calotype.imaging.media import open_film
from calotype.imaging.types import Image

MAX_PIXELS = 200_000_000
"""Most pixels of a whole clip (frames x height x width, as they are kept) that are read: 2.4 GB as float32 colours, which reading holds
once, beside a few frames."""
_SHORTER = "read less of it (--max-frames, --stride, --start), or give a smaller --height and --width"
UNDECODED = "it can't be decoded (damaged or truncated): save or copy it again"
_HD_LINES = 720
"""Untagged pictures of so many lines have BT.709's colours, smaller ones BT.601's: what players assume."""
_UNSPECIFIED = 2
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Which frames of a file are read, and at what size."""

    start: int = 0
    """Frames that are left out at the beginning."""
    stride: int = 1
    """Every so many frames one is taken."""
    max_frames: int | None = None
    """At most so many are taken; None takes all."""
    size: tuple[int, int] | None = None
    """(height, width) that each is resized and centre-cropped to as soon as it is decoded; None keeps its own."""
    cover: tuple[int, int] | None = None
    """(height, width) that larger frames are shrunk to as far as both sides stay as long; nothing is cut off."""

    def __post_init__(self) -> None:
        fields.at_least(self, 0, "start")
        fields.at_least(self, 1, "stride", "max_frames")

    def kept(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which a frame of that size is kept.

        Example:
            >>> Excerpt(cover=(32, 32)).kept((48, 80)), Excerpt(size=(32, 32)).kept((48, 80))
            ((32, 53), (32, 32))
        """
        if self.size is not None or self.cover is None:
            return self.size or size
        scale = max(wanted / side for wanted, side in zip(self.cover, size, strict=True))
        return size if scale >= 1 else (round(size[0] * scale), round(size[1] * scale))

    def takes(self, index: int) -> bool:
        """Whether frame `index` of the file is one of them, as far as start and stride go."""
        return index >= self.start and (index - self.start) % self.stride == 0

    def count(self, frames: int) -> int:
        """How many of so many frames are taken."""
        found = len(range(self.start, frames, self.stride))
        return found if self.max_frames is None else min(found, self.max_frames)


class Shown:
    """Makes pictures of a stream's decoded frames: uint8 [H, W, 3], all of one size.

    Args:
        stream: PyAV's picture stream.
        name: what messages call the clip.
        events: hears a note for every conversion, once.
    """

    def __init__(self, stream: Any, name: str, events: Events) -> None:
        self.name, self.events = name, events
        self._said: set[str] = set()
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        self._aspect = float(aspect) if aspect and 0.1 < float(aspect) < 10 else 1.0
        self.size = (int(stream.height), max(1, round(int(stream.width) * self._aspect)))
        """Height and width of a frame before it is turned."""
        if self._aspect != 1.0:
            self._note(f"its pixels are {aspect.numerator}:{aspect.denominator}, and it is shown {self.size[1]}x{self.size[0]}")
        if {**stream.metadata}.get("alpha_mode", {**stream.metadata}.get("ALPHA_MODE")) == "1":
            self._note("it has transparency in a track of its own, which isn't read")

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        """One frame as a player shows it."""
        height, width = self.size
        if (frame.height, round(frame.width * self._aspect)) != self.size:
            self._note(f"its size changes to {frame.width}x{frame.height}; all frames are shown {width}x{height}")
        if int(frame.color_trc or 0) in _HDR:
            self._note(f"it is HDR ({_HDR[int(frame.color_trc)]}), which is read without tone mapping and looks flat")
        kept = (frame.height, frame.width) == (height, width)
        sides: dict[str, Any] = {} if kept else {"width": width, "height": height, "interpolation": "BICUBIC"}
        if any(part.is_alpha for part in frame.format.components):
            layers = self._converted(frame, "rgba", sides)
            alpha = layers[..., 3:].astype(np.uint16)
            if int(alpha.min()) < 255:
                self._note("its transparency was laid over white")
            pixels = ((layers[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        else:
            pixels = self._converted(frame, "rgb24", sides)
        return np.ascontiguousarray(_turned(pixels, frame))

    def _converted(self, frame: Any, form: str, sides: dict[str, Any]) -> np.ndarray:
        if not frame.format.is_rgb and int(frame.colorspace) == _UNSPECIFIED:
            frame.colorspace = 1 if frame.height >= _HD_LINES else 5
        array: np.ndarray = frame.reformat(format=form, **sides).to_ndarray()
        return array

    def _note(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.events.note(f"{self.name}: {line}")


def _turned(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """The picture as its display matrix places it: the nearest of the eight ways to turn and mirror it."""
    matrix = display_matrix(frame)
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a < 0, d < 0
    else:
        pixels, across, down = pixels.swapaxes(0, 1), c < 0, b < 0
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def display_matrix(frame: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """((a, b), (c, d)) of a frame's display matrix, None where it has none: pixel (x, y) is shown at (a x + c y, b x + d y)."""
    from av.sidedata.sidedata import Type

    for data in frame.side_data:
        if data.type == Type.DISPLAYMATRIX:
            numbers = np.frombuffer(bytes(data), dtype=np.int32)
            if len(numbers) == 9 and (numbers[0] or numbers[1] or numbers[3] or numbers[4]):
                return (int(numbers[0]), int(numbers[1])), (int(numbers[3]), int(numbers[4]))
    return None


def first_frame(path: Path, name: str, events: Events = SILENT) -> Image:
    """The first frame of a film.

    Raises:
        InputError: it can't be decoded.
    """
    frames, _ = read_film(path, Excerpt(max_frames=1), name, events)
    return Image(frames[0])


class Frames:
    """Frames as they come in: in one float32 tensor where their number is known, else as bytes until it is. Too many are refused."""

    def __init__(self, expected: int, excerpt: Excerpt, name: str, path: Path, events: Events) -> None:
        self.expected, self.excerpt, self.name, self.path, self.events = expected, excerpt, name, path, events
        self.held: Tensor | None = None
        self.beyond: list[Tensor] = []
        self.count = 0

    def add(self, pixels: Tensor) -> None:
        """One frame, [3, H, W] in [0, 1]."""
        own = (pixels.shape[-2], pixels.shape[-1])
        size = self.excerpt.kept(own)
        if size != own:
            if not self.count and self.excerpt.size is not None:
                self.events.note(fit_note(self.name, own, size))
            pixels = fit_pixels(pixels[None], size)[0]
        height, width = pixels.shape[-2:]
        check_length(max(self.expected, self.count + 1), height, width, self.name, self.path)
        if self.held is None:
            self.held = torch.empty(self.expected, 3, height, width)
        if self.count < self.expected:
            self.held[self.count] = pixels
        else:
            self.beyond.append((pixels * 255).round().to(torch.uint8))
        self.count += 1

    @property
    def full(self) -> bool:
        """Whether no more are wanted."""
        return self.count == self.excerpt.max_frames

    def frames(self) -> Tensor:
        """All of them, [F, 3, H, W]."""
        if self.held is None:
            skipped = f" after the first {self.excerpt.start}" if self.excerpt.start else ""
            raise InputError(f"{self.name}: {self.path} holds no frames{skipped}; give another clip, or a smaller --start")
        known = min(self.count, self.expected)
        if not self.beyond:
            return self.held[:known]
        made = torch.empty(self.count, *self.held.shape[1:])
        made[:known] = self.held[:known]
        for place in range(known, self.count):
            made[place] = self.beyond[place - known].float().div_(255)
            self.beyond[place - known] = torch.empty(0)
        return made


def read_film(path: Path, excerpt: Excerpt, name: str, events: Events) -> tuple[Tensor, float]:
    container = open_film(path)
    if container is None:
        kind = seems_to_be(path)
        raise InputError(f"{name}: {path} {f'is {kind} that ' if kind else ''}can't be decoded; save it as MP4")
    # Streams of a codec that isn't known lack half of what a stream has, and decoders of many formats have each their own errors.
    with container, refusing(f"{name}: {path}", UNDECODED):
        if not container.streams.video:
            raise InputError(f"{name}: {path} holds no pictures (sound only?); give a clip with a picture track")
        stream = container.streams.video[0]
        check_size(stream.width, stream.height, name, path)
        shown = Shown(stream, name, events)
        # The file names the shape of its pixels too: a small picture may be shown ten times as wide.
        check_size(shown.size[1], shown.size[0], name, path)
        check_length(excerpt.count(stream.frames or 0), *excerpt.kept(shown.size), name, path)
        frames = Frames(excerpt.count(stream.frames or 0), excerpt, name, path, events)
        times: list[float] = []
        index = 0
        for frame in container.decode(video=0):
            events.check()
            if excerpt.takes(index):
                frames.add(torch.from_numpy(shown(frame)).permute(2, 0, 1).float().div_(255))
            if frame.time is not None:
                times.append(float(frame.time))
            index += 1
            if frames.full:
                break
        rate = float(stream.average_rate or stream.guessed_rate or 8)
    if not index:
        raise InputError(f"{name}: {path} holds no frame that can be decoded; save or copy it again")
    return frames.frames(), _mean_rate(times, rate, name, events)


def _mean_rate(times: list[float], rate: float, name: str, events: Events) -> float:
    """Frames per second; where they vary, the mean of those that were read."""
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    if len(gaps) < 2 or min(gaps) <= 0 or max(gaps) < 1.5 * min(gaps):
        return rate if 0 < rate < 1000 else 8.0
    mean = len(gaps) / sum(gaps)
    events.note(f"{name}: its frame rate varies ({1 / max(gaps):.3g} to {1 / min(gaps):.3g} a second); {mean:.4g}, the mean, is used")
    return mean


def check_length(frames: int, height: int, width: int, name: str, path: Path) -> None:
    if frames * height * width > MAX_PIXELS:
        raise InputError(f"{name}: {path} is too long ({frames} frames of {width}x{height} px, or more); {_SHORTER}")
