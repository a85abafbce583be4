"""A folder of NIfTI volumes as training data: found and checked as a whole, prepared once each, cut into windows by number."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.folders import held_out_groups
from calotype.data.manifest import HASHED, NAME, FileRecord, look_at, read_manifest, refuse_inside, write_manifest
from calotype.data.volumes import read_volume
from calotype.errors import DataError, InputError
from calotype.imaging.files import atomic_path
from calotype.imaging.types import Volume

SUFFIXES = (".nii.gz", ".nii")
MASKS = ("_mask", "_brainmask", "-mask")
"""How the names of masks end."""
MAPS = ("_chimap", "_chi", "_qsm")
"""How the names of susceptibility maps end; where a folder has such names, its other files are left alone."""
COUNT = 1_000_000
"""Different windows of a data set."""
_TRIES = 1000

Prepare = Callable[[Volume, Volume | None, Events], Float[Tensor, "x y z"]]
"""A volume and its mask, if it has one, as what windows are cut out of: 0 outside the mask. Raises `InputError` for what can't be used."""


@dataclass(frozen=True)
class VolumeFile:
    """One volume of a folder."""

    path: Path
    mask: Path | None
    group: str
    """Whose it is: files of one subject are never on both sides of a split."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The volume's, and the mask's if there is one."""
        return (self.path,) if self.mask is None else (self.path, self.mask)


class Volumes(Protocol):
    """Volumes by number: [x, y, z], 0 outside their mask, each side at least a window's."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Float[Tensor, "x y z"]: ...


def find_volumes(folder: str | os.PathLike[str]) -> tuple[VolumeFile, ...]:
    """The volumes of a folder and of the folders in it, in the order of their names.

    A mask is called like its volume, up to the last underscore, with `_mask` at the end, and lies beside it. A subject is what BIDS names
    `sub-...`, else the folder in `folder` that a file lies in, else the file itself.

    Raises:
        InputError: there is no such folder, or no volume in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give a folder of NIfTI files, .nii.gz or .nii")
    found = _nifti_files(root)
    masks = {path for path in found if _stem(path).lower().endswith(MASKS)}
    volumes = [path for path in found if path not in masks]
    named = [path for path in volumes if _stem(path).lower().endswith(MAPS)]
    if not volumes:
        raise InputError(f"{root} holds no NIfTI volume (.nii.gz, .nii); give the folder of the maps")
    return tuple(VolumeFile(path, _mask_of(path, masks), _group(path.relative_to(root))) for path in named or volumes)


def _nifti_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES) and not path.name.startswith("."))


class VolumeFolder:
    """The volumes of a folder, each prepared when it is first asked for and then kept as a file of float16 that is read piece by piece.

    Args:
        folder: of the files.
        prepare: makes of a file what windows are cut out of.
        kept: folder for the prepared volumes.
        key: what `prepare` depends on, beside the files.
        files: those that belong to it; all that are found, by default.
        records: what is known of their content.

    Raises:
        InputError: there is no such folder, or no volume in it, or `kept` lies in it.
    """

    def __init__(
        self, folder: Path, prepare: Prepare, *, kept: Path, key: str = "", files: Sequence[VolumeFile] | None = None,
        records: Mapping[str, FileRecord] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.prepare, self.kept, self.key = folder, prepare, kept, key
        self.files = tuple(find_volumes(folder) if files is None else files)
        refuse_inside(kept, folder)
        self._records = records

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Float[Tensor, "x y z"]:
        path = self.kept / f"{self._mark(self.files[number])}.npy"
        if not path.is_file():
            for file in self.files[number].paths:
                if not self.records[self._relative(file)].unchanged(self.folder):
                    raise InputError(f"{file} changed since the training began; give --out another folder to train on it as it is now")
            values = self._prepared(self.files[number], SILENT).half().numpy()
            with atomic_path(path, overwrite=True) as temporary:
                np.save(temporary, values)
        # Copy on write: pages are read when they are asked for, and the system takes them back when it needs them.
        return torch.from_numpy(np.load(path, mmap_mode="c"))

    @property
    def groups(self) -> tuple[str, ...]:
        """The subjects, each once."""
        return tuple(dict.fromkeys(file.group for file in self.files))

    @property
    def fingerprint(self) -> str:
        """Of the bytes and names of all files."""
        lines = [f"{file.path.relative_to(self.folder).as_posix()} {self._mark(file)}" for file in self.files]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]

    def check(self, events: Events = SILENT) -> None:
        """Read and prepare every file, and keep nothing.

        Raises:
            DataError: some can't be used; it has a line for each.
        """
        heard = _Counted()
        problems: list[str] = []
        seen: dict[str, str] = {}
        events.stage("check the data", len(self.files))
        for file in self.files:
            name = str(file.path.relative_to(self.folder))
            first = seen.setdefault(self._mark(file), name)
            if first != name:
                problems.append(f"{name}: it has the content of {first}; a map that is there twice may be trained on and held out")
            try:
                self._prepared(file, heard)
            except InputError as error:
                problems.append(str(error) if name in str(error) else f"{name}: {error}")
            events.step()
            events.check()
        used = {path for file in self.files for path in file.paths}
        others = [path for path in _nifti_files(self.folder) if path not in used and not _stem(path).lower().endswith(MASKS)]
        if others:
            events.note(
                f"{len(others)} other NIfTI files in {self.folder}, such as {others[0].name}, are left aside: their names are no map's"
            )
        for note, times in heard.notes.items():
            events.note(note if len(self.files) == 1 else f"{note} ({times} of {len(self.files)} files)")
        if problems:
            told = f"{len(problems)} of {len(self.files)} files in {self.folder} can't be used; mend them or take them out"
            raise DataError(told, problems)
        groups = {self._relative(path): file.group for file in self.files for path in file.paths}
        write_manifest(self.kept / NAME, self.folder, self.records.values(), groups)

    def split(self, share: float, seed: int = 0) -> tuple[VolumeFolder, VolumeFolder]:
        """Two parts by subject: those for training, and about `share` of the subjects, at least one; see `held_out_groups`.

        Raises:
            InputError: there is one subject alone.
        """
        groups = sorted(self.groups)
        if len(groups) < 2:
            raise InputError(
                f"{self.folder} has one subject ({groups[0]}) and none is left to be held out; give maps of two or more, "
                "each named sub-... or in a folder of its own"
            )
        out = held_out_groups(groups, share, seed)
        parts = ([file for file in self.files if (file.group in out) is held] for held in (False, True))
        train, held_out = (
            VolumeFolder(self.folder, self.prepare, kept=self.kept, key=self.key, files=part, records=self.records) for part in parts
        )
        return train, held_out

    def _prepared(self, file: VolumeFile, events: Events) -> Float[Tensor, "x y z"]:
        volume = read_volume(file.path, name=file.path.name, finite=False, events=events)
        mask = None if file.mask is None else read_volume(file.mask, name=file.mask.name, events=events)
        return self.prepare(volume, mask, events)

    def _mark(self, file: VolumeFile) -> str:
        hashes = [self.records[name].sha256 if name in self.records else "" for name in map(self._relative, file.paths)]
        return hashlib.sha256("\n".join([self.key, *hashes]).encode()).hexdigest()[:16]

    @property
    def records(self) -> Mapping[str, FileRecord]:
        """What is known of the files' content, by path; a file that can't be read has none.

        Files that are as the manifest among the prepared volumes knows them aren't read again.
        """
        if self._records is None:
            found: dict[str, FileRecord] = {}
            paths = {self._relative(path): HASHED for file in self.files for path in file.paths}
            look_at(self.folder, paths, read_manifest(self.kept / NAME, self.folder), found)
            self._records = found
        return self._records

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


class VolumeWindows:
    """Windows at random places of volumes, mirrored left to right half of the time; a window's number says where it lies.

    Args:
        volumes: whose first axis runs from left to right.
        window: sides in voxels.
        stream: two numbers that, with a window's own, its place is drawn from.
    """

    def __init__(self, volumes: Volumes, window: tuple[int, int, int], *, stream: tuple[int, int] = (0, 0)) -> None:
        self.volumes, self.window, self.stream = volumes, window, stream

    def __len__(self) -> int:
        return COUNT

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """`maps`: [rows, 1, x, y, z] float32, in the volumes' unit."""
        return {"maps": torch.stack([self._cut(row) for row in indices])[:, None]}

    def _cut(self, row: int) -> Float[Tensor, "x y z"]:
        """Window number `row`; its middle lies in the mask."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.stream, row, 81])))
        number, mirrored = generator.random(2)
        volume = self.volumes[int(number * len(self.volumes))]
        window = np.array(self.window)
        room = np.array(volume.shape) - window
        for _ in range(_TRIES):
            corner = (generator.random(3) * (room + 1)).astype(int)
            if volume[tuple(corner + window // 2)] != 0:
                break
        part = volume[tuple(slice(first, first + side) for first, side in zip(corner, window, strict=True))].float()
        return part.flip(0) if mirrored < 0.5 else part


class FolderWindows(VolumeWindows):
    """Windows of a folder's volumes, as a `calotype.data.folders.DataSet`."""

    volumes: VolumeFolder

    def __init__(self, volumes: VolumeFolder, window: tuple[int, int, int], *, stream: tuple[int, int] = (0, 0)) -> None:
        super().__init__(volumes, window, stream=stream)

    @property
    def fingerprint(self) -> str:
        """Of the volumes' values."""
        return self.volumes.fingerprint

    def split(self, share: float, seed: int = 0) -> tuple[FolderWindows, FolderWindows]:
        """Windows of the volumes for training, and of those that are held out."""
        train, held_out = self.volumes.split(share, seed)
        return FolderWindows(train, self.window, stream=(0, seed)), FolderWindows(held_out, self.window, stream=(1, seed))


class _Counted(Events):
    """Counts equal notes; a name of a file before a colon is left out."""

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()

    def note(self, message: str) -> None:
        self.notes[re.sub(r"^[^:]*\.nii(\.gz)?: ", "", message)] += 1


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)


def _mask_of(path: Path, masks: set[Path]) -> Path | None:
    stem = _stem(path)
    for begin in (stem, stem.rpartition("_")[0]):
        for end in MASKS:
            for suffix in SUFFIXES:
                if begin and path.with_name(f"{begin}{end}{suffix}") in masks:
                    return path.with_name(f"{begin}{end}{suffix}")
    return None


def _group(relative: Path) -> str:
    named = re.search(r"sub-[A-Za-z0-9]+", relative.as_posix())
    return named[0] if named else relative.parts[0] if len(relative.parts) > 1 else _stem(relative)
