"""What is checked of every file before a decoder sees it: that it exists, is a plain file, is not empty; and what it seems to be."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import numpy as np

from calotype.core.fields import MIN_SIDE
from calotype.errors import InputError

MAX_PIXELS = 64_000_000
"""Most pixels of a picture that are accepted; the header's figure is checked before anything is decoded."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (4, b"ftypheic", "a HEIC picture"),
    (4, b"ftypheix", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (0, b"#EXTM3U", "a playlist"),
    (0, b"ffconcat", "a list of files"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM clip"),
    (4, b"ftyp", "an MP4 or QuickTime clip"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<!DOCTYPE html", "a web page"),
    (0, b"<html", "a web page"),
)

_PICTURES = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP",
    b"\xff\x4f\xff\x51",
    b"qoif",
    b"DDS ",
    b"\x93NUMPY",
)
_FILMS = (b"\x1aE\xdf\xa3", b"\x30\x26\xb2\x75", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\x06\x0e\x2b\x34", b"DKIF")
"""First bytes of Matroska, ASF, FLV, Ogg, MPEG, MXF and IVF; AVI's are RIFF."""


def plain_file(path: str | os.PathLike[str], name: str = "file") -> Path:
    """The path of a plain, non-empty, readable file.

    Raises:
        InputError: nothing is there, it is a folder, a pipe or a device, it is empty, or it may not be read.

    Example:
        >>> plain_file("/dev/null", "start")
        Traceback (most recent call last):
        calotype.errors.InputError: start: /dev/null is not a regular file; give the path of a file on disk
    """
    resolved = Path(os.path.expanduser(path))
    try:
        status = resolved.stat()
    except FileNotFoundError:
        raise InputError(f"{name}: {resolved} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {resolved} can't be opened ({_reason(error)}); check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name}: {resolved} is a folder; give the path of one file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: {resolved} is not a regular file; give the path of a file on disk")
    if status.st_size == 0:
        raise InputError(f"{name}: {resolved} is empty (0 bytes); save or copy it again")
    if not os.access(resolved, os.R_OK):
        raise InputError(f"{name}: {resolved} may not be read; change its permissions")
    return resolved


def mapped_array(path: Path, name: str) -> np.ndarray:
    """The array of a .npy file, mapped into memory: what its header promises takes none before it is there.

    Raises:
        InputError: it is damaged, holds objects, or nothing.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:
        # The header is Python source, and damage to it comes out as whatever numpy's parser and tokenizer raise.
        raise InputError(f"{name}: {path} is damaged, or holds objects and not numbers; save it again with numpy.save") from None
    if not array.size:
        raise InputError(f"{name}: {path} has the shape {list(array.shape)}, which holds nothing; save it again with numpy.save")
    return array


def seems_to_be(path: Path) -> str:
    """What the first bytes of a file that no decoder takes look like, for the message; "" if nothing is known."""
    with path.open("rb") as file:
        head = file.read(64)
    for offset, signature, meaning in _SIGNATURES:
        if head[offset:].lower().startswith(signature.lower()):
            return meaning
    if b"<svg" in head:
        return "an SVG drawing"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "a text file"
    return ""


def is_clip(path: Path) -> bool:
    """Whether a file is a film: by its first bytes where they say it, else by asking PyAV."""
    with path.open("rb") as file:
        head = file.read(32)
    if head[4:8] == b"ftyp":
        return head[8:12] not in (b"heic", b"heix", b"mif1", b"avif", b"avis")
    if any(head.startswith(signature) for signature in _PICTURES) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return False
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot") or any(head.startswith(signature) for signature in _FILMS):
        return True
    from calotype.imaging.media import open_film

    container = open_film(path)
    if container is None:
        return False
    with container:
        return bool(container.streams.video)


def check_size(width: int, height: int, name: str, path: Path | None = None) -> None:
    """Refuse pictures that are too small or too large, by what their header says.

    Raises:
        InputError: a side below 16 px, or more than 64 megapixels.
    """
    subject = f"{name}: {path}" if path is not None else f"{name}: the picture"
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{subject} has {width}x{height} = {width * height / 1e6:.0f} megapixels, at most 64 are read; make it smaller first"
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{subject} is {width}x{height} px, each side needs at least {MIN_SIDE}; give a larger picture")


def _reason(error: Exception) -> str:
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)


FRAME_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm"))
"""Endings of the pictures in a folder of frames."""


def frame_files(folder: Path) -> list[Path]:
    """The pictures that lie in a folder, in the order of their numbers: frame2 before frame10.

    Names with a dot before them are notes of a file manager, such as macOS leaves beside every file.
    """
    found = (file for file in folder.iterdir() if file.suffix.lower() in FRAME_SUFFIXES and not file.name.startswith("."))
    return sorted(
        found,
        key=lambda file: [(part.isdigit(), int(part) if part.isdigit() else 0, part.lower()) for part in re.split(r"(\d+)", file.name)],
    )
