"""Damaged films and animated pictures."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given

from calotype.data import read_image, read_video
from calotype.imaging.media import read_metadata
from calotype.imaging.types import Video
from tests.data.test_films import film
from tests.fuzz.mutations import damaged, fuzzed, reads_or_refuses

KINDS = {
    "mp4": ("mp4", "libx264", "yuv420p"), "webm": ("webm", "libvpx", "yuv420p"), "mkv": ("matroska", "mpeg4", "yuv420p"),
    "avi": ("avi", "mjpeg", "yuvj420p"), "mov": ("mov", "qtrle", "rgb24"), "ts": ("mpegts", "mpeg2video", "yuv420p"),
    "flv": ("flv", "flv1", "yuv420p"),
}  # fmt: skip


@cache
def seed(kind: str) -> bytes:
    """Four small frames; of MP4 the way in which calotype writes it, metadata included."""
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 48, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        if kind in ("mp4", "gif", "webp"):
            Video(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, 8.0).save(path, metadata={"calotype": "{}"})
        else:
            container, codec, pix_fmt = KINDS[kind]
            film(path, list(frames), codec, pix_fmt, kind=container, rate=25)
        return path.read_bytes()


@pytest.mark.parametrize("kind", [*KINDS, "gif", "webp"])
def test_damaged_clips(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    av.logging.set_level(av.logging.PANIC)

    @fuzzed
    @given(damaged((seed(kind),)))
    def each(data: bytes) -> None:
        path.write_bytes(data)
        reads_or_refuses(lambda: read_video(path))
        reads_or_refuses(lambda: read_image(path))
        reads_or_refuses(lambda: read_metadata(path))

    each()
