"""`calotype run style-extracting-diffusion` as a user types it: two folders in, a data set out; what is wrong is one line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from calotype.cli import app
from calotype.data.segmentation_folder import SegmentationFolder
from tests.cli.test_runs import said
from tests.tiny_style import cached_style_model, tissue_folder

STEPS = ["--num-inference-steps", "2"]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with annotated and plain pictures."""
    monkeypatch.chdir(tmp_path)
    tissue_folder(tmp_path / "labelled")
    tissue_folder(tmp_path / "plain", patients=2, seed=1)
    return tmp_path


def run(*arguments: str) -> int:
    return app.run(["run", "style-extracting-diffusion", "--model", str(cached_style_model()), *STEPS, *arguments])


def test_a_data_set_is_made(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(
        capsys, "run", "style-extracting-diffusion", "--model", str(cached_style_model()), *STEPS, "--layouts", "labelled", "--styles",
        "plain", "--count", "3", "--out", "made", "--json",
    )  # fmt: skip
    assert json.loads(out)["outputs"]["result"]
    data = SegmentationFolder.open(folders / "made" / "result", classes=(0, 100, 200), empty_masks=True)
    assert len(data) == 3
    with (folders / "made" / "result" / "table.csv").open() as file:
        assert {row["patient"] for row in csv.DictReader(file)} == {"p0", "p1"}


@pytest.mark.parametrize(
    ("layouts", "styles", "count", "words"),
    [
        ("labelled", "nowhere", "1", "nowhere"),
        ("labelled", "plain", "0", "count is 0"),
        ("broken", "plain", "1", "there are no masks"),
    ],
)
def test_what_is_wrong_is_told(
    folders: Path, capsys: pytest.CaptureFixture[str], layouts: str, styles: str, count: str, words: str
) -> None:
    (folders / "labelled").joinpath("images").rename(folders / "images")
    (folders / "broken").mkdir()
    (folders / "images").rename(folders / ("broken" if layouts == "broken" else "labelled") / "images")
    assert run("--layouts", layouts, "--styles", styles, "--count", count, "--out", "made") == 2
    assert words in capsys.readouterr().err
    assert not (folders / "made" / "result").exists()


def test_a_training_refuses_a_folder_that_is_not_there(folders: Path) -> None:
    command = [
        sys.executable, "-m", "calotype", "train", "style-extracting-diffusion", "--data", "labelled", "--styles", "nothing", "--vae",
        "toy-vae", "--window", "32", "32", "--out", "model",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing is not there" in done.stderr
    assert "Traceback" not in done.stderr
