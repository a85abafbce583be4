"""Pictures and clips as files, with what made them in their metadata. PIL and PyAV are imported when they are needed."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from calotype.errors import InputError
from calotype.imaging.boundary import refusing
from calotype.imaging.files import atomic_path
from calotype.imaging.nifti import is_nifti, read_comment

if TYPE_CHECKING:
    import PIL.Image
    from av.container import InputContainer

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CLIP_SUFFIXES = (".mp4", ".gif", ".webp")

# Containers that hold their pictures themselves: no playlist, no list of files, no script, no subtitle drawn as pictures.
_CONTAINERS = (
    "3g2", "3gp", "asf", "avi", "dv", "f4v", "flv", "gxf", "ivf", "m4v", "matroska", "mj2", "mov", "mp4", "mpeg", "mpegts", "mpegvideo",
    "mxf", "h264", "hevc", "nut", "obu", "ogg", "rm", "webm", "wtv", "yuv4mpegpipe",
)  # fmt: skip
_MOST_TEXT = 4_000_000
"""Longest entry of metadata that is looked at, in characters."""
_DESCRIPTION = 0x010E
"""Exif's ImageDescription: where WebP files keep the metadata."""
_CRF = 12
"""H.264 quality: errors of about one grey level in smooth pictures, so that a clip survives being read back."""


def save_picture(
    picture: PIL.Image.Image,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    overwrite: bool = False,
    *,
    lossless_only: bool = False,
) -> None:
    """Write PNG (one text chunk per entry of `metadata`), JPEG (comment) or WebP (Exif), by the suffix.

    Raises:
        InputError: another suffix, or the file exists and `overwrite` is false.
    """
    suffixes = (".png", ".webp") if lossless_only else PICTURE_SUFFIXES
    suffix = _check_suffix(path, suffixes, "picture")
    options: dict[str, Any]
    if suffix == ".png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for key, value in metadata.items():
            info.add_itxt(key, value)
        options = {"format": "PNG", "pnginfo": info}
    elif suffix == ".webp":
        options = {"format": "WEBP", "quality": 95, "lossless": lossless_only, **_exif(metadata)}
    else:
        options = {"format": "JPEG", "quality": 95, "subsampling": 0, **_comment(metadata)}
    with atomic_path(path, overwrite) as temporary:
        picture.save(temporary, **options)


def save_clip(
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: float,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    overwrite: bool = False,
) -> None:
    """Write MP4 (H.264, yuv420p, as every player wants it), GIF or animated WebP, by the suffix.

    An odd side is padded by one repeated row or column in MP4, which yuv420p needs.

    Raises:
        InputError: another suffix, or the file exists and `overwrite` is false.
    """
    suffix = _check_suffix(path, CLIP_SUFFIXES, "clip")
    with atomic_path(path, overwrite) as temporary:
        if suffix == ".mp4":
            _write_mp4(frames, fps, temporary, metadata)
        else:
            _write_animation(frames, fps, temporary, metadata, suffix)


def open_film(path: Path) -> InputContainer | None:
    """A film for PyAV, None where the file is none. Nothing but the file itself is read, whatever it names."""
    import av

    try:
        # The name goes in as a file, so that a colon in it is no protocol.
        options = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file"}
        return av.open(f"file:{path}", options=options)
    except Exception:  # Demuxers of many formats, each with its own errors.
        return None


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `save` was given as `metadata`, from a PNG, JPEG, WebP, GIF, MP4 or NIfTI file; empty where there is none.

    Entries of more than 4 million characters are left out: nothing that calotype writes has them.

    Raises:
        InputError: the file is missing or can't be read.
    """
    if not Path(path).is_file():
        raise InputError(f"{os.fspath(path)} is no file; give a file that calotype wrote")
    with refusing(os.fspath(path), "give a file that calotype wrote"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {key: value for key, value in _read(path).items() if len(value) <= _MOST_TEXT}


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    if is_nifti(path):
        return _parse(read_comment(path))
    if Path(path).suffix.lower() == ".mp4":
        container = open_film(Path(path))
        if container is None:
            raise InputError(f"{os.fspath(path)} can't be read as MP4; give a file that calotype wrote")
        with container:
            return _parse(container.metadata.get("comment", ""))
    from PIL import Image as PILImage

    with PILImage.open(path, formats=("PNG", "JPEG", "WEBP", "GIF")) as picture:
        if picture.format == "PNG":
            return {str(key): str(value) for key, value in getattr(picture, "text", {}).items()}
        if picture.format == "WEBP":
            return _parse(str(picture.getexif().get(_DESCRIPTION, "")))
        comment = picture.info.get("comment", b"")
        return _parse(comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment))


def _check_suffix(path: str | os.PathLike[str], suffixes: tuple[str, ...], what: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        given = f"the suffix {suffix}" if suffix else "no suffix"
        raise InputError(f"{os.fspath(path)} has {given}; a {what} is written as {', '.join(suffixes)}")
    return suffix


def _write_mp4(frames: UInt8[np.ndarray, "frames height width 3"], fps: float, path: Path, metadata: Mapping[str, str]) -> None:
    import av

    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if metadata:
            container.metadata["comment"] = _text(metadata)
        # The same clip gives the same bytes: without these, x264's macroblock tree and fast paths differ between runs and machines.
        options = {"crf": str(_CRF), "preset": "medium", "threads": "1", "x264-params": "mbtree=0:cpu-independent=1"}
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Untagged files are shown in other colours by other players, so the matrix is named: BT.709, limited range.
        codec = stream.codec_context
        codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range = 1, 1, 1, 1
        convert: Any = {
            "format": "yuv420p",
            "dst_colorspace": "ITU709",
            "src_color_range": "JPEG",
            "dst_color_range": "MPEG",
            "interpolation": "AREA",
        }
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(**convert)))
        container.mux(stream.encode())


def _write_animation(
    frames: UInt8[np.ndarray, "frames height width 3"], fps: float, path: Path, metadata: Mapping[str, str], suffix: str
) -> None:
    from PIL import Image as PILImage

    pictures = [PILImage.fromarray(frame) for frame in frames]
    options: dict[str, Any]
    if suffix == ".gif":
        # One palette for the whole clip, made from its frames laid side by side: a palette per frame would flicker.
        every = max(1, len(frames) // 16)
        sample_grid = PILImage.fromarray(np.concatenate(list(frames[::every]), axis=1))
        palette = sample_grid.quantize(256, method=PILImage.Quantize.MEDIANCUT)
        pictures = [picture.quantize(palette=palette, dither=PILImage.Dither.FLOYDSTEINBERG) for picture in pictures]
        # GIF counts hundredths of a second, and browsers slow down anything below two of them.
        options = {"format": "GIF", "duration": max(2, round(100 / fps)) * 10, "optimize": False, **_comment(metadata)}
    else:
        options = {"format": "WEBP", "duration": round(1000 / fps), "quality": 95, **_exif(metadata)}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], loop=0, **options)


def _text(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=True)


def _comment(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {"comment": _text(metadata).encode("ascii")} if metadata else {}


def _exif(metadata: Mapping[str, str]) -> dict[str, Any]:
    if not metadata:
        return {}
    from PIL import Image as PILImage

    exif = PILImage.Exif()
    exif[_DESCRIPTION] = _text(metadata)
    return {"exif": exif}


def _parse(text: str) -> dict[str, str]:
    try:
        entries = json.loads(text[:_MOST_TEXT])
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in entries.items()} if isinstance(entries, dict) else {}
