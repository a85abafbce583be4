"""SIGKILL at several moments: no half file under its final name, and `resume` ends bit for bit where an uninterrupted run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as Pillow

MOMENTS = [[1], [3, 2, 2], [6], [9], [12]]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    root = tmp_path_factory.mktemp("killing")
    picture = root / "start.png"
    Pillow.linear_gradient("L").convert("RGB").save(picture)
    command = [sys.executable, "-m", "tests.runs.killing", str(root), str(picture), json.dumps(MOMENTS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout)


@pytest.mark.parametrize("index", range(len(MOMENTS)))
def test_a_killed_run_ends_bit_for_bit_as_an_uninterrupted_one(outcome: tuple[Path, list[dict]], index: int) -> None:
    root, found = outcome
    whole = json.loads((root / "whole" / "run.json").read_text())
    record = found[index]["record"]
    assert record["status"] == "finished"
    assert record["sessions"] == len(MOMENTS[index]) + 1
    for name in ("result", "contact-sheet"):
        assert record["outputs"][name]["pixels_sha256"] == whole["outputs"][name]["pixels_sha256"]
        file = record["outputs"][name]["file"]
        assert (root / f"killed-{index}" / file).read_bytes() == (root / "whole" / file).read_bytes()


def test_later_kills_are_not_computed_from_the_beginning(outcome: tuple[Path, list[dict]]) -> None:
    _, found = outcome
    late = found[MOMENTS.index([12])]["lines"]
    after = late[next(index for index, line in enumerate(late) if line["event"] == "resumed") :]
    first_step = next(line for line in after if line["event"] == "step")
    assert first_step["done"] >= 5


def test_what_a_kill_leaves_is_whole(outcome: tuple[Path, list[dict]]) -> None:
    root, found = outcome
    allowed = {
        "run.json",
        "progress.jsonl",
        "inputs/start.png",
        "state/fade.safetensors",
        "state/state.json",
        "result.mp4",
        "contact-sheet.png",
    }
    for index, case in enumerate(found):
        for left in case["left"]:
            assert {name for name in left if not name.startswith("previews/")} <= allowed
            assert {"run.json", "inputs/start.png"} <= set(left)
        for preview in (root / f"killed-{index}" / "previews").glob("*.png"):
            Pillow.open(preview).load()
        assert not [name for name in case["files"] if name.startswith("state/")]
        seconds = [line["seconds"] for line in case["lines"]]
        assert seconds == sorted(seconds)
