"""Files written whole or not at all, opened so that no link is followed, and what is wrong when the disk refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calotype.errors import InputError

MOST_NAME_BYTES = 255
"""Longest name of a file on the usual file systems, in bytes."""
_TEMPORARY = re.compile(r"\..*\.\d+\.[0-9a-f]{8}\.tmp(\.\w+)?", re.DOTALL)
_FULL = {errno.ENOSPC: 28, errno.EDQUOT: 122}


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as the user gave it, with `~` for the home folder; a name after `~` that nobody has stays as it is.

    Example:
        >>> str(user_path("~nobody-of-that-name/x"))
        '~nobody-of-that-name/x'
    """
    return Path(os.path.expanduser(os.fspath(path)))


def temporary_beside(target: Path) -> Path:
    """A new name beside `target`, hidden, with the same suffix; `is_temporary` knows it again."""
    # In bytes, since that is what file systems count; os.urandom and not `random`: library code leaves the global generators alone.
    return target.with_name(f".{cut_bytes(target.stem, 100)}.{os.getpid()}.{os.urandom(4).hex()}.tmp{target.suffix}")


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `temporary_beside` gives.

    Example:
        >>> is_temporary(".result.4711.0123abcd.tmp.png"), is_temporary(".notes.tmpl")
        (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


_HALVES = re.compile("[\ud800-\udfff]")
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
        InputError: `path` exists and `overwrite` is false (checked before and after the block), it is a folder, or its name is too long.

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
    if "\0" in str(target):
        raise InputError(f"{str(target)!r} is no name of a file; leave out the character 0")
    if len(os.fsencode(target.name)) > MOST_NAME_BYTES or len(os.fsencode(target.suffix)) > MOST_NAME_BYTES // 3:
        raise InputError(f"the file name {target.name[:40]}... is too long for a disk; give a shorter one")
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of a file in it")
    if not overwrite:
        refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{target.parent} is not a folder; give a path inside a folder") from error
    temporary = temporary_beside(target)
    try:
        yield temporary
        if not overwrite:
            refuse_existing(target)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes it when the block ends, and vanishes when it fails.

    Raises:
        InputError: `path` is a file, or a folder that holds files (checked before and after the block).
    """
    target = user_path(path)

    def refuse() -> None:
        if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} {'holds files already' if target.is_dir() else 'is a file'}; choose another folder")

    refuse()
    target.parent.mkdir(parents=True, exist_ok=True)
    making = temporary_beside(target)
    try:
        making.mkdir()
        yield making
        refuse()
        making.replace(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def json_line(obj: Any, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8, on one line unless `indent` is given.

    A file name is bytes, and may be no text: its odd bytes are written as the text `\\udcff` and the like.

    Raises:
        ValueError: `obj` holds not-a-number, infinity, or a value that JSON doesn't know.

    Example:
        >>> json_line({"name": "é"}), json.loads(json_line({"name": os.fsdecode(b"a-byte-\\xff")}))
        ('{"name": "é"}', {'name': 'a-byte-\\\\udcff'})
    """
    text = json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False)
    return _HALVES.sub(lambda half: f"\\\\u{ord(half[0]):x}", text)


def write_json(path: str | os.PathLike[str], obj: Any, *, overwrite: bool = True) -> None:
    """Write `obj` as indented UTF-8 JSON, whole or not at all. Not-a-number and infinity are refused: they are no JSON.

    Raises:
        InputError: `path` exists and `overwrite` is false.
        ValueError: `obj` holds a value that JSON doesn't know.
    """
    text = json_text(obj)
    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(obj: Any) -> str:
    """Indented JSON; as `json_line` in everything else."""
    return json_line(obj, indent=2) + "\n"


def open_own(path: Path, flags: int) -> int:
    """Open a file that this program keeps in a folder, never through a link and never anything but a regular file with one name.

    Args:
        path: the file.
        flags: as `os.open` takes them; with `os.O_CREAT` it is made where there is none.

    Returns:
        The descriptor.

    Raises:
        InputError: a link, a pipe, a device, or a file that has a second name elsewhere.
    """
    try:
        careful = [getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")]
        file = os.open(path, flags | sum(careful), 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise InputError(f"{path} is a link, a pipe or a folder where a file of this program belongs; remove it") from None
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(file)
        raise InputError(f"{path} is no regular file, or has a second name elsewhere; nothing is written through it: copy the folder first")
    return file


def take_lock(file: int, refusal: str) -> None:
    """Lock a descriptor for this process, where the system and the disk know such locks.

    Raises:
        InputError: another process has it; with the message `refusal`.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(refusal) from None
    except OSError:
        return


def disk_trouble(error: BaseException) -> str:
    """What an operating system's refusal to read or write comes to, in a few words; "" for any other error.

    Libraries wrap such errors, or turn them into text: the causes are looked through, too.

    Example:
        >>> disk_trouble(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
        'the disk is full (no space left on device: /data/x)'
        >>> disk_trouble(ValueError("odd"))
        ''
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, OSError) and found.errno:
            name = found.filename2 or found.filename  # A copy has two, and is refused by where it goes.
            place = f": {name}" if isinstance(name, str | os.PathLike) and str(name) else ""
            told = f"({(found.strerror or errno.errorcode.get(found.errno, 'error')).lower()}{place})"
            if found.errno in _FULL:
                return f"the disk is full {told}" if found.errno == errno.ENOSPC else f"your share of the disk is used up {told}"
            return f"a file can't be read or written {told}"
        for number, code in _FULL.items():
            # The text that safetensors makes of such an error.
            if f"(os error {code})" in str(found):
                return f"the disk is full ({os.strerror(number).lower()})"
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return ""
