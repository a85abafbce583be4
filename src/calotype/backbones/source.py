"""Where a model came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckpointSource:
    """Where a model came from."""

    name: str
    folder: Path | None
    """None for a pipeline object."""
    revision: str | None
    licence: str
    weights: tuple[Path, ...] = ()
    embedded: bool = False
