"""`run.json`: everything that is needed to do a run again, and what came of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from calotype.errors import CalotypeError, printable
from calotype.imaging.files import atomic_path, disk_trouble, json_text, open_own, write_json
from calotype.index import MODELS

RECORD_NAME = "run.json"
METADATA_KEY = "calotype"
"""The text entry of results that holds the record."""
FORMAT = 1
_LONGEST_NAME = 200
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class InputEntry(TypedDict):
    """One input as the record keeps it."""

    kind: str
    """The name of a kind, see `calotype.runs.kinds`."""
    file: str
    """In the run folder: `inputs/`, the argument's name and a suffix (none for a folder). Kinds that are not copied have no file there."""
    path: str
    """Where the user has it; "" for an object that came from no file."""
    name: str
    """Its own file name."""
    sha256: str


class OutputEntry(TypedDict, total=False):
    """One result as the record keeps it; `name` and `pixels_sha256` are always there, and what its kind tells about it."""

    name: str
    kind: str
    """The name of a kind, see `calotype.runs.kinds`."""
    file: str
    """In the run folder; for some kinds a folder."""
    sha256: str
    """Of the file, or over the names and contents of the folder's files."""
    pixels_sha256: str
    """Of the values that it was made from."""
    height: int
    width: int
    frames: int
    fps: float
    size: list[int]
    """Of a volume, in voxels."""
    spacing: list[float]
    """Of a volume, in mm."""
    unit: str
    contents: str
    """In words, such as "2 columns of 3"."""


@dataclass(frozen=True)
class ModelRequest:
    """Which checkpoint to load, and how: the arguments of `calotype.load`."""

    name: str
    device: str = "auto"
    dtype: str = "auto"
    variant: str | None = None
    revision: str | None = None
    offload: str | None = None
    max_rows: int | None = None
    decode_chunk_size: int | None = None

    @property
    def is_folder(self) -> bool:
        """Whether loading it reads a folder that is neither part of this package nor of the hub's cache.

        Example:
            >>> [ModelRequest(name).is_folder for name in ("toy-t2i", "some/id", "~/models/mine")]
            [False, False, True]
        """
        if not self.name or (self.name in MODELS and MODELS[self.name].folder is not None):
            return False
        return not _HUB_ID.fullmatch(self.name) or os.path.isdir(self.name)


@dataclass(frozen=True)
class Record:
    """What a run folder says about itself."""

    method: str
    """Slug."""
    model: ModelRequest
    """The main one, which the method gets first."""
    preset: str
    parameters: dict[str, Any]
    """Every field of the method, resolved."""
    arguments: dict[str, Any]
    """The plain arguments of the call; files are in `inputs`."""
    seed: int
    inputs: dict[str, InputEntry] = field(default_factory=dict)
    """By argument name (`name` or `name.3`): `file` in the run folder, `path` where the user has it, `sha256`."""
    environment: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint says of itself, and `sha256` over its files."""
    models: dict[str, ModelRequest] = field(default_factory=dict)
    """By argument name: the checkpoints that arguments of the call name, such as an editor."""
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The same of these as `checkpoint`."""
    outputs: dict[str, OutputEntry] = field(default_factory=dict)
    """By name: `file` in the run folder, `sha256` of the file, `pixels_sha256` of what it was made from, size, frames."""
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    status: str = "running"
    """"running", "interrupted", "failed" or "finished"."""
    sessions: int = 1
    """1 + how often the run was resumed. `metrics` and `peak_memory_bytes` are those of the last session."""
    started: str = ""
    finished: str = ""
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    rerun_of: str = ""

    @property
    def requests(self) -> dict[str, ModelRequest]:
        """All that is loaded: `model`, and every checkpoint that an argument names."""
        return {"model": self.model, **self.models}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, the format's number first."""
        return {"calotype_run": FORMAT, **asdict(self)}

    def write(self, folder: Path) -> None:
        """Write `run.json`, whole or not at all."""
        write_json(folder / RECORD_NAME, self.to_json())

    @contextmanager
    def written(self, folder: Path) -> Iterator[None]:
        """`write`, the record already on the disk while the block runs, and in its place if that ends well."""
        text = json_text(self.to_json())
        with atomic_path(folder / RECORD_NAME, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
            yield

    def settle(self, folder: Path) -> None:
        """Write `run.json` at the end of a run that failed: where the disk takes no new file, only the status changes, in place."""
        try:
            self.write(folder)
        except (OSError, CalotypeError) as error:
            if not disk_trouble(error):
                raise
            _settle_in_place(folder / RECORD_NAME, self.status)

    def embedded(self, output: Mapping[str, Any]) -> dict[str, str]:
        """The entry that a result carries: no times and no folders, so that doing the run again gives the same file.

        Args:
            output: what is known of this result, such as its `pixels_sha256`.
        """
        kept = {key: getattr(self, key) for key in ("method", "preset", "parameters", "arguments", "seed")}
        environment = {key: value for key, value in self.environment.items() if key != "git"}
        inputs = {name: {key: entry[key] for key in ("kind", "file", "path", "sha256", "name")} for name, entry in self.inputs.items()}
        whole = {
            "calotype_run": FORMAT,
            **kept,
            "model": asdict(self.model),
            "inputs": inputs,
            "environment": environment,
            "checkpoint": self.checkpoint,
            "outputs": {str(output.get("name", "result")): dict(output)},
            "status": "finished",
        }
        if self.models:
            whole["models"] = {name: asdict(request) for name, request in self.models.items()}
            whole["checkpoints"] = self.checkpoints
        return {METADATA_KEY: json.dumps(whole, ensure_ascii=True, separators=(",", ":"), allow_nan=False)}

    def changed(self, **values: Any) -> Record:
        """A copy with other values."""
        return replace(self, **values)


def _settle_in_place(path: Path, status: str) -> None:
    """The record on disk with another status, in the bytes that it has: no block is asked for, so a full disk can't refuse."""
    try:
        file = open_own(path, os.O_RDWR)
    except (OSError, CalotypeError):
        return
    try:
        before = os.read(file, os.fstat(file).st_size)
        after = json.dumps({**json.loads(before), "status": status}, ensure_ascii=False, separators=(",", ":")).encode()
        if len(after) < len(before):
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, after.ljust(len(before) - 1) + b"\n")
    except (OSError, ValueError, TypeError):
        return
    finally:
        os.close(file)


def shortened(path: Path) -> str:
    """An absolute path, with `~` for the home folder, so that results which are passed on don't tell whose it is."""
    absolute = Path(os.path.abspath(path))
    try:
        return recordable(f"~/{absolute.relative_to(Path.home()).as_posix()}")
    except (ValueError, RuntimeError):
        return recordable(str(absolute))


def recordable(text: str) -> str:
    """Text that may be the name of a file, as JSON can hold it: bytes that are no UTF-8 are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def plain_name(name: str) -> str:
    """The name of a file as records hold it: readable, without what separates folders, its end if it is too long.

    Example:
        >>> plain_name("a" + chr(92) + "b.png")
        'a_b.png'
    """
    plain = re.sub(r"[/\\\n\t]", "_", printable(recordable(name)))
    return plain.encode()[-_LONGEST_NAME:].decode("utf-8", "ignore").lstrip(".") or "file"
