"""`run.json`: everything that is needed to do a run again, and what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from calotype.core.errors import InputError
from calotype.core.files import write_json
from calotype.core.media import read_metadata
from calotype.data.files import plain_file

RECORD_NAME = "run.json"
METADATA_KEY = "calotype"
"""The text entry of results that holds the record."""
FORMAT = 1


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


@dataclass(frozen=True)
class Record:
    """What a run folder says about itself."""

    method: str
    """Slug."""
    model: ModelRequest
    preset: str
    parameters: dict[str, Any]
    """Every field of the method, resolved."""
    arguments: dict[str, Any]
    """The plain arguments of the call; files are in `inputs`."""
    seed: int
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By argument name (`name` or `name.3`): `file` in the run folder, `path` where the user has it, `sha256`."""
    environment: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint says of itself, and `sha256` over its files."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, the format's number first."""
        return {"calotype_run": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any], source: str = "run.json") -> Record:
        """The record that `to_json` wrote; entries that it doesn't know are left out.

        Raises:
            InputError: it is no record, or one of a later format.
        """
        if not isinstance(values, Mapping) or "calotype_run" not in values:
            raise InputError(f"{source} holds no Calotype run; give a run folder, its run.json, or a file that a run made")
        if values["calotype_run"] != FORMAT:
            raise InputError(
                f"{source} has run format {values['calotype_run']}, this version reads {FORMAT}; use the version that wrote it"
            )
        known = {item.name for item in fields(Record)}
        chosen = {key: value for key, value in values.items() if key in known}
        try:
            chosen["model"] = ModelRequest(**chosen["model"])
            chosen["command"], chosen["notes"] = tuple(chosen.get("command", ())), tuple(chosen.get("notes", ()))
            return Record(**chosen)
        except (KeyError, TypeError) as error:
            raise InputError(f"{source} is not a complete run record ({error}); give another file of the same run") from None

    def write(self, folder: Path) -> None:
        """Write `run.json`, whole or not at all."""
        write_json(folder / RECORD_NAME, self.to_json())

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
        return {METADATA_KEY: json.dumps(whole, ensure_ascii=True, separators=(",", ":"), allow_nan=False)}

    def changed(self, **values: Any) -> Record:
        """A copy with other values."""
        return replace(self, **values)


def read_record(source: str | os.PathLike[str]) -> tuple[Record, Path | None]:
    """The record of a run, from its folder, its `run.json` or one of its results.

    Returns:
        The record, and the run folder if `source` is one or lies in the one that made it.

    Raises:
        InputError: nothing there, or nothing that a run of ours made.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / RECORD_NAME).is_file():
            raise InputError(f"{path} holds no {RECORD_NAME}, so it is no run folder (or was stopped before the run began)")
        path = path / RECORD_NAME
    if not path.exists():
        raise InputError(f"{path} does not exist; give a run folder, its run.json, or a file that a run made")
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not readable JSON ({error}); give another file of the same run") from None
        return Record.from_json(values, str(path)), path.parent
    try:
        text = read_metadata(plain_file(path)).get(METADATA_KEY, "")
    except InputError:
        text = ""
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        values = {}
    record = Record.from_json(values, str(path))
    beside = path.parent / RECORD_NAME
    return record, path.parent if beside.is_file() else None


def shortened(path: Path) -> str:
    """An absolute path, with `~` for the home folder, so that results which are passed on don't tell whose it is."""
    absolute = Path(os.path.abspath(path))
    try:
        return f"~/{absolute.relative_to(Path.home()).as_posix()}"
    except (ValueError, RuntimeError):
        return str(absolute)
