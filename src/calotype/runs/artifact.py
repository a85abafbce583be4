"""What a kind of artifact is: how a file of it is read, how a result is written, shown, compared and told from another one.

A package that adds a kind puts an `ArtifactKind` beside its type, at the top level of the same module, and names it in the entry-point
group `calotype.artifacts` (`grasp = "package.module:GRASP"`), by which records of runs find it. Methods then take and return that type.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calotype.core.artifacts import Folder
from calotype.core.events import SILENT, Events
from calotype.core.untrusted import text
from calotype.data.files import plain_file
from calotype.errors import InputError
from calotype.imaging.files import atomic_path, temporary_beside, user_path
from calotype.imaging.types import Image
from calotype.runs.hashing import path_digest, regular_files

_MOST_BYTES = 256_000_000


@dataclass(frozen=True)
class Metadata:
    """What a record tells about a result of some kind beside its hash."""

    of: Callable[[Any], dict[str, Any]]
    """Of a value, as JSON."""
    checked: Callable[[Mapping[str, Any], str], dict[str, Any]]
    """The same entries from a record that anybody may have written; takes what messages call them. Raises `InputError`."""
    shown: Callable[[Mapping[str, Any]], str]
    """The entries in words."""


def _checked_contents(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"contents": text(entry.get("contents", ""), f"{name}: contents", most=200)}


def contents(words: Callable[[Any], str]) -> Metadata:
    """Metadata in words alone, such as "2 columns of 3"."""
    return Metadata(lambda value: {"contents": words(value)}, _checked_contents, lambda entry: str(entry.get("contents", "")))


NO_METADATA = contents(lambda value: "")


@dataclass(frozen=True, kw_only=True, eq=False)
class ArtifactKind:
    """One row of the table of kinds (`calotype.runs.kinds`)."""

    name: str
    """One word in small letters, as records have it."""
    type: type
    """What methods take and return."""
    phrase: str
    """Such as "an image"."""
    suffix: str
    """Of results, such as ".png"; "" for a folder."""
    read: Callable[..., Any]
    """From a path; takes `name`, for messages, `events`, and what `Method.reading` says. Raises `InputError`."""
    write: Callable[[Any, Path, Mapping[str, str]], None]
    """Write a value at a path, whole or not at all, with text entries for its metadata where the format has such."""
    digest: Callable[[Any], str]
    """sha256, in hexadecimal, that two values share only if they are the same to the bit."""
    metadata: Metadata = NO_METADATA
    tensors: bool = False
    """Whether all fields of the type are kept as tensors where a value must stay to the bit; else its own file does that."""
    distance: Callable[[Any, Any], str] | None = None
    """In words how far apart two values are that are not the same."""
    glance: str = ""
    """What the picture is called that shows a result at a glance; "" if the result is a picture itself, or has none."""
    show: Callable[[Any], Image] | None = None
    """Makes that picture."""
    pictures: Callable[[Any], Sequence[Image]] = lambda value: ()
    """The pictures of a value, for an overview of several results."""
    parts: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Parts of a value that can be asked for by name, such as the first frame of a clip."""
    folders: bool = False
    """Whether an input may be a folder."""
    copied: bool = True
    """Whether a run keeps a copy of an input; else the hash alone, and doing the run again needs the user's word for the place."""
    adopt: Callable[[Any], Any] = lambda value: None
    """A value of another kind as this one, or None: a picture can be a mask."""
    says_how: Callable[[Any], bool] = lambda path: False
    """Whether a path says how it is to be read, so that what comes out is the input, and not the file."""
    needs: Callable[[], object] = lambda: None
    """Called before the work; raises `MissingError` where a package for the results is not installed."""

    @property
    def kept_suffix(self) -> str:
        """Of the file that keeps a value to the bit."""
        return ".safetensors" if self.tensors else self.suffix


def text_kind(name: str, phrase: str, suffix: str, words: Callable[[Any], str], made: Any) -> ArtifactKind:
    """A kind with one text file.

    Args:
        name, phrase, suffix: see `ArtifactKind`.
        words: what a record tells about a value, such as "2 columns of 3".
        made: the type, which has `to_text()` and a static `from_text(content, name)`.
    """

    def read(path: Path, *, name: str = name, events: Events = SILENT, **options: Any) -> Any:
        return made.from_text(read_text(path, name), name)

    def write(value: Any, path: Path, metadata: Mapping[str, str]) -> None:
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_bytes(value.to_text().encode())

    def digest(value: Any) -> str:
        return hashlib.sha256(value.to_text().encode()).hexdigest()

    return ArtifactKind(
        name=name, type=made, phrase=phrase, suffix=suffix, read=read, write=write, digest=digest, metadata=contents(words)
    )  # fmt: skip


def read_text(path: Path, name: str) -> str:
    """The UTF-8 text of a plain file.

    Raises:
        InputError: no such file, no such text, or more than 256 MB.
    """
    source = plain_file(path, name)
    if source.stat().st_size > _MOST_BYTES:
        raise InputError(f"{name}: {source} has {source.stat().st_size / 1e6:.0f} MB; at most {_MOST_BYTES // 1_000_000} are read")
    try:
        return source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: {source} is no UTF-8 text; save it as UTF-8") from None


def folder_kind(name: str, phrase: str, made: type[Folder]) -> ArtifactKind:
    """A kind that is a folder of any files: its identity is the hash over their names and contents.

    A data set or a checkpoint may be large, or private: inputs are not copied.
    """

    def read(path: Path, *, name: str = name, events: Events = SILENT, **options: Any) -> Folder:
        place = user_path(path)
        if not place.is_dir() or not regular_files(place, name):
            raise InputError(f"{name}: {place} is no folder with files in it; give one")
        return made(place)

    return ArtifactKind(
        name=name, type=made, phrase=phrase, suffix="", read=read, write=write_folder, digest=lambda value: path_digest(value.path),
        metadata=contents(lambda value: _size(regular_files(value.path))), folders=True, copied=False,
    )  # fmt: skip


def write_folder(value: Folder, path: Path, metadata: Mapping[str, str]) -> None:
    """Copy a folder's files, whole or not at all. A folder that is there already with the same contents stays.

    Raises:
        InputError: something else is there, or the folder holds what is no regular file.
    """
    target = user_path(path)
    files = regular_files(value.path, target.name)
    if target.is_dir() and not target.is_symlink():
        regular_files(target, target.name)
        if path_digest(target) == path_digest(value.path):
            return
    if target.is_symlink() or target.exists():
        raise InputError(f"{target} is in the way and not what the run made; move it, then run it again")
    staged = temporary_beside(target)
    try:
        copy_files(files, value.path, staged)
        staged.replace(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def copy_files(files: Iterable[Path], source: Path, target: Path) -> None:
    """Copy some files of a folder to the same places in another one, each whole or not at all."""
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        with atomic_path(target / file.relative_to(source), overwrite=True) as temporary:
            shutil.copyfile(file, temporary)


def _size(files: Sequence[Path]) -> str:
    return f"{len(files)} file{'s' if len(files) != 1 else ''}, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
