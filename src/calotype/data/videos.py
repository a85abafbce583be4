"""Clips of the user: films, animated pictures and folders of frames become a `Video`."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image as Pillow
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.files import check_size, is_clip, plain_file, seems_to_be
from calotype.data.films import Shown
from calotype.data.fitting import fit_note, fit_pixels
from calotype.data.images import decoded, read_image
from calotype.errors import InputError, ShapeError
from calotype.imaging.boundary import refusing
from calotype.imaging.media import open_film
from calotype.imaging.types import Image, Video

VideoLike: TypeAlias = Video | str | os.PathLike[str] | Tensor
"""What every call takes for a clip."""
MAX_PIXELS = 200_000_000
"""Most pixels of a whole clip (frames x height x width, as they are kept) that are read: 2.4 GB as float32 colours, which reading holds
once, beside a few frames."""
_SHORTER = "read less of it (--max-frames, --stride, --start), or give a smaller --height and --width"
_UNDECODED = "it can't be decoded (damaged or truncated): save or copy it again"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm"}


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
        for name, least in (("start", 0), ("stride", 1), ("max_frames", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be {least} or more")

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


def read_video(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    num_frames: int | None = None,
    max_frames: int | None = None,
    start: int = 0,
    stride: int = 1,
    cover: tuple[int, int] | None = None,
    fps: float | None = None,
    name: str = "video",
    events: Events = SILENT,
) -> Video:
    """Read a clip as players show it: upright, with square pixels, transparency over white.

    Args:
        path: a film (any container that PyAV opens: MP4, QuickTime, WebM, Matroska, AVI, MPEG, MXF), an animated GIF, WebP or PNG, or a
            folder of numbered pictures.
        size: (height, width) to resize and centre-crop the frames to, each as soon as it is decoded.
        num_frames: exactly that many frames are needed and read.
        max_frames: at most that many are read.
        start: frames that are left out at the beginning.
        stride: every so many frames one is read.
        cover: (height, width) that larger frames are shrunk to, as soon as they are decoded, as far as both sides stay as long.
        fps: frames per second, in place of what the file says (a folder says nothing: 8).
        name: what messages call it.
        events: hears a note for every conversion, and may cancel between two frames.

    Raises:
        InputError: nothing there, empty, undecodable, no frames, too few frames, frames too small or too large, or too many of them.
    """
    source = Path(os.path.expanduser(path))
    excerpt = Excerpt(start=start, stride=stride, max_frames=num_frames if max_frames is None else max_frames, size=size, cover=cover)
    if source.is_dir():
        frames, rate = _read_folder(source, excerpt, name, events), 8.0
    else:
        source = plain_file(source, name)
        frames, rate = (_read_film if is_clip(source) else _read_animation)(source, excerpt, name, events)
    if num_frames is not None and frames.shape[0] < num_frames:
        raise InputError(f"{name}: {source} has {frames.shape[0]} frames, {num_frames} are needed; give a longer clip or ask for fewer")
    return Video(frames, fps if fps is not None else rate / stride)


def as_video(
    value: VideoLike,
    *,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    start: int = 0,
    stride: int = 1,
    cover: tuple[int, int] | None = None,
    fps: float = 8.0,
    name: str = "video",
    events: Events = SILENT,
) -> Video:
    """Whatever a caller has for a clip, as a `Video`.

    Args:
        value: a `Video`, a path, or a tensor [F, 3, H, W] with values in [0, 1].
        size: (height, width) to resize and centre-crop the frames to.
        max_frames, start, stride, cover: how a *file* is read, see `read_video`; a `Video` or a tensor is taken whole.
        fps: frames per second of a tensor.

    Raises:
        InputError: a file that is refused.
        ShapeError: a tensor of another shape or range.
    """
    if isinstance(value, str | os.PathLike):
        return read_video(value, size=size, max_frames=max_frames, start=start, stride=stride, cover=cover, name=name, events=events)
    if isinstance(value, Tensor):
        if value.ndim != 4 or value.shape[1] != 3:
            raise ShapeError(f"{name}: a tensor of shape {list(value.shape)} was given; a clip is [frames, 3, height, width]")
        value = Video(value.detach().float().cpu(), fps)
    if not isinstance(value, Video):
        raise InputError(f"{name}: a {type(value).__name__} was given; a clip is a path, a Video or a tensor [frames, 3, height, width]")
    if not all(bool(torch.isfinite(frame).all()) for frame in value.frames):
        raise InputError(f"{name}: some of its values are NaN or infinite; replace them first")
    if size is None or tuple(value.frames.shape[-2:]) == tuple(size):
        return value
    events.note(fit_note(name, (value.frames.shape[-2], value.frames.shape[-1]), size))
    return Video(torch.cat([fit_pixels(part, size) for part in torch.split(value.frames, 16)]), value.fps)


def measure_clip(path: str | os.PathLike[str], name: str = "video", events: Events = SILENT) -> tuple[int, int, int]:
    """Decode a film or an animated picture to its end, one frame at a time, and keep none.

    Returns:
        How many frames it has, their height and their width as they are shown.

    Raises:
        InputError: it is refused, or can't be decoded to its end.
    """
    source = plain_file(path, name)
    if not is_clip(source):
        frames, _ = _read_animation(source, Excerpt(), name, events)
        return frames.shape[0], frames.shape[-2], frames.shape[-1]
    first = first_frame(source, name, events)
    container = open_film(source)
    count = 0
    if container is not None:
        with container, refusing(f"{name}: {source}", _UNDECODED):
            for _ in container.decode(video=0):
                events.check()
                count += 1
    return count, *first.size


def first_frame(path: Path, name: str, events: Events = SILENT) -> Image:
    """The first frame of a film.

    Raises:
        InputError: it can't be decoded.
    """
    frames, _ = _read_film(path, Excerpt(max_frames=1), name, events)
    return Image(frames[0])


class _Frames:
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
        _check_length(max(self.expected, self.count + 1), height, width, self.name, self.path)
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


def _read_film(path: Path, excerpt: Excerpt, name: str, events: Events) -> tuple[Tensor, float]:
    container = open_film(path)
    if container is None:
        kind = seems_to_be(path)
        raise InputError(f"{name}: {path} {f'is {kind} that ' if kind else ''}can't be decoded; save it as MP4")
    # Streams of a codec that isn't known lack half of what a stream has, and decoders of many formats have each their own errors.
    with container, refusing(f"{name}: {path}", _UNDECODED):
        if not container.streams.video:
            raise InputError(f"{name}: {path} holds no pictures (sound only?); give a clip with a picture track")
        stream = container.streams.video[0]
        check_size(stream.width, stream.height, name, path)
        shown = Shown(stream, name, events)
        # The file names the shape of its pixels too: a small picture may be shown ten times as wide.
        check_size(shown.size[1], shown.size[0], name, path)
        _check_length(excerpt.count(stream.frames or 0), *excerpt.kept(shown.size), name, path)
        frames = _Frames(excerpt.count(stream.frames or 0), excerpt, name, path, events)
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


def _read_animation(path: Path, excerpt: Excerpt, name: str, events: Events) -> tuple[Tensor, float]:
    read_image(path, name=name)
    durations = []
    with decoded(path, name) as picture, refusing(f"{name}: {path}", _UNDECODED):
        count = int(getattr(picture, "n_frames", 1)) if picture is not None else 1
        if picture is None or count < 2:
            frames = _Frames(1, excerpt, name, path, events)
            frames.add(read_image(path, name=name).pixels)
            return frames.frames(), 8.0
        _check_length(excerpt.count(count), *excerpt.kept((picture.height, picture.width)), name, path)
        frames = _Frames(excerpt.count(count), excerpt, name, path, events)
        for index in range(count):
            events.check()
            picture.seek(index)
            picture.load()
            durations.append(float(picture.info.get("duration", 0) or 0))
            if excerpt.takes(index):
                opaque = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
                frames.add(Image.from_pil(opaque.convert("RGB")).pixels)
            if frames.full:
                break
    if len(set(durations)) > 1:
        events.note(f"{name}: its frames last {min(durations):g} to {max(durations):g} ms; the mean is used")
    mean = sum(durations) / len(durations)
    return frames.frames(), 1000 / mean if mean > 0 else 8.0


def _read_folder(folder: Path, excerpt: Excerpt, name: str, events: Events) -> Tensor:
    # Names with a dot before them are notes of a file manager, such as macOS leaves beside every file.
    files = sorted((file for file in folder.iterdir() if file.suffix.lower() in _PICTURES and not file.name.startswith(".")), key=_natural)
    if not files:
        raise InputError(f"{name}: {folder} holds no pictures; a folder of frames has files such as 0001.png, 0002.png")
    chosen = [file for index, file in enumerate(files) if excerpt.takes(index)][: excerpt.max_frames]
    frames = _Frames(len(chosen), excerpt, name, folder, events)
    first: torch.Size | None = None
    for file in chosen:
        events.check()
        pixels = read_image(file, name=name).pixels
        first = first or pixels.shape
        if pixels.shape != first:
            raise InputError(
                f"{name}: {file} is {pixels.shape[2]}x{pixels.shape[1]} px, the first frame is {first[2]}x{first[1]}; make them one size"
            )
        frames.add(pixels)
    events.note(f"{name}: {len(chosen)} frames read from {folder}, in the order of their names")
    return frames.frames()


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part.lower()) for part in re.split(r"(\d+)", path.name)]


def _check_length(frames: int, height: int, width: int, name: str, path: Path) -> None:
    if frames * height * width > MAX_PIXELS:
        raise InputError(f"{name}: {path} is too long ({frames} frames of {width}x{height} px, or more); {_SHORTER}")
