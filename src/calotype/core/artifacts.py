"""What goes into a method and comes out of it besides pictures, masks, clips and volumes: folders, tables, reports, points, poses, ledgers.

Each text format is read back to the same value, and its text is what a value's identity is computed from.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float64
from torch import Tensor

from calotype.core.untrusted import listed, mapping, number, parse_json, short, text
from calotype.errors import InputError, ShapeError

Cell = str | int | float | None
_MOST_ROWS = 10_000_000
_MOST_COLUMNS = 10_000
# What begins with a superfluous zero is a name, such as that of a patient.
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_WORD = r"[^\x00-\x1f\x7f]{1,200}"


@dataclass(frozen=True, eq=False)
class Folder:
    """Any files in a folder.

    Raises:
        InputError: `path` is no folder.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise InputError(f"{self.path} is no folder; give a folder of files")

    @classmethod
    def temporary(cls) -> Self:
        """A new empty folder for a method's result. It is removed with this object; a run copies it first.

        Example:
            >>> made = DatasetFolder.temporary()
            >>> _ = (made.path / "a.txt").write_text("x")
            >>> [item.name for item in made.path.iterdir()]
            ['a.txt']
        """
        path = Path(tempfile.mkdtemp(prefix="calotype-"))
        made = cls(path)
        weakref.finalize(made, shutil.rmtree, path, ignore_errors=True)
        return made


@dataclass(frozen=True, eq=False)
class DatasetFolder(Folder):
    """A folder with the files of a data set."""


@dataclass(frozen=True, eq=False)
class CheckpointFolder(Folder):
    """A folder with the files of a checkpoint, as `calotype.load` reads it."""


@dataclass(frozen=True)
class Table:
    """Named columns, and rows of numbers and text.

    Raises:
        InputError: no columns, two of one name, a row of another length, or a number that is not finite.

    Example:
        >>> table = Table(("case", "dice"), (("a", 0.5), ("b", None)))
        >>> table.to_text()
        'case,dice\\na,0.5\\nb,\\n'
        >>> Table.from_text(table.to_text()) == table
        True
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) < len(self.columns) or not all(re.fullmatch(_WORD, name) for name in self.columns):
            raise InputError(f"the columns are {short(self.columns)}; one or more different names are expected")
        for place, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InputError(f"row {place + 1} has {len(row)} values for {len(self.columns)} columns; give one for each column")
            for value in row:
                if isinstance(value, float) and not math.isfinite(value):
                    raise InputError(f"row {place + 1} holds {value}; leave a value out with None")

    def to_text(self) -> str:
        """CSV: a line with the names, then the rows; what is None is empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(
            ["" if value is None else repr(value) if isinstance(value, float) else value for value in row] for row in self.rows
        )
        return buffer.getvalue()

    @classmethod
    def from_text(cls, content: str, name: str = "table") -> Table:
        """CSV with a first line of names; what looks like a number is one.

        Args:
            content: the text.
            name: what messages call it.

        Raises:
            InputError: no such table.
        """
        try:
            lines = [line for line in csv.reader(io.StringIO(content), strict=True) if line]
        except csv.Error as error:
            raise InputError(f"{name} is no CSV ({short(error)}); check quotes and line ends") from None
        if not lines or len(lines) > _MOST_ROWS or len(lines[0]) > _MOST_COLUMNS:
            found = f"{len(lines)} lines of {len(lines[0])} columns" if lines else "no line"
            raise InputError(f"{name} has {found}; a line of names and at most {_MOST_ROWS} rows are expected")
        try:
            return cls(tuple(lines[0]), tuple(tuple(map(_cell, line)) for line in lines[1:]))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


def _cell(content: str) -> Cell:
    if not content:
        return None
    if _WHOLE.fullmatch(content):
        return int(content)
    return float(content) if _NUMBER.fullmatch(content) and math.isfinite(float(content)) else content


@dataclass(frozen=True)
class HtmlReport:
    """A page for a reader, as HTML."""

    html: str

    def to_text(self) -> str:
        """The page."""
        return self.html

    @classmethod
    def from_text(cls, content: str, name: str = "report") -> HtmlReport:
        """The same from a file's text.

        Raises:
            InputError: no HTML.
        """
        if "<" not in content:
            raise InputError(f"{name} holds no HTML; give a page")
        return cls(content)


@dataclass(frozen=True, eq=False)
class Points:
    """Points in a picture or in space, with further numbers for each.

    Raises:
        ShapeError: the coordinates are not [N, 2] or [N, 3] float64, or a column hasn't one float64 number for each point.
        InputError: a coordinate that is not finite.

    Example:
        >>> points = Points(torch.tensor([[1.0, 2.0]], dtype=torch.float64), {"score": torch.tensor([0.5], dtype=torch.float64)})
        >>> points.to_text()
        'x,y,score\\n1.0,2.0,0.5\\n'
    """

    coordinates: Float64[Tensor, "points axes"]
    """In pixels (x to the right, y down), or in metres."""
    columns: Mapping[str, Float64[Tensor, " points"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.coordinates.ndim != 2 or self.coordinates.shape[1] not in (2, 3) or self.coordinates.dtype != torch.float64:
            raise ShapeError(f"points were given as {self.coordinates.dtype} {list(self.coordinates.shape)}; give float64 [points, 2 or 3]")
        for name, values in self.columns.items():
            if name in "xyz" or values.shape != self.coordinates.shape[:1] or values.dtype != torch.float64:
                raise ShapeError(f"{name}: {values.dtype} {list(values.shape)} for {len(self.coordinates)} points; give one float64 each")
        if not bool(self.coordinates.isfinite().all()):
            raise InputError("points have coordinates that are no numbers; leave such points out")

    def to_text(self) -> str:
        """CSV with the columns x, y, (z) and the further ones."""
        axes = ("x", "y", "z")[: self.coordinates.shape[1]]
        stacked = torch.cat([self.coordinates, *(values[:, None] for values in self.columns.values())], dim=1)
        return Table((*axes, *self.columns), tuple(map(tuple, stacked.tolist()))).to_text()

    @classmethod
    def from_text(cls, content: str, name: str = "points") -> Points:
        """The same from a file's text.

        Raises:
            InputError: no table of numbers with the columns x and y.
        """
        table = Table.from_text(content, name)
        axes = 3 if table.columns[:3] == ("x", "y", "z") else 2
        if table.columns[:2] != ("x", "y") or any(name in "xyz" for name in table.columns[axes:]):
            raise InputError(f"{name} has the columns {short(', '.join(table.columns))}; x, y and (in space) z are expected first")
        if any(isinstance(value, str) or value is None for row in table.rows for value in row):
            raise InputError(f"{name} holds a value that is no number; leave such points out")
        values = torch.tensor(table.rows, dtype=torch.float64).reshape(len(table.rows), len(table.columns))
        return cls(
            values[:, :axes].clone(), {column: values[:, place].clone() for place, column in enumerate(table.columns) if place >= axes}
        )


@dataclass(frozen=True, eq=False)
class Pose:
    """Where something is: a rotation and a shift in metres, as a 4x4 matrix from its own frame to the world.

    Raises:
        ShapeError: the matrix is not [4, 4] float64.
        InputError: it is no rigid motion.

    Example:
        >>> Pose.from_text(Pose(torch.eye(4, dtype=torch.float64)).to_text()).matrix.diagonal().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    matrix: Float64[Tensor, "4 4"]

    def __post_init__(self) -> None:
        if self.matrix.shape != (4, 4) or self.matrix.dtype != torch.float64:
            raise ShapeError(f"a pose was given as {self.matrix.dtype} {list(self.matrix.shape)}; give float64 [4, 4]")
        rotation, last = self.matrix[:3, :3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
        straight = bool(self.matrix.isfinite().all()) and bool(torch.equal(self.matrix[3], last.to(self.matrix.device)))
        if not straight or float((rotation @ rotation.T - torch.eye(3).to(rotation)).abs().max()) > 1e-6 or float(rotation.det()) < 0:
            raise InputError(f"the matrix {short(self.matrix.tolist(), 120)} is no rotation with a shift; give a rigid motion")

    def to_text(self) -> str:
        """JSON."""
        return json.dumps({"pose": self.matrix.tolist(), "unit": "m"}) + "\n"

    @classmethod
    def from_text(cls, content: str, name: str = "pose") -> Pose:
        """The same from a file's text.

        Raises:
            InputError: no pose in metres.
        """
        entries = mapping(parse_json(content, name), name)
        rows = [[number(value, f"{name}: pose") for value in listed(row, name)] for row in listed(entries.get("pose"), f"{name}: pose")]
        if len(rows) != 4 or any(len(row) != 4 for row in rows) or entries.get("unit") != "m":
            raise InputError(f"{name} holds no 4x4 matrix 'pose' with the unit 'm'; give one")
        try:
            return cls(torch.tensor(rows, dtype=torch.float64))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Ledger:
    """What was spent, entry by entry, such as the privacy budget of each release.

    Example:
        >>> Ledger.from_text(Ledger(({"mechanism": "query", "epsilon": 0.5},)).to_text()).entries[0]["epsilon"]
        0.5
    """

    entries: tuple[Mapping[str, Cell], ...] = ()

    def to_text(self) -> str:
        """One JSON object a line."""
        return "".join(json.dumps(dict(entry), allow_nan=False) + "\n" for entry in self.entries)

    @classmethod
    def from_text(cls, content: str, name: str = "ledger") -> Ledger:
        """The same from a file's text.

        Raises:
            InputError: a line that is no object of numbers and text.
        """
        return cls(tuple(_entries(content.splitlines(), name)))


def _entries(lines: Sequence[str], name: str) -> Iterator[dict[str, Cell]]:
    for place, line in enumerate(lines, start=1):
        subject = f"{name}: line {place}"
        entry = mapping(parse_json(line, subject), subject, most=100)
        for key, value in entry.items():
            text(key, subject, pattern=_WORD)
            if not (value is None or isinstance(value, str | int | float)):
                raise InputError(f"{subject}: {short(key)} is {short(value)}; a number or text is expected")
        yield entry
