"""A training on more than one data folder: what the others hold counts, and where they lie doesn't."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from tests.train.toy_training import MeanTraining, Points


@dataclass(frozen=True, kw_only=True)
class MeanOfTwo(MeanTraining):
    """The middle of two folders' points."""

    folders: ClassVar[tuple[str, ...]] = ("further",)
    further: str = ""

    def data_set(self, data: Path, kept: Path, events: Events = SILENT) -> Points:
        more = super().data_set(Path(self.further), kept).values if self.further else ()
        return Points(super().data_set(data, kept).values + more)


def points(folder: Path, *lines: str) -> Path:
    folder.mkdir()
    (folder / "points.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_further_folder_may_move_and_may_not_change(tmp_path: Path) -> None:
    data, further, out = points(tmp_path / "a", "1,2", "3,4"), points(tmp_path / "b", "5,6"), tmp_path / "out"
    MeanOfTwo(further=str(further))(data, out, budget="2steps", device="cpu")
    facts = json.loads((out / "training.json").read_text())
    assert facts["further"] == str(further)
    assert "further" not in facts["settings"]
    moved = further.rename(tmp_path / "c")
    assert MeanOfTwo(further=str(moved))(data, out, budget="2steps", device="cpu") == out
    (moved / "points.csv").write_text("7,8\n")
    with pytest.raises(InputError, match="holds a training with data"):
        MeanOfTwo(further=str(moved))(data, out, budget="2steps", device="cpu")


def test_results_within_a_further_folder_are_refused(tmp_path: Path) -> None:
    data, further = points(tmp_path / "a", "1,2", "3,4"), points(tmp_path / "b", "5,6")
    with pytest.raises(InputError, match="into which nothing is written"):
        MeanOfTwo(further=str(further))(data, further / "out", budget="2steps", device="cpu")
    assert sorted(path.name for path in further.iterdir()) == ["points.csv"]
