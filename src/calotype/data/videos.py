"""Clips of the user: films, animated pictures and folders of frames become a `Video`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image as Pillow
from PIL import ImageSequence
from torch import Tensor

from calotype.core.errors import InputError, ShapeError
from calotype.core.events import SILENT, Events
from calotype.core.types import Image, Video
from calotype.data.files import check_size, is_clip, plain_file, seems_to_be
from calotype.data.fitting import fit_note, fit_pixels
from calotype.data.images import read_image

if TYPE_CHECKING:
    from av.container import InputContainer

VideoLike: TypeAlias = Video | str | os.PathLike[str] | Tensor
"""What every call takes for a clip."""
MAX_SAMPLES = 64_000_000 * 16
"""Most pixels of a whole clip (frames x height x width) that are read: about 12 GB as float32 colours."""
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm"}


def read_video(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    name: str = "video",
    events: Events = SILENT,
) -> Video:
    """Read a clip.

    Args:
        path: a film (MP4, QuickTime, WebM, Matroska, AVI), an animated GIF, WebP or PNG, or a folder of numbered pictures.
        size: (height, width) to resize and centre-crop the frames to.
        num_frames: read only that many frames from the beginning.
        fps: frames per second, in place of what the file says (a folder says nothing: 8).
        name: what messages call it.
        events: hears a note for every conversion.

    Raises:
        InputError: nothing there, empty, undecodable, no frames, too few frames, frames too small or too large.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        frames, rate = _read_folder(source, num_frames, name, events), 8.0
    else:
        source = plain_file(source, name)
        frames, rate = (_read_film if is_clip(source) else _read_animation)(source, num_frames, name)
    if num_frames is not None and frames.shape[0] < num_frames:
        raise InputError(f"{name}: {source} has {frames.shape[0]} frames, {num_frames} are needed; give a longer clip or ask for fewer")
    if size is not None and tuple(frames.shape[-2:]) != tuple(size):
        events.note(fit_note(name, (frames.shape[-2], frames.shape[-1]), size))
        frames = torch.cat([fit_pixels(part, size) for part in torch.split(frames, 16)])
    return Video(frames, fps if fps is not None else rate)


def as_video(
    value: VideoLike, *, size: tuple[int, int] | None = None, fps: float = 8.0, name: str = "video", events: Events = SILENT
) -> Video:
    """Whatever a caller has for a clip, as a `Video`.

    Args:
        value: a `Video`, a path, or a tensor [F, 3, H, W] with values in [0, 1].
        size: (height, width) to resize and centre-crop the frames to.
        fps: frames per second of a tensor.

    Raises:
        InputError: a file that is refused.
        ShapeError: a tensor of another shape or range.
    """
    if isinstance(value, str | os.PathLike):
        return read_video(value, size=size, name=name, events=events)
    if isinstance(value, Tensor):
        if value.ndim != 4 or value.shape[1] != 3:
            raise ShapeError(f"{name}: a tensor of shape {list(value.shape)} was given; a clip is [frames, 3, height, width]")
        value = Video(value.detach().float().cpu(), fps)
    if not isinstance(value, Video):
        raise InputError(f"{name}: a {type(value).__name__} was given; a clip is a path, a Video or a tensor [frames, 3, height, width]")
    if not bool(torch.isfinite(value.frames).all()):
        raise InputError(f"{name}: some of its values are NaN or infinite; replace them first")
    if size is None or tuple(value.frames.shape[-2:]) == tuple(size):
        return value
    events.note(fit_note(name, (value.frames.shape[-2], value.frames.shape[-1]), size))
    return Video(fit_pixels(value.frames, size), value.fps)


def first_frame(path: Path, name: str) -> Image:
    """The first frame of a film.

    Raises:
        InputError: it can't be decoded.
    """
    frames, _ = _read_film(path, 1, name)
    return Image(frames[0])


def _read_film(path: Path, limit: int | None, name: str) -> tuple[Tensor, float]:
    import av

    damaged = InputError(f"{name}: {path} can't be decoded (damaged or truncated); save or copy it again")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError, OSError):
        kind = seems_to_be(path)
        raise InputError(f"{name}: {path} {f'is {kind} that' if kind else ''} can't be decoded; save it as MP4") from None
    with container:
        if not container.streams.video:
            raise InputError(f"{name}: {path} holds no pictures (sound only?); give a clip with a picture track")
        stream = container.streams.video[0]
        check_size(stream.width, stream.height, name, path)
        _check_length(min(stream.frames or 0, limit or stream.frames or 0), stream.height, stream.width, name, path)
        rate = float(stream.average_rate or stream.guessed_rate or 8)
        frames = []
        try:
            for frame in _decoded(container):
                frames.append(torch.from_numpy(_upright(frame)))
                _check_length(len(frames), stream.height, stream.width, name, path)
                if limit is not None and len(frames) == limit:
                    break
        except (av.FFmpegError, ValueError, OSError):
            raise damaged from None
    if not frames:
        raise damaged
    return _planes(frames), rate


def _decoded(container: InputContainer) -> Iterator[Any]:
    yield from container.decode(video=0)


def _upright(frame: Any) -> Any:
    """The frame as uint8 [H, W, 3], turned as the phone that filmed it noted."""
    import numpy as np

    pixels = frame.to_ndarray(format="rgb24")
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _read_animation(path: Path, limit: int | None, name: str) -> tuple[Tensor, float]:
    read_image(path, name=name)
    frames, durations = [], []
    try:
        with Pillow.open(path) as picture:
            count = int(getattr(picture, "n_frames", 1))
            _check_length(min(count, limit or count), picture.height, picture.width, name, path)
            for index, frame in enumerate(ImageSequence.Iterator(picture)):
                if limit is not None and index == limit:
                    break
                frame.load()
                durations.append(float(frame.info.get("duration", 0) or 0))
                opaque = Pillow.alpha_composite(Pillow.new("RGBA", frame.size, "white"), frame.convert("RGBA"))
                frames.append(Image.from_pil(opaque.convert("RGB")).pixels)
    except (OSError, SyntaxError, ValueError, EOFError):
        raise InputError(f"{name}: {path} is damaged or truncated and can't be decoded; save or copy it again") from None
    mean = sum(durations) / len(durations)
    return torch.stack(frames), 1000 / mean if mean > 0 else 8.0


def _read_folder(folder: Path, limit: int | None, name: str, events: Events) -> Tensor:
    files = sorted((file for file in folder.iterdir() if file.suffix.lower() in _PICTURES), key=_natural)
    if not files:
        raise InputError(f"{name}: {folder} holds no pictures; a folder of frames has files such as 0001.png, 0002.png")
    frames: list[Tensor] = []
    for file in files[:limit]:
        pixels = read_image(file, name=name).pixels
        if frames and pixels.shape != frames[0].shape:
            width, height = frames[0].shape[2], frames[0].shape[1]
            raise InputError(
                f"{name}: {file} is {pixels.shape[2]}x{pixels.shape[1]} px, the first frame is {width}x{height}; make them one size"
            )
        frames.append(pixels)
        _check_length(len(frames), pixels.shape[1], pixels.shape[2], name, folder)
    events.note(f"{name}: {len(frames)} frames read from {folder}, in the order of their names")
    return torch.stack(frames)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part.lower()) for part in re.split(r"(\d+)", path.name)]


def _check_length(frames: int, height: int, width: int, name: str, path: Path) -> None:
    if frames * height * width > MAX_SAMPLES:
        raise InputError(f"{name}: {path} is too long ({frames} frames of {width}x{height} px and more); cut it shorter or make it smaller")


def _planes(frames: list[Tensor]) -> Tensor:
    """uint8 [H, W, 3] frames to float32 [F, 3, H, W] in [0, 1]."""
    return torch.stack(frames).permute(0, 3, 1, 2).float().div_(255).contiguous()
