"""The identity of a checkpoint folder: one hash over the files that decide what it computes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_DECIDING = {".safetensors", ".json", ".txt", ".model"}
_IGNORED = {"calotype.json", "card.json", "README.md", "gates.json", "progress.jsonl"}


def file_digest(path: Path) -> str:
    """sha256 of a file. A link into the hub's cache is named by its hash already, which saves reading gigabytes."""
    target = path.resolve()
    if path.is_symlink() and target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of a checkpoint's weights, configurations and vocabularies."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and path.suffix in _DECIDING and path.name not in _IGNORED and not hidden:
            total.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def path_digest(path: Path) -> str:
    """sha256 of a file, or over the names and contents of all files of a folder."""
    if not path.is_dir():
        return file_digest(path)
    total = hashlib.sha256()
    for item in sorted(path.rglob("*")):
        if item.is_file():
            total.update(f"{item.relative_to(path).as_posix()}\0{file_digest(item)}\n".encode())
    return total.hexdigest()
