"""`calotype train diffusion-segmentation` as a user types it, on a folder with many faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from calotype.cli import app
from tests.data.test_segmentation_files import FAULTS
from tests.data.test_segmentation_folder import folder


def test_ten_faults_are_ten_lines_and_nothing_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = folder(tmp_path / "data", 24)
    faults = sorted(FAULTS)[:10]
    for number, fault in enumerate(faults):
        FAULTS[fault](home / "images" / f"p{number}.png", home / "masks" / f"p{number}.png")
    arguments = ["--data", str(home), "--out", str(tmp_path / "out"), "--window", "16,16", "--classes", "0,255", "--budget", "1steps"]
    assert app.run(["train", "diffusion-segmentation", *arguments]) == 2
    printed = capsys.readouterr()
    *lines, last = printed.err.strip().splitlines()
    assert printed.out == ""
    assert all(sum(f"p{number}." in line or f"p{number}:" in line for line in lines) == 1 for number in range(len(faults)))
    assert len(lines) == len(faults)
    assert "has 10 problems" in last
    assert not (tmp_path / "out" / "training.json").exists()
