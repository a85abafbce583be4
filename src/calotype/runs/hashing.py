"""The identity of the user's files: sha256 over what they hold."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from calotype.errors import InputError
from calotype.imaging.files import file_digest


def regular_files(path: Path, name: str = "file") -> list[Path]:
    """A regular file itself, or all files of a folder in a fixed order, after a look at what each of them is.

    Raises:
        InputError: a pipe or a device, in a folder also a link to a folder or to anything outside of it.
    """
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{name}: {path} is not a regular file; give a file on disk, or a folder of files")
        return [path]
    root, found = path.resolve(), []
    for place, folders, files in os.walk(path):
        for item in (Path(place) / each for each in (*folders, *files)):
            status = item.lstat()
            if stat.S_ISLNK(status.st_mode):
                target = item.resolve()
                if not target.is_relative_to(root) or not target.is_file():
                    raise InputError(f"{name}: {item} is a link that leaves the folder, or a link to a folder; copy what it stands for")
            elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise InputError(f"{name}: {item} is not a regular file; remove it from the folder")
            if not stat.S_ISDIR(status.st_mode):
                found.append(item)
    return sorted(found)


def path_digest(path: Path) -> str:
    """sha256 of a file, or over the names and contents of all files of a folder."""
    if not path.is_dir():
        return file_digest(path)
    total = hashlib.sha256()
    for item in sorted(path.rglob("*")):
        if item.is_file():
            total.update(f"{item.relative_to(path).as_posix()}\0{file_digest(item)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def checked_digest(path: Path, name: str = "file") -> str:
    """The same of what holds regular files alone.

    Raises:
        InputError: what `regular_files` refuses.
    """
    regular_files(path, name)
    return path_digest(path)
