"""`chain.json`, the record of a chain: its files, every setting, and every link's record. It is read as a stranger may have written it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calotype.core.untrusted import choice, file_name, mapping, parse_json, short, text, whole
from calotype.data.files import plain_file
from calotype.errors import InputError
from calotype.imaging.files import write_json
from calotype.runs.entries import Record
from calotype.runs.hashing import checked_digest
from calotype.runs.record import INPUTS, MOST_SEED, own_copy, parse_model, parse_record

RECORD = "chain.json"
FORMAT = 1
LINK_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
_REMEDY = "give the folder of another chain"
_DIGEST = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class ChainRecord:
    """What the folder of a chain says about itself."""

    links: Mapping[str, Any]
    """As `Chain.of` takes them; files are told from the folder."""
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    files: Mapping[str, str] = field(default_factory=dict)
    """The copies of the user's files, `inputs/NUMBER-NAME`, each with its sha256."""
    records: Mapping[str, Record] = field(default_factory=dict)
    """Of the links that ended."""

    def write(self, folder: Path) -> None:
        """Write `chain.json`, whole or not at all."""
        header = {"calotype_chain": FORMAT, "seed": self.seed, "device": self.device, "dtype": self.dtype, "files": dict(self.files)}
        records = {name: record.to_json() for name, record in self.records.items()}
        write_json(folder / RECORD, {**header, "links": _relative(self.links, folder), "records": records})

    def to_links(self) -> dict[str, Any]:
        """The chain as `Chain.of` takes it."""
        return {"links": dict(self.links)}

    def link_folders(self) -> list[str]:
        """The names of the links' run folders."""
        return [f"{number}-{link}" for number, link in enumerate(self.links, start=1)]

    def own_files(self, folder: Path) -> dict[str, Path]:
        """The copies of the user's files by their names in the record.

        Raises:
            InputError: one is missing, is a link, or has changed.
        """
        found = {}
        for name, digest in self.files.items():
            place = own_copy(folder, name)
            if place is None or checked_digest(place, name) != digest:
                raise InputError(f"{folder / name} is missing or has changed since the chain ran; copy it back")
            found[name] = place
        return found


def read_chain_record(folder: Path) -> ChainRecord:
    """What `chain.json` holds.

    Raises:
        InputError: there is none, one of another format, or one with a value that no chain of ours writes.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{folder} holds no {RECORD}, so it is no folder of a chain")
    values = parse_json(plain_file(path, "chain").read_bytes(), str(path), _REMEDY)
    if not isinstance(values, dict) or values.get("calotype_chain") != FORMAT:
        raise InputError(f"{path} is no record of a chain that this version reads (format {FORMAT})")
    model = parse_model({"name": "", "device": values.get("device", "auto"), "dtype": values.get("dtype", "auto")}, str(path))
    links = mapping(values.get("links"), f"{path}: links", most=1000)
    return ChainRecord(
        links={text(name, f"{path}: links", pattern=LINK_NAME, expected="the name of a link"): entry for name, entry in links.items()},
        seed=whole(values.get("seed", 0), f"{path}: seed", 0, MOST_SEED),
        device=model.device,
        dtype=model.dtype,
        files=dict(_file(name, digest, f"{path}: files") for name, digest in mapping(values.get("files", {}), f"{path}: files").items()),
        records={
            choice(name, f"{path}: records", tuple(links)): parse_record(entry, f"{path}: {short(name)}")
            for name, entry in mapping(values.get("records", {}), f"{path}: records").items()
        },
    )


def _file(name: Any, digest: Any, subject: str) -> tuple[str, str]:
    text(name, subject, pattern=rf"{INPUTS}/\d{{1,6}}-[^/]+", expected=f"a file in {INPUTS}/")
    file_name(name.removeprefix(f"{INPUTS}/"), subject)
    return name, text(digest, subject, pattern=_DIGEST, expected="a sha256 in hexadecimal")


def _relative(value: Any, folder: Path) -> Any:
    """The links with paths inside of the folder told from there, so that the folder can be moved."""
    if isinstance(value, str):
        return value.removeprefix(f"{folder}/")
    if isinstance(value, Mapping):
        return {key: _relative(item, folder) for key, item in value.items()}
    return [_relative(item, folder) for item in value] if isinstance(value, list | tuple) else value
