"""What a user says about the files of a data set: captions, groups and splits, in a table or in text files beside them."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from calotype.core.untrusted import mapping, parse_json, short
from calotype.errors import InputError

TABLES = ("table.csv", "captions.csv", "metadata.csv", "metadata.jsonl")
"""All of these are read where they are there; the last is what `calotype world` and other tools write."""
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "caption": ("caption", "text"),
    "group": ("group", "patient", "subject"),
    "split": ("split",),
}
"""What a row is told, and the names that its column may have."""
TRAIN, HELD_OUT, LEFT_OUT = "train", "held-out", "left-out"
SPLITS: Mapping[str, str] = {
    "train": TRAIN,
    **dict.fromkeys(("validation", "val", "valid", "tune", "dev", "held-out", "held_out"), HELD_OUT),
    **dict.fromkeys(("test", "eval"), LEFT_OUT),
}
"""Words of a split column. What is left out is neither trained on nor measured on the way: it belongs to an evaluation afterwards."""
_MOST_BYTES = 256_000_000
_MOST_CAPTION = 4096


@dataclass(frozen=True)
class Told:
    """What the tables say about one file; "" where they say nothing."""

    caption: str = ""
    group: str = ""
    split: str = ""


def read_tables(root: Path, stems: Mapping[str, str], name_columns: Collection[str]) -> tuple[dict[str, Told], list[str]]:
    """All tables of a folder.

    Args:
        root: the data set's folder.
        stems: {each way to name a row (its file below the folder, its stem, ...): its stem}.
        name_columns: columns that may name the file, the first that is there counts.

    Returns:
        What is told of each stem, and a line for each problem.
    """
    told: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for name in TABLES:
        path = root / name
        if not path.is_file():
            continue
        try:
            entries = list(_entries(path))
        except InputError as error:
            problems.append(str(error))
            continue
        named = next((column for column in name_columns if any(column in entry for _, entry in entries)), None)
        if entries and named is None:
            problems.append(f"{name}: no column names the files; call it {name_columns_words(name_columns)}")
            continue
        for number, entry in entries:
            given = str(entry.get(named or "", "")).strip()
            stem = stems.get(_place(given)) if given else None
            if stem is None:
                problems.append(
                    f"{name}, line {number}: there is no file {short(given)!r}" if given else f"{name}, line {number}: no file is named"
                )
                continue
            problems += _take(told.setdefault(stem, {}), entry, f"{name}, line {number}")
    return {stem: Told(**values) for stem, values in told.items()}, problems


def read_columns(root: Path, stems: Mapping[str, str], name_columns: Collection[str]) -> dict[str, dict[str, str]]:
    """All columns of a checked folder's tables as {stem: {column: text}}; what is empty is left out.

    Args:
        root: the data set's folder.
        stems: as in `read_tables`.
        name_columns: as in `read_tables`.
    """
    found: dict[str, dict[str, str]] = {}
    for path in (root / name for name in TABLES if (root / name).is_file()):
        entries = [entry for _, entry in _entries(path)]
        named = next((column for column in name_columns if any(column in entry for entry in entries)), "")
        for entry in entries:
            stem = stems.get(_place(str(entry.get(named, "")).strip()))
            if stem is not None:
                found.setdefault(stem, {}).update({name: str(value).strip() for name, value in entry.items() if value not in (None, "")})
    return found


def one_spelling(name: str) -> str:
    """A name whose letters with accents are single characters, whichever way the file system or a spreadsheet spells them."""
    return unicodedata.normalize("NFC", name)


def _place(given: str) -> str:
    return one_spelling(PurePosixPath(given.replace("\\", "/")).as_posix())


def name_columns_words(columns: Collection[str]) -> str:
    """
    >>> name_columns_words(["clip", "file_name", "stem"])
    'clip, file_name or stem'
    """
    *first, last = columns
    return f"{', '.join(first)} or {last}" if first else last


def _take(told: dict[str, str], entry: Mapping[str, object], place: str) -> Iterator[str]:
    for key, names in COLUMNS.items():
        value = next((str(entry[name]).strip() for name in names if entry.get(name) not in (None, "")), "")
        if key == "split" and value:
            if value.lower() not in SPLITS:
                yield f"{place}: split {short(value)!r} is unknown; it is one of {', '.join(SPLITS)}"
                continue
            value = SPLITS[value.lower()]
        if len(value) > _MOST_CAPTION:
            yield f"{place}: its {key} has {len(value):,} characters; at most {_MOST_CAPTION:,} are read"
        elif value and told.get(key, value) != value:
            yield f"{place}: a second {key} for the same file ({short(value)!r}, before it was {short(told[key])!r})"
        elif value:
            told[key] = value


def _entries(path: Path) -> list[tuple[int, dict[str, object]]]:
    """The rows of a table with the numbers of their lines.

    Raises:
        InputError: it can't be read.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path.name} has {path.stat().st_size / 1e6:.0f} MB; at most {_MOST_BYTES / 1e6:.0f} are read")
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is no UTF-8 text; save it as CSV in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path.name} can't be read ({(error.strerror or '').lower()})") from None
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
        return [(number, mapping(parse_json(line, f"{path.name}, line {number}"), f"{path.name}, line {number}")) for number, line in lines]
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path.name}, line {reader.line_num}: no CSV ({error}); save it as CSV with commas") from None
    if not reader.fieldnames:
        raise InputError(f"{path.name} is empty; its first line names the columns")
    for number, row in rows:
        if None in row:
            raise InputError(f"{path.name}, line {number}: it has more entries than there are columns; put text with commas in quotes")
    return [(number, {str(name).strip().lower(): value for name, value in row.items()}) for number, row in rows]


def text_beside(path: Path) -> str | None:
    """The caption in a text file of the same name beside a file, None where there is none.

    Raises:
        InputError: it is empty, too long or no UTF-8.
    """
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return None
    try:
        content = " ".join(beside.read_bytes()[: 4 * _MOST_CAPTION + 1].decode("utf-8-sig").split())
    except UnicodeDecodeError:
        raise InputError(f"{beside.name} is no UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{beside.name} can't be read ({(error.strerror or '').lower()})") from None
    if not content or len(content) > _MOST_CAPTION:
        raise InputError(f"{beside.name} {'is empty' if not content else 'is too long'}; a caption has 1 to {_MOST_CAPTION:,} characters")
    return content
