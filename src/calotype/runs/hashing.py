"""The identity of the user's files: sha256 over what they hold."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """sha256 of a file, or over the names and contents of all files of a folder."""
    if not path.is_dir():
        return file_digest(path)
    total = hashlib.sha256()
    for item in sorted(path.rglob("*")):
        if item.is_file():
            total.update(f"{item.relative_to(path).as_posix()}\0{file_digest(item)}\n".encode())
    return total.hexdigest()
