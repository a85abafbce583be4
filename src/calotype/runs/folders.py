"""The folder of a run: taken by one process, filled whole, replaced only by what is ready to take its place.

Nothing is written through a link, and of what is in a folder only that is removed which its record lists or which this program names.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from calotype.errors import CalotypeError, InputError
from calotype.imaging.files import disk_trouble, is_temporary, open_own, take_lock, temporary_beside, user_path
from calotype.imaging.media import CLIP_SUFFIXES, PICTURE_SUFFIXES
from calotype.runs import inputs
from calotype.runs.entries import RECORD_NAME, InputEntry, Record
from calotype.runs.hashing import checked_digest
from calotype.runs.kinds import kind_named
from calotype.runs.listener import PROGRESS_NAME
from calotype.runs.record import INPUTS, own_copy, read_record

TRACEBACK_NAME = "traceback.log"
OWN_FOLDERS: Mapping[str, re.Pattern[str]] = {
    "state": re.compile(r"[A-Za-z0-9_.-]+\.safetensors|state\.json"),
    "previews": re.compile(r"\d{4,}\.png"),
    "attention": re.compile(r"index\.html|row-\d+\.png"),
}
"""Folders in a run's folder with files that this program makes, and what these are called."""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep a run folder for this process: no other one works in it, and none of its own places leads out of it.

    Returns:
        The descriptor of `progress.jsonl`, for appending; the lock goes with the process, however it ends.

    Raises:
        InputError: another process works in it, or one of its places is a link, a pipe or a device.
    """
    for name in (INPUTS, *OWN_FOLDERS):
        refuse_link(folder / name)
    # One write a line in append mode: a killed process leaves whole lines.
    file = open_own(folder / PROGRESS_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        take_lock(file, f"{folder} is still being worked on by another process; wait for it or stop it first")
        yield file
    finally:
        os.close(file)


def refuse_link(place: Path) -> None:
    """Refuse a folder of this program that is none.

    Raises:
        InputError: it is a link or a file.
    """
    try:
        status = place.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{place} is a link or a file where a folder of this program belongs; remove it, or choose another folder")


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder that this process has locked."""
    for place, folders, files in os.walk(folder):
        if Path(place) == folder:
            for name in filter(is_temporary, folders):
                shutil.rmtree(folder / name, ignore_errors=True)
            folders[:] = [name for name in folders if name in (INPUTS, *OWN_FOLDERS)]
        for name in filter(is_temporary, files):
            (Path(place) / name).unlink(missing_ok=True)


@dataclass
class Taken:
    """A folder that this process holds for a new run."""

    folder: Path
    file: int
    """Descriptor of `progress.jsonl`."""
    replaced: Record | None
    """The record of the run that is in it, which `begin` removes."""
    began: bool = False
    _staged: Path | None = None

    def stage(self, sources: Mapping[str, tuple[Any, InputEntry]]) -> dict[str, InputEntry]:
        """Copy the inputs to where nothing of an earlier run is touched.

        Returns:
            Their entries, with the hashes of what was kept.
        """
        if not sources:
            return {}
        self._staged = temporary_beside(self.folder / INPUTS)
        self._staged.mkdir()
        return {
            name: inputs.keep(self._staged, value, metadata, copied=kind_named(metadata["kind"]).copied or not metadata["path"])
            for name, (value, metadata) in sources.items()
        }

    def begin(self, record: Record) -> None:
        """Remove the earlier run, put the inputs in their place and write the record.

        Raises:
            InputError: something that isn't the earlier run's is where an input belongs.
        """
        place = self.folder / INPUTS
        staged = sorted(self._staged.iterdir()) if self._staged is not None else []
        goes = (
            {}
            if self.replaced is None
            else {self.folder / metadata["file"]: metadata["sha256"] for metadata in self.replaced.inputs.values()}
        )
        for item in staged:
            target = place / item.name
            blocked = os.path.lexists(target) and (item.is_dir() or not _is_file(target))
            if blocked and not (target in goes and _is(target, goes[target])):
                raise InputError(f"{target} is in the way and no part of the run that is replaced; move it, or choose another folder")
        with record.written(self.folder):
            # The new record has its place on the disk before the old run goes.
            if self.replaced is not None:
                clear(self.folder, self.replaced)
                os.ftruncate(self.file, 0)
            if staged:
                place.mkdir(exist_ok=True)
            for item in staged:
                os.replace(item, place / item.name)
        self.began = True

    def drop(self) -> None:
        """Remove what was staged."""
        if self._staged is not None:
            shutil.rmtree(self._staged, ignore_errors=True)


@contextmanager
def taken(out: str | os.PathLike[str] | None, slug: str, overwrite: bool) -> Iterator[Taken]:
    """A folder for a run: `out`, or `./runs/<time>-<slug>`. What was made for a run that doesn't begin is removed again.

    Raises:
        InputError: it holds something and `overwrite` is false, it holds no run, another process works in it, or it can't be made.
    """
    try:
        folder, made = choose(out, slug, overwrite)
        fresh = not os.path.lexists(folder / PROGRESS_NAME)
    except OSError as error:
        raise InputError(f"the run folder can't be made ({(error.strerror or str(error)).lower()}): give another one with --out") from None
    held: Taken | None = None
    try:
        with locked(folder) as file:
            # Looked at again: another process may have begun and ended a run here since.
            if not overwrite and any(item.name != PROGRESS_NAME for item in folder.iterdir()):
                raise InputError(f"{folder} holds files already; choose another folder or pass --overwrite")
            held = Taken(folder, file, read_record(folder)[0] if (folder / RECORD_NAME).is_file() else None)
            try:
                yield held
            except OSError as error:
                raise CalotypeError(f"{disk_trouble(error) or error}; nothing was begun: mend that and run it again") from error
            finally:
                held.drop()
    finally:
        if held is None or not held.began:
            with suppress(OSError):
                if fresh and held is not None:
                    (folder / PROGRESS_NAME).unlink(missing_ok=True)
                if made:
                    folder.rmdir()


def choose(
    out: str | os.PathLike[str] | None, slug: str, overwrite: bool, *, records: tuple[str, ...] = (RECORD_NAME,)
) -> tuple[Path, bool]:
    """The folder for a run or a chain, made if it isn't there.

    Args:
        out: what the user says.
        slug: in the folder's name where the user says nothing.
        overwrite: whether a run in it may be replaced.
        records: by which files a run that may be replaced is known.

    Returns:
        The folder, and whether it was made.

    Raises:
        InputError: a file, or the name of one; a folder that holds something, without `overwrite`; with it, a folder that holds no run.
    """
    if out is None:
        return _fresh_folder(slug), True
    folder = user_path(out)
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; give the name of a folder")
    if folder.suffix.lower() in (*CLIP_SUFFIXES, *PICTURE_SUFFIXES) and not folder.is_dir():
        raise InputError(f"--out {folder} is named as a file; a run makes a folder: give its name, such as --out {folder.with_suffix('')}")
    if folder.is_dir():
        if any(folder.iterdir()):
            if not overwrite:
                raise InputError(f"--out {folder} holds files already; choose another folder or pass --overwrite")
            own = {*records, PROGRESS_NAME, INPUTS, TRACEBACK_NAME, *OWN_FOLDERS}
            if not any((folder / name).is_file() for name in records) and any(item.name not in own for item in folder.iterdir()):
                raise InputError(f"--out {folder} holds files and no run that could be replaced; choose another folder")
        return folder, False
    folder.mkdir(parents=True, exist_ok=True)
    return folder, True


def _fresh_folder(slug: str) -> Path:
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{slug}"
    root = Path("runs")
    root.mkdir(exist_ok=True)
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InputError(f"{root} holds a thousand runs of this second; give a folder with --out")


def clear(folder: Path, record: Record) -> None:
    """Remove what an earlier run left, and nothing else.

    That is: files that its record lists, if they are as it wrote them, and those in folders of its own that have names of its own.
    """
    for metadata in record.inputs.values():
        remove_listed(folder, metadata["file"], metadata["sha256"])
    for entry in record.outputs.values():
        if "file" in entry:
            remove_listed(folder, entry["file"], entry["sha256"])
    for name, pattern in OWN_FOLDERS.items():
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            for item in (folder / name).iterdir():
                if _is_file(item) and (pattern.fullmatch(item.name) or is_temporary(item.name)):
                    item.unlink()
    for name in (INPUTS, *OWN_FOLDERS):
        with suppress(OSError):
            (folder / name).rmdir()
    if _is_file(folder / TRACEBACK_NAME):
        (folder / TRACEBACK_NAME).unlink()


def foreign(folder: Path, record: Record) -> list[Path]:
    """What `clear` would leave in a run's folder, but for the record and the progress."""
    own = {folder / name for name in (RECORD_NAME, PROGRESS_NAME, TRACEBACK_NAME)}
    listed = [(metadata["file"], metadata["sha256"]) for metadata in record.inputs.values()]
    listed += [(entry["file"], entry["sha256"]) for entry in record.outputs.values() if "file" in entry]
    for file, digest in listed:
        place = own_copy(folder, file)
        if place is not None and _is(place, digest):
            own |= {place, *place.rglob("*")} if place.is_dir() else {place}
    for name, pattern in OWN_FOLDERS.items():
        own |= {item for item in (folder / name).glob("*") if pattern.fullmatch(item.name) or is_temporary(item.name)}
    return [item for item in sorted(folder.rglob("*")) if not item.is_dir() and item not in own and not is_temporary(item.name)]


def remove_listed(folder: Path, file: str, digest: str) -> None:
    """Remove a file or a folder of files in a folder of ours, if it is as the record says."""
    place = own_copy(folder, file)
    if place is not None and _is(place, digest):
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def _is_file(place: Path) -> bool:
    try:
        return stat.S_ISREG(place.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _is(place: Path, digest: str) -> bool:
    try:
        return checked_digest(place) == digest
    except (InputError, OSError):
        return False
