"""Data sets in folders: found, checked as a whole before anything is trained, split by group, and read row by row.

A data set is an object with `len`, `rows(numbers) -> {name: tensor}`, a `fingerprint` of its content and `split(share, seed)`. What lies
in the folder is said by `FilePart`s: pictures alone, clips alone, or pictures and masks that belong together by their stems.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.files import FRAME_SUFFIXES
from calotype.data.manifest import FileRecord, Inspection, look_at, read_manifest, refuse_inside, write_manifest
from calotype.data.tables import HELD_OUT, LEFT_OUT, TRAIN, Told, one_spelling, read_tables, text_beside
from calotype.errors import DataError, InputError
from calotype.imaging.files import file_suffix, user_path

_MOST_LISTED = 5
_OTHER_PARTS = frozenset(("images", "masks"))
"""Folders of pictures that are no frames of a clip."""
_QUIET = frozenset((".csv", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml"))
"""Endings of files that nobody takes for a row's."""


@runtime_checkable
class DataSet(Protocol):
    """What a training asks of its data."""

    @property
    def fingerprint(self) -> str:
        """Of everything that `rows` depends on: the same as long as every row is."""
        ...

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these numbers, stacked; on the CPU, and always the same."""
        ...

    def split(self, share: float, seed: int) -> tuple[Self, Self]:
        """Rows to train on, and held-out ones; no group is in both. Raises `InputError` where it can't be split."""
        ...


@dataclass(frozen=True)
class FilePart:
    """One kind of a row's files."""

    name: str
    """What messages and tensors call it, such as "image"."""
    folders: tuple[str, ...]
    """Folders that hold it, the first that is there; "" is the data set's folder itself."""
    suffixes: frozenset[str]
    """Endings of its files, in small letters."""
    look: Inspection
    """Reads one as a whole, and says its size."""
    frames: bool = False
    """Whether a folder with nothing but numbered pictures is one, too."""


@dataclass(frozen=True)
class Sample:
    """One row: the files that belong together by their stem, and what is told of them."""

    stem: str
    files: Mapping[str, FileRecord]
    """By the name of the part."""
    caption: str = ""
    group: str = ""
    """Rows of one group, such as a patient's, never go to two splits. The row's stem where nothing is told."""
    split: str = ""
    """`train`, `held-out`, `left-out`, or "" where nothing is told."""

    @property
    def content(self) -> str:
        """sha256 of what the row holds: its files by part, and the caption."""
        told = {part: record.sha256 for part, record in self.files.items()} | {"caption": self.caption}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


def check_folder(
    folder: str | os.PathLike[str],
    parts: Sequence[FilePart],
    *,
    manifest: Path | None = None,
    captions: bool | None = None,
    also: Callable[[Sequence[Sample]], Sequence[str]] = lambda rows: (),
    events: Events = SILENT,
) -> tuple[Path, tuple[Sample, ...]]:
    """Find the rows of a folder and check all of them.

    Every file is read once; where its size and time are those of the manifest, not even that.

    Args:
        folder: the user's folder. Nothing is written into it.
        parts: what a row has; rows are matched by their stems, the path below the part's folder without the ending.
        manifest: file of what is known of the files, read and written.
        captions: true asks for a caption of every row, false leaves them aside, None asks for all or none.
        also: further problems of the rows that were found, one line each.
        events: hears how far the check is, and may cancel it.

    Returns:
        The folder and its rows, in the order of their stems.

    Raises:
        DataError: any problem; it has a line for each.
        InputError: no such folder, or a manifest within it.
    """
    root = user_path(folder)
    if not root.is_dir():
        raise InputError(f"data: {root} is {'no folder' if root.exists() else 'not there'}; give a folder of {parts[0].name}s")
    if manifest is not None:
        refuse_inside(manifest, root)
    found = {part.name: _files(root, part) for part in parts}
    if not any(found.values()):
        wanted = " or ".join(f"{name}/" for name in parts[0].folders if name)
        wanted = f"neither itself nor in {wanted}" if "" in parts[0].folders else f"in {wanted}"
        raise InputError(f"data: {root} holds no {parts[0].name}s ({', '.join(sorted(parts[0].suffixes))}) {wanted}{_folders_there(root)}")
    stems = sorted({stem for files in found.values() for stem in files})
    problems = [
        f"{stem}: {len(files[stem])} files of that name ({', '.join(files[stem])}); keep one"
        for files in found.values()
        for stem in files
        if len(files[stem]) > 1
    ]
    problems += _unpaired(root, parts, found, stems)
    looks = {path: part.look for part in parts for paths in found[part.name].values() for path in paths}
    records: dict[str, FileRecord] = {}
    try:
        unread = look_at(root, looks, read_manifest(manifest, root) if manifest is not None else {}, records, events=events)
    except BaseException:
        if manifest is not None:
            write_manifest(manifest, root, records.values(), {})
        raise
    told, untold = _told(root, parts, found, captions)
    rows = tuple(
        Sample(stem, files, told[stem].caption, told[stem].group or stem, told[stem].split)
        for stem in stems
        if len(files := {part.name: records[path] for part in parts for path in found[part.name].get(stem, ()) if path in records})
        == len(parts)
    )
    if manifest is not None:
        groups = {record.path: row.group for row in rows for record in row.files.values()}
        write_manifest(manifest, root, [records[path] for path in looks if path in records], groups)
    problems += [*unread, *untold, *_duplicates(rows), *_torn_groups(rows), *also(rows)]
    if problems:
        more = f"; and {len(problems) - _MOST_LISTED:,} more" if len(problems) > _MOST_LISTED else ""
        count = f"{len(problems):,} problems" if len(problems) > 1 else "a problem"
        raise DataError(f"data: {root} has {count}: {'; '.join(problems[:_MOST_LISTED])}{more}", problems)
    return root, rows


def _unpaired(root: Path, parts: Sequence[FilePart], found: Mapping[str, Mapping[str, Sequence[str]]], stems: Sequence[str]) -> list[str]:
    """A line for each file without its counterpart, and one alone where nothing has one."""
    for part in parts:
        if not found[part.name]:
            home = part.folders[0] or root.name
            return [f"there are no {part.name}s in {home}/ ({', '.join(sorted(part.suffixes))}){_folders_there(root)}"]
    if len(parts) > 1 and not set.intersection(*(set(found[part.name]) for part in parts)):
        some = ", ".join(next(iter(found[part.name].values()))[0] for part in parts)
        return [f"no {' and '.join(part.name for part in parts)} have the same name ({some}, ...); rename them alike"]
    return [
        f"{stem}: no {part.name} of that name in {part.folders[0] or root.name}/"
        for part in parts
        for stem in stems
        if stem not in found[part.name]
    ]


def _folders_there(root: Path) -> str:
    """Which folders there are, for one that is named otherwise."""
    names = sorted(place.name for place in root.iterdir() if place.is_dir() and not place.name.startswith("."))
    return f"; its folders are {', '.join(names[:_MOST_LISTED])}{', ...' if len(names) > _MOST_LISTED else ''}" if names else ""


def _home(root: Path, part: FilePart) -> Path:
    return next((root / name for name in part.folders if (root / name).is_dir()), root / part.folders[-1])


def _walk(home: Path) -> Iterator[Path]:
    """Files in and below a folder; hidden ones are left out."""
    for place, folders, names in os.walk(home):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _files(root: Path, part: FilePart) -> dict[str, list[str]]:
    """{stem: paths below the root}."""
    home = _home(root, part)
    found: dict[str, list[str]] = {}
    for path in _walk(home):
        suffix = file_suffix(path)
        if suffix in part.suffixes:
            whole = path.relative_to(home).as_posix()
            found.setdefault(one_spelling(whole[: len(whole) - len(suffix)]), []).append(path.relative_to(root).as_posix())
    if part.frames:
        for folder in {path.parent for path in _walk(home) if file_suffix(path) in FRAME_SUFFIXES - part.suffixes} - {home}:
            if folder.name not in _OTHER_PARTS:
                found.setdefault(one_spelling(folder.relative_to(home).as_posix()), []).append(folder.relative_to(root).as_posix())
    return found


def left_aside(root: Path, parts: Sequence[FilePart]) -> list[str]:
    """A line for each part's folder that holds files of other endings, which aren't read."""
    lines = []
    for part in parts:
        home = _home(root, part)
        others = [path for path in _walk(home) if file_suffix(path) not in part.suffixes | _QUIET]
        if others:
            more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
            lines.append(
                f"{others[0].relative_to(root).as_posix()}{more} left aside: {part.name}s end in {', '.join(sorted(part.suffixes))}"
            )
    return lines


def _told(
    root: Path, parts: Sequence[FilePart], found: Mapping[str, Mapping[str, Sequence[str]]], captions: bool | None
) -> tuple[dict[str, Told], list[str]]:
    """Captions, groups and splits of all stems, and the problems with them."""
    first = found[parts[0].name]
    told, problems = read_tables(root, ways_to_name(first), name_columns(parts[0].name))
    made = defaultdict(Told, told)
    if captions is not False:
        for stem, paths in first.items():
            try:
                beside = text_beside(root / paths[0])
            except InputError as error:
                problems.append(str(error))
                continue
            if beside is not None and made[stem].caption not in ("", beside):
                problems.append(f"{stem}: a table and a text file beside it give it two captions; keep one")
            made[stem] = replace(made[stem], caption=beside or made[stem].caption)
        bare = [stem for stem in first if not made[stem].caption]
        if bare and (captions or len(bare) < len(first)):
            problems += [f"{stem}: no caption" for stem in bare]
    else:
        made = defaultdict(Told, {stem: replace(one, caption="") for stem, one in made.items()})
    return made, problems


def ways_to_name(files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """{each way in which a table may name a row: its stem}, from {stem: paths of its files}."""
    names = {stem: stem for stem in files}
    for stem, paths in files.items():
        for path in paths:
            names |= {one_spelling(path): stem, one_spelling(PurePosixPath(path).name): stem}
    return names


def name_columns(part: str) -> tuple[str, ...]:
    """Columns of a table that may name the file."""
    return (part, "file_name", "file", "stem")


def _duplicates(rows: Sequence[Sample]) -> list[str]:
    """Rows whose first part has the same content: they count twice, and may stand on both sides of a split."""
    seen: dict[str, str] = {}
    problems = []
    for row in rows:
        record = next(iter(row.files.values()))
        if record.sha256 in seen:
            problems.append(f"{record.path}: the same content as {seen[record.sha256]}; remove one of them")
        seen.setdefault(record.sha256, record.path)
    return problems


def _torn_groups(rows: Sequence[Sample]) -> list[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row.group].add(row.split)
    return [
        f"group {group}: it is in {len(found)} splits ({', '.join(sorted(name or 'none' for name in found))}); put all of it in one"
        for group, found in splits.items()
        if len(found) > 1
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class FolderData(ABC):
    """Rows of a checked folder. A kind of data set says how one of them is read (`read`) and what that depends on (`settings`)."""

    root: Path
    content: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.content)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain values that the tensors of a row depend on, beside its files."""
        return {}

    @abstractmethod
    def read(self, row: Sample) -> dict[str, Tensor]:
        """One row as tensors without the dimension of the batch.

        Raises:
            InputError: a file changed since it was checked.
        """

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these numbers, stacked; on the CPU, and always the same.

        Raises:
            InputError: a file changed since it was checked.
        """
        made = [self.read(self.content[index]) for index in indices]
        return {name: torch.stack([one[name] for one in made]) for name in made[0]}

    def captions(self, numbers: Sequence[int]) -> list[str]:
        """Their captions; "" where there are none."""
        return [self.content[number].caption for number in numbers]

    @property
    def fingerprint(self) -> str:
        """sha256 of all rows' files, captions and groups, and of the settings; where the folder lies doesn't matter."""
        total = hashlib.sha256(json.dumps([type(self).__name__, dict(self.settings)], sort_keys=True).encode())
        for row in self.content:
            total.update(json.dumps([row.stem, *self.identity(row), row.group, row.split]).encode())
        return total.hexdigest()

    def key(self, numbers: Sequence[int]) -> str:
        """sha256 of the tensors that `rows` gives for these numbers, without reading them: what is computed of them is kept under it."""
        told = [type(self).__name__, dict(self.settings), [self.identity(self.content[number]) for number in numbers]]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def identity(self, row: Sample) -> list[Any]:
        """Plain values that a row's tensors depend on, beside the settings."""
        return [row.content]

    def split(self, share: float, seed: int = 0) -> tuple[Self, Self]:
        """Rows to train on, and held-out ones.

        Splits that the tables name count. Where they hold nothing out, a group is held out by the hash of its name: with more files, a
        group stays where it was. Rows of a split such as `test` are in neither.

        Args:
            share: of the groups that are held out, about; at least one is, and one isn't.
            seed: another one holds out other groups.

        Raises:
            InputError: a share that isn't between 0 and 1, or fewer than two groups.
        """
        if not 0 < share < 1:
            raise InputError(f"share is {share}; the held-out share lies between 0 and 1, such as 0.1")
        kept = [row for row in self.content if row.split != LEFT_OUT]
        held = {row.group for row in kept if row.split == HELD_OUT}
        if not held:
            groups = {row.group for row in kept}
            if not groups:
                raise InputError(f"data: all rows of {self.root} have the split test; some must have the split {TRAIN}, or none")
            if len(groups) < 2:
                raise InputError(f"data: {self.root} has 1 group ({groups.pop()}); two are needed, one of them to measure on")
            held = held_out_groups(groups, share, seed)
        train = tuple(row for row in kept if row.group not in held)
        if not train:
            raise InputError(f"data: {self.root} holds all of its rows out; its tables must leave some with the split {TRAIN}")
        return replace(self, content=train), replace(self, content=tuple(row for row in kept if row.group in held))

    def path(self, row: Sample, part: str) -> Path:
        """Where a row's file lies.

        Raises:
            InputError: it changed since it was checked, or is gone.
        """
        record = row.files[part]
        if not record.unchanged(self.root):
            raise InputError(f"data: {self.root / record.path} changed since the training began; start it again, and it is checked anew")
        return self.root / record.path


def held_out_groups(groups: Collection[str], share: float, seed: int = 0) -> set[str]:
    """About this share of the groups, by the hash of their names; of two or more, at least one, and not all.

    Example:
        >>> sorted(held_out_groups({f"sub-{number:02d}" for number in range(20)}, 0.15))
        ['sub-06', 'sub-17']
        >>> sorted(held_out_groups({f"sub-{number:02d}" for number in range(40)}, 0.15))
        ['sub-06', 'sub-17', 'sub-28', 'sub-35', 'sub-37']
    """
    order = sorted(groups, key=lambda group: (_place(group, seed), group))
    return {group for group in order[:-1] if _place(group, seed) < share} or set(order[:1])


def _place(group: str, seed: int) -> float:
    """A number in [0, 1) that depends on the group's name and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
