"""Writing files so that a killed run leaves either the whole file or none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
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
    temporary = target.with_name(f".{target.stem[:100]}.{os.getpid()}.{os.urandom(4).hex()}.tmp{target.suffix}")
    try:
        yield temporary
        if not overwrite:
            refuse_existing(target)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], obj: Any, *, overwrite: bool = True) -> None:
    """Write `obj` as indented UTF-8 JSON, whole or not at all. Not-a-number and infinity are refused: they are no JSON.

    Raises:
        InputError: `path` exists and `overwrite` is false.
        ValueError: `obj` holds a value that JSON doesn't know.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
