"""The user's clip and edited frame, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calotype.core.events import SILENT, Events
from calotype.data import as_image, as_video
from calotype.data.videos import VideoLike
from calotype.errors import InputError
from calotype.imaging.types import Image, Video

SAME_SHAPE = 0.03
"""Largest relative difference of two aspect ratios that rounding to whole pixels explains."""


def read_clip(video: VideoLike, excerpt: Mapping[str, Any], events: Events, size: tuple[int, int] | None = None) -> Video:
    """The clip at a size: of a file, the excerpt; of a `Video` or tensor, at most the excerpt's `max_frames`.

    Raises:
        InputError: it can't be read, or has one frame.
    """
    clip = as_video(video, name="video", events=events, size=size, **excerpt)
    max_frames = excerpt.get("max_frames")
    if len(clip) < 2:
        raise InputError("video: it has one frame, and a clip has 2 or more; for a picture use design-edit")
    if max_frames is not None and len(clip) > max_frames:
        events.note(f"video: the first {max_frames} of {len(clip)} frames are used")
        return Video(clip.frames[:max_frames], clip.fps)
    return clip


def check_pair(clip: Video, frame: Image) -> None:
    """Clip and frame must show the same view, or the motion of the one would be put on another place of the other.

    Raises:
        InputError: the edited frame has another aspect ratio.
    """
    (height, width), (clip_height, clip_width) = frame.size, clip.size
    if abs((width / height) / (clip_width / clip_height) - 1) > SAME_SHAPE:
        raise InputError(
            f"edited_first_frame is {width}x{height} px and the clip {clip_width}x{clip_height}, another shape; edit the clip's own"
            f" first frame without cropping it, at {clip_width}x{clip_height} or a multiple"
        )


def check_inputs(arguments: Mapping[str, Any], excerpt: Mapping[str, Any]) -> None:
    """A call's arguments, as far as they are there, before a model is loaded.

    Args:
        arguments: of `AnyV2V.__call__`.
        excerpt: see `read_clip`.

    Raises:
        InputError: they can't be used, or don't fit together.
    """
    frame, clip = arguments.get("edited_first_frame"), arguments.get("video")
    check_choice(frame is not None, str(arguments.get("instruction", "")), arguments.get("editor") is not None)
    if clip is not None:
        read = read_clip(clip, excerpt, SILENT)
        if frame is not None:
            check_pair(read, as_image(frame, name="edited_first_frame"))


def check_choice(framed: bool, instruction: str, editor: bool) -> None:
    """The edit is given as a frame, or as an instruction to an editor.

    Raises:
        InputError: neither, both, or half of the second.
    """
    if framed and (instruction or editor):
        raise InputError("edited_first_frame and an instruction were given; the edit is the one or the other")
    if framed:
        return
    if not instruction and not editor:
        raise InputError("edited_first_frame is missing: give the clip's first frame after the edit, or instruction and editor")
    if not editor:
        raise InputError("editor is missing: an instruction needs an InstructPix2Pix checkpoint; give one, or an edited frame instead")
    if not instruction.strip():
        raise InputError("instruction is empty; say what the editor should change, such as 'make it snowy'")
