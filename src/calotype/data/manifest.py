"""What is known of a data set's files: size, time, sha256 and what a look at each of them found, so that a second start reads none again.

A manifest is JSON, one object a line: the first names the format, every other one a file. It lies beside what a training writes, never in
the user's folder. It only saves time: a manifest that is missing, damaged or of another version is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from calotype.core.events import SILENT, Events
from calotype.core.untrusted import mapping, parse_json, text, whole
from calotype.data.files import frame_files, plain_file
from calotype.errors import InputError
from calotype.imaging.files import atomic_path, json_line

NAME = "manifest.jsonl"
"""What a manifest is called beside a training's results."""
FORMAT, VERSION = "calotype-manifest", 1
_MOST_THREADS = 4
_SHA256 = "[0-9a-f]{64}"

_MOST, _MOST_METADATA = 1_000_000_000, 100


@dataclass(frozen=True)
class Inspection:
    """How a file is looked at."""

    read: Callable[[Path], Mapping[str, int]]
    """Reads it as a whole and says what it holds; raises `InputError` where it can't be read."""
    metadata: frozenset[str]
    """The names of what it says, such as "height"."""


HASHED = Inspection(lambda path: {}, frozenset())
"""Nothing but the hash: something else reads the files."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a data set, or one folder of frames, as it was when it was looked at."""

    path: str
    """Below the data set's folder, with `/` between its parts."""
    size: int
    """In bytes."""
    time: int
    """Of its last change, in nanoseconds."""
    sha256: str
    metadata: Mapping[str, int] = field(default_factory=dict)
    """What the look at it found."""

    def unchanged(self, root: Path) -> bool:
        """Whether the file has the same size and time still."""
        try:
            return (self.size, self.time) == _state(root / self.path)
        except OSError:
            return False


def _state(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change; of a folder of frames, all their bytes and the last of their times."""
    states = [file.stat() for file in frame_files(path)] if path.is_dir() else [path.stat()]
    return sum(status.st_size for status in states), max((status.st_mtime_ns for status in states), default=0)


def look_at(
    root: Path,
    paths: Mapping[str, Inspection],
    known: Mapping[str, FileRecord],
    found: dict[str, FileRecord],
    *,
    events: Events = SILENT,
) -> list[str]:
    """Hash and look at the files that are not known as they are now; several at a time.

    Args:
        root: the data set's folder.
        paths: each file below it and how it is looked at.
        known: records of an earlier time, by path.
        found: gets the records by path, one by one, so that those of a check that is stopped aren't lost.
        events: hears of the stage and each of its files, and may cancel.

    Returns:
        A line for each file that can't be read.
    """
    problems = []
    for path in paths:
        if path in known and known[path].metadata.keys() == paths[path].metadata and known[path].unchanged(root):
            found[path] = known[path]
    fresh = [path for path in paths if path not in found]
    if fresh:
        events.stage(f"check {len(fresh):,} files of {root.name}", len(fresh))
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for path, result in zip(fresh, pool.map(lambda path: _record(root, path, paths[path]), fresh), strict=True):
                if isinstance(result, FileRecord):
                    found[path] = result
                else:
                    problems.append(f"{path}: {result}")
                events.step()
                events.check()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def _record(root: Path, path: str, look: Inspection) -> FileRecord | str:
    try:
        file = root / path if (root / path).is_dir() else plain_file(root / path)
        size, time = _state(file)
        digest = _digest(file)
        record = FileRecord(path, size, time, digest, dict(look.read(file)))
        return record if record.unchanged(root) else "it changes while it is read; wait until it is written"
    except InputError as error:
        # The reader names the file by its full path; the line has a shorter one before it.
        return str(error).removeprefix("file: ").replace(f"{root / path} ", "")
    except OSError as error:
        return f"can't be read ({(error.strerror or type(error).__name__).lower()})"


def _digest(path: Path) -> str:
    """sha256 of a file; of a folder of frames, of theirs in order."""
    if path.is_dir():
        return hashlib.sha256("".join(_digest(plain_file(file)) for file in frame_files(path)).encode()).hexdigest()
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_manifest(path: Path, root: Path) -> dict[str, FileRecord]:
    """The records of an earlier time by path; none where there is no manifest of this folder that can be used."""
    try:
        lines = path.read_bytes().split(b"\n")
        head = mapping(parse_json(lines[0], str(path)), str(path))
        if (head.get("format"), head.get("version"), head.get("folder")) != (FORMAT, VERSION, _name(root)):
            return {}
        records = [_parsed(line, str(path)) for line in lines[1:] if line]
    except (OSError, InputError):
        return {}
    return {record.path: record for record in records}


def _parsed(line: bytes, name: str) -> FileRecord:
    entry = mapping(parse_json(line, name), name)
    metadata = {
        text(key, name, most=40): whole(value, name, most=_MOST)
        for key, value in mapping(entry.get("metadata"), name, most=_MOST_METADATA).items()
    }
    return FileRecord(
        text(entry.get("path"), name),
        whole(entry.get("size"), name),
        whole(entry.get("time"), name),
        text(entry.get("sha256"), name, pattern=_SHA256, expected="a sha256"),
        metadata,
    )


def write_manifest(path: Path, root: Path, records: Iterable[FileRecord], groups: Mapping[str, str]) -> None:
    """Write what is known of the files, whole or not at all; `groups` names the group of each path that has one.

    Raises:
        InputError: the manifest would lie in the user's folder.
    """
    refuse_inside(path, root)
    with atomic_path(path, overwrite=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json_line({"format": FORMAT, "version": VERSION, "folder": _name(root)}) + "\n")
        for record in records:
            entry = {
                "path": record.path,
                "size": record.size,
                "time": record.time,
                "sha256": record.sha256,
                "metadata": dict(record.metadata),
            }
            file.write(json_line(entry | ({"group": groups[record.path]} if record.path in groups else {})) + "\n")


def refuse_inside(path: Path, root: Path) -> None:
    """Nothing is written into the user's folder.

    Raises:
        InputError: `path` lies in `root`.
    """
    if path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path} lies in the data folder {root}, into which nothing is written; choose another folder with --out")


def _name(root: Path) -> str:
    return os.fspath(root.resolve())
