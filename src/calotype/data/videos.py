"""Clips of the user: films, animated pictures and folders of frames become a `Video`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image as Pillow
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.files import frame_files, is_clip, plain_file
from calotype.data.films import UNDECODED, Excerpt, Frames, check_length, first_frame, read_film
from calotype.data.fitting import fit_note, fit_pixels
from calotype.data.images import decoded, read_image
from calotype.errors import InputError, ShapeError
from calotype.imaging.boundary import refusing
from calotype.imaging.media import open_film
from calotype.imaging.types import Image, Video

VideoLike: TypeAlias = Video | str | os.PathLike[str] | Tensor
"""What every call takes for a clip."""

FOLDER_FPS = 8.0
"""Frames a second of a folder of pictures, which says nothing."""


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
        frames, rate = _read_folder(source, excerpt, name, events), FOLDER_FPS
    else:
        source = plain_file(source, name)
        frames, rate = (read_film if is_clip(source) else _read_animation)(source, excerpt, name, events)
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
    """Decode a film, an animated picture or a folder of frames to its end, one frame at a time, and keep none.

    Returns:
        How many frames it has, their height and their width as they are shown.

    Raises:
        InputError: it is refused, or can't be decoded to its end.
    """
    if Path(path).is_dir():
        return _measure_folder(Path(path), name, events)
    source = plain_file(path, name)
    if not is_clip(source):
        frames, _ = _read_animation(source, Excerpt(), name, events)
        return frames.shape[0], frames.shape[-2], frames.shape[-1]
    first = first_frame(source, name, events)
    container = open_film(source)
    count = 0
    if container is not None:
        with container, refusing(f"{name}: {source}", UNDECODED):
            for _ in container.decode(video=0):
                events.check()
                count += 1
    return count, *first.size


def _read_animation(path: Path, excerpt: Excerpt, name: str, events: Events) -> tuple[Tensor, float]:
    read_image(path, name=name)
    durations = []
    with decoded(path, name) as picture, refusing(f"{name}: {path}", UNDECODED):
        count = int(getattr(picture, "n_frames", 1)) if picture is not None else 1
        if picture is None or count < 2:
            frames = Frames(1, excerpt, name, path, events)
            frames.add(read_image(path, name=name).pixels)
            return frames.frames(), 8.0
        check_length(excerpt.count(count), *excerpt.kept((picture.height, picture.width)), name, path)
        frames = Frames(excerpt.count(count), excerpt, name, path, events)
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


def _measure_folder(folder: Path, name: str, events: Events) -> tuple[int, int, int]:
    sizes = []
    for file in frame_files(folder):
        events.check()
        sizes.append(read_image(file, name=name).size)
        if sizes[-1] != sizes[0]:
            (height, width), (first_height, first_width) = sizes[-1], sizes[0]
            raise InputError(f"{file.name} is {width}x{height} px, the first frame is {first_width}x{first_height}; make them one size")
    return len(sizes), *sizes[0]


def _read_folder(folder: Path, excerpt: Excerpt, name: str, events: Events) -> Tensor:
    files = frame_files(folder)
    if not files:
        raise InputError(f"{name}: {folder} holds no pictures; a folder of frames has files such as 0001.png, 0002.png")
    chosen = [file for index, file in enumerate(files) if excerpt.takes(index)][: excerpt.max_frames]
    frames = Frames(len(chosen), excerpt, name, folder, events)
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
