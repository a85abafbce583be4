"""Writing files so that a killed run leaves either the whole file or none."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calotype.core.errors import InputError


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Say so before the work starts that a result would have to overwrite `path`.

    Raises:
        InputError: `path` exists.
    """
    if os.path.lexists(path):
        raise InputError(f"{os.fspath(path)} exists already; choose another name or pass overwrite (--overwrite on the command line)")


def file_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix in small letters, of compressed files with the one before.

    Example:
        >>> file_suffix("brain.nii.gz"), file_suffix("A.PNG")
        ('.nii.gz', '.png')
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


MOST_STEM_BYTES = 120
"""Longest stem made from a word. File systems take names of 255 bytes, of which suffixes and temporary names need their part."""
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))})


def file_stems(labels: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """A file name without suffix for each label, readable, and different from the others on every file system.

    Letters, digits, `_` and `-` stay, everything else becomes `-`. Names that differ only by case, or by how an accent is written, are one
    name on some file systems: all but one of them get a number. A label that is its own stem keeps it, whatever comes before.

    Args:
        labels: words or phrases of a user; the same labels in the same order always have the same stems.
        taken: stems that something else has.

    Example:
        >>> file_stems(["red ball", "red-ball", "Red Ball", "con", "?"])
        ['red-ball-2', 'red-ball', 'Red-Ball-3', 'con-2', 'word']
    """
    plain = [_stem(label) for label in labels]
    used = {*map(_folded, taken), *_RESERVED}
    made = dict.fromkeys(range(len(labels)), "")
    for place in sorted(made, key=lambda place: plain[place] != labels[place]):
        stem, number = plain[place], 1
        while _folded(stem) in used:
            number += 1
            stem = f"{plain[place]}-{number}"
        used.add(_folded(stem))
        made[place] = stem
    return list(made.values())


def _stem(label: str) -> str:
    stem = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", label)).strip("-")
    return cut_bytes(stem, MOST_STEM_BYTES).strip("-") or "word"


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFKC", stem).casefold()


def cut_bytes(text: str, most: int) -> str:
    """The beginning of a text that has at most that many bytes in UTF-8; no character is cut in two.

    Example:
        >>> cut_bytes("ééé", 5)
        'éé'
    """
    return text.encode(errors="surrogateescape")[:most].decode(errors="ignore")


@contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, that becomes `path` when the block ends and vanishes when it fails.

    Missing parent folders are made.

    Raises:
        InputError: `path` exists and `overwrite` is false (checked before and after the block), or it is a folder.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        ...     target.exists()
        False
        >>> target.read_text()
        'whole'
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of a file in it")
    if not overwrite:
        refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{target.parent} is not a folder; give a path inside a folder") from error
    # os.urandom and not `random`: library code leaves the global generators alone.
    temporary = target.with_name(f".{cut_bytes(target.stem, 100)}.{os.getpid()}.{os.urandom(4).hex()}.tmp{target.suffix}")
    try:
        yield temporary
        if not overwrite:
            refuse_existing(target)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def json_text(obj: Any, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8. A file name that is none (a name is bytes, and may be any) is escaped, and read back as it was.

    Raises:
        ValueError: `obj` holds not-a-number, infinity, or a value that JSON doesn't know.

    Example:
        >>> json_text({"name": "é"}), json_text({"name": "\\udcff"})
        ('{"name": "é"}', '{"name": "\\\\udcff"}')
    """
    text = json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(obj, indent=indent, ensure_ascii=True, allow_nan=False)
    return text


def write_json(path: str | os.PathLike[str], obj: Any, *, overwrite: bool = True) -> None:
    """Write `obj` as indented UTF-8 JSON, whole or not at all. Not-a-number and infinity are refused: they are no JSON.

    Raises:
        InputError: `path` exists and `overwrite` is false.
        ValueError: `obj` holds a value that JSON doesn't know.
    """
    text = json_text(obj, indent=2) + "\n"
    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
