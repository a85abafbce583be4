"""What an evaluation found: one row per variant, one line per claim; as JSON, as a table and as the record that the docs are made from."""

from __future__ import annotations

import csv
import io
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from calotype.imaging.files import atomic_path
from calotype.metrics import Interval

if TYPE_CHECKING:
    from rich.console import RenderableType

Role = Literal["method", "baseline", "ablation", "limit", "model", "ceiling"]
PROVENANCE = ("command", "commit", "hardware", "date")
"""The last columns of a recorded table: the docs print them once below it."""


def _number(value: float) -> float | None:
    return None if not math.isfinite(value) else round(float(value), 6)


@dataclass(frozen=True)
class Row:
    """One variant of an experiment: mean and standard deviation of each metric over its scenes."""

    variant: str
    """Unique in a report; `method` and the baselines' bare names are the main experiment, `method@loop` and so on the others."""
    role: Role
    metrics: Mapping[str, float]
    """Mean over the scenes that have a number; NaN where none has."""
    sd: Mapping[str, float]
    """Standard deviation over those scenes; NaN below two."""
    n: int
    """Number of scenes."""

    @classmethod
    def of(cls, variant: str, role: Role, scenes: Mapping[str, Sequence[float]]) -> Row:
        """The row of some per-scene numbers; NaN marks a scene on which a metric has no meaning.

        Example:
            >>> Row.of("method", "method", {"end_psnr_db": [20.0, 22.0]}).metrics["end_psnr_db"]
            21.0
        """
        means, deviations = {}, {}
        for name, values in scenes.items():
            known = np.asarray([v for v in values if math.isfinite(v)], dtype=np.float64)
            means[name] = float(known.mean()) if known.size else math.nan
            deviations[name] = float(known.std(ddof=1)) if known.size > 1 else math.nan
        return cls(variant, role, means, deviations, max((len(values) for values in scenes.values()), default=0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a metric without a number is null."""
        return {
            "variant": self.variant,
            "role": self.role,
            "metrics": {name: _number(value) for name, value in self.metrics.items()},
            "sd": {name: _number(value) for name, value in self.sd.items()},
            "n": self.n,
        }


@dataclass(frozen=True)
class Claim:
    """One sentence that the method stands or falls with."""

    claim: str
    """What is claimed, with the direction of the bar."""
    value: float
    bar: float
    holds: bool
    interval: Interval | None = None
    """The bootstrap interval that decided, where there is one."""

    @classmethod
    def at_least(cls, claim: str, found: Interval, bar: float) -> Claim:
        """Holds if even the lower end of the interval reaches the bar."""
        return cls(claim, found.value, bar, bool(found.low >= bar), found)

    @classmethod
    def at_most(cls, claim: str, found: Interval, bar: float) -> Claim:
        """Holds if even the upper end of the interval stays within the bar."""
        return cls(claim, found.value, bar, bool(found.high <= bar), found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"claim": self.claim, "value": _number(self.value), "bar": _number(self.bar), "holds": self.holds}


@dataclass(frozen=True)
class Report:
    """A whole evaluation."""

    method: str
    seed: int
    count: int
    device: str
    seconds: float
    rows: Sequence[Row]
    claims: Sequence[Claim] = field(default=())
    notes: Sequence[str] = field(default=())
    """What a reader of the table has to know, one line each; not part of the JSON."""

    def __post_init__(self) -> None:
        names = [row.variant for row in self.rows]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"variants must be unique, these are not: {', '.join(sorted(twice))}")

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def row(self, variant: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.variant == variant)

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable form: only plain numbers, strings, lists and null."""
        return {
            "method": self.method,
            "seed": self.seed,
            "count": self.count,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "rows": [row.to_dict() for row in self.rows],
            "claims": [claim.to_dict() for claim in self.claims],
        }

    def render(self) -> RenderableType:
        """The table and the claims for a terminal (a rich renderable)."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = f"{self.method}: {self.count} scenes, seed {self.seed}, {self.device}, {self.seconds:.0f} s"
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(tuple(row.metrics), []).append(row)
        tables = []
        for names, rows in groups.items():
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column("variant", no_wrap=True)
            table.add_column("n", justify="right", no_wrap=True)
            for name in names:
                table.add_column(name.replace("_", " "), justify="right", overflow="fold")
            for row in rows:
                style = "bold" if row.role in ("method", "model") else ""
                table.add_row(row.variant, str(row.n), *(cell(row, name, deviation=False) for name in names), style=style)
            tables.append(table)
        lines = [Text.assemble(("holds " if c.holds else "FAILS ", "green" if c.holds else "red"), sentence(c)) for c in self.claims]
        return Group(Text(title, style="bold"), *tables, *lines, *(Text(note, style="dim") for note in self.notes))

    def record(self, folder: Path = Path("results"), *, command: str) -> list[Path]:
        """Write `<method>.csv` and `<method>.claims.csv`, the files that the docs' tables are made from.

        Args:
            folder: where to; made if it isn't there.
            command: the command that repeats this evaluation.

        Returns:
            The paths written.
        """
        origin = [command, _commit(), _hardware(self.device), date.today().isoformat()]
        rows = [[row.variant, row.role, row.n, *(cell(row, name) for name in self.metrics), *origin] for row in self.rows]
        claims = [
            [c.claim, _text(c.value), _range(c.interval), _text(c.bar), "holds" if c.holds else "**fails**", *origin] for c in self.claims
        ]
        tables: dict[str, list[list[Any]]] = {
            f"{self.method}.csv": [["variant", "role", "n", *self.metrics, *PROVENANCE], *rows],
            f"{self.method}.claims.csv": [["claim", "value", "90 % interval", "bar", "verdict", *PROVENANCE], *claims],
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in tables.items():
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerows(content)
            with atomic_path(folder / name, overwrite=True) as temporary:
                Path(temporary).write_text(text.getvalue(), encoding="utf-8")
        return [folder / name for name in tables]


def _text(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    if abs(value) < 0.0005:
        return "0"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _range(found: Interval | None) -> str:
    return "" if found is None or not math.isfinite(found.low) else f"{_text(found.low)} to {_text(found.high)}"


def cell(row: Row, name: str, deviation: bool = True) -> str:
    """Mean (and standard deviation) of one metric, for a reader."""
    if name not in row.metrics or not math.isfinite(row.metrics[name]):
        return "-"
    spread = row.sd.get(name, math.nan)
    return _text(row.metrics[name]) + (f" ± {_text(spread)}" if deviation and math.isfinite(spread) else "")


def sentence(claim: Claim) -> str:
    """The claim with what was measured, in one line."""
    interval = _range(claim.interval)
    return f"{claim.claim}: {_text(claim.value)}" + (f" (90 % interval {interval})" if interval else "") + f", bar {_text(claim.bar)}"


def _commit() -> str:
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def _hardware(device: str) -> str:
    import os

    return f"{device}, {os.cpu_count()} cores, {platform.machine()}"
