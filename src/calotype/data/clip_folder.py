"""A folder of clips to train on, with or without captions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.folders import FilePart, FolderData, Sample, check_folder
from calotype.data.manifest import Inspection
from calotype.data.videos import FOLDER_FPS, measure_clip, read_video
from calotype.errors import InputError

CLIP_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".gif", ".webp"))


def look_at_clip(path: Path) -> Mapping[str, int]:
    """Frames, height and width of a clip that can be decoded to its end."""
    frames, height, width = measure_clip(path, "file")
    return {"frames": frames, "height": height, "width": width}


CLIPS = FilePart(
    "clip", ("clips", "videos", ""), CLIP_SUFFIXES, Inspection(look_at_clip, frozenset(("frames", "height", "width"))), frames=True
)


@dataclass(frozen=True)
class ExcerptSample(Sample):
    """Some frames of a clip."""

    start: int = 0
    """Number of the first one in the file."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ClipFolder(FolderData):
    """Excerpts of clips: `clip` [B, F, 3, H, W] float32 in [0, 1] and `fps` [B], frames per second of the excerpt.

    A long clip is cut into as many excerpts as fit into it one after the other; all of them belong to its group.
    """

    size: tuple[int, int]
    """(height, width) that each frame is resized and centre-cropped to."""
    num_frames: int
    """F."""
    stride: int = 1
    """Every so many frames one is taken."""
    skip: int = 0
    """Frames of each clip that are left out at its beginning."""

    @staticmethod
    def open(
        folder: str | os.PathLike[str],
        *,
        size: tuple[int, int],
        num_frames: int,
        stride: int = 1,
        skip: int = 0,
        manifest: Path | None = None,
        captions: bool | None = None,
        events: Events = SILENT,
    ) -> ClipFolder:
        """Check a folder of clips as a whole; each is decoded to its end, once.

        Args:
            folder: with the films, animated pictures or folders of frames in `clips/`, in `videos/` or in itself; captions and groups as
                `calotype.data.picture_folder.PictureFolder.open` takes them. `metadata.jsonl` names the files in its column `clip`.
                A folder of frames says no rate: 8 a second are taken, and told.
            size: (height, width) in pixels that the frames are fitted to.
            num_frames: frames of an excerpt.
            stride: every so many frames one is taken.
            skip: frames of each clip that are left out at its beginning.
            manifest: file of what is known of them, outside of the folder; it saves decoding them again.
            captions: true asks for them, false leaves them aside, None takes all or none.
            events: hears how far the check is, and may cancel it.

        Raises:
            DataError: problems of any kind; it has a line for each. A clip that is too short for one excerpt is one.
            InputError: a number of frames or a stride below 1.
        """
        for name, value in (("num_frames", num_frames), ("stride", stride)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        if skip < 0:
            raise InputError(f"skip is {skip}; it must be 0 or more")
        needed = skip + (num_frames - 1) * stride + 1

        told_skip = f" ({skip} are left out)" if skip else ""

        def too_short(rows: Sequence[Sample]) -> list[str]:
            told = [(row.files["clip"].path, row.files["clip"].metadata["frames"]) for row in rows]
            return [f"{path}: {frames} frames, {needed} are needed{told_skip}" for path, frames in told if frames < needed]

        root, rows = check_folder(folder, [CLIPS], manifest=manifest, captions=captions, also=too_short, events=events)
        excerpts = [
            ExcerptSample(row.stem, row.files, row.caption, row.group, row.split, start)
            for row in rows
            for start in range(skip, skip + row.files["clip"].metadata["frames"] - needed + 1, num_frames * stride)
        ]
        folders = sum((root / row.files["clip"].path).is_dir() for row in rows)
        if folders:
            events.note(f"{folders} folders of pictures are read as clips of {FOLDER_FPS:g} frames a second")
        return ClipFolder(root=root, content=tuple(excerpts), size=size, num_frames=num_frames, stride=stride, skip=skip)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"size": self.size, "num_frames": self.num_frames, "stride": self.stride}

    def identity(self, row: Sample) -> list[Any]:
        return [*super().identity(row), _start(row)]

    def read(self, row: Sample) -> dict[str, Tensor]:
        path = self.path(row, "clip")
        clip = read_video(path, size=self.size, num_frames=self.num_frames, start=_start(row), stride=self.stride, name="data")
        return {"clip": clip.frames, "fps": torch.tensor(clip.fps, dtype=torch.float32)}


def _start(row: Sample) -> int:
    return row.start if isinstance(row, ExcerptSample) else 0
