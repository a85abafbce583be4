"""`calotype run design-edit` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from calotype.cli import app
from tests.tiny import cached

STEPS = ["--num-inference-steps", "3"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Pillow.linear_gradient("L").resize((64, 64)).convert("RGB").save("a.png")
    for name, (left, top, right, bottom) in {"m.png": (8, 8, 24, 24), "empty.png": (0, 0, 0, 0), "small.png": (0, 0, 8, 8)}.items():
        mask = np.zeros((32, 32) if name == "small.png" else (64, 64), dtype=np.uint8)
        mask[top:bottom, left:right] = 255
        Pillow.fromarray(mask).save(name)
    return tmp_path


def run(*arguments: str) -> int:
    return app.run(["run", "design-edit", "--image", "a.png", "--model", str(cached("toy-t2i")), *STEPS, *arguments])


def test_a_plan_runs_and_runs_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plan.json").write_text(json.dumps({"layers": [{"mask": "m.png", "dx": 0.3, "flip": "h"}]}))
    assert run("--plan", "plan.json", "--out", "one", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["outputs"]["result"]["width"] == 64
    assert record["inputs"]["masks.0"]["name"] == "m.png"
    for name in ("a.png", "m.png", "plan.json"):
        (folder / name).unlink()
    assert app.run(["rerun", "one", "--trust", "--out", "two"]) == 0
    assert "bit for bit the same" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["--remove", "--plan"])
def test_transparency_is_asked_about_and_a_rerun_keeps_the_answer(folder: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    cut_out = np.zeros((64, 64, 4), dtype=np.uint8)
    cut_out[8:24, 8:24] = (200, 30, 30, 255)
    Pillow.fromarray(cut_out).save("cut.png")

    def edit(mask: str) -> tuple[str, str]:
        return given, mask if given == "--remove" else json.dumps({"remove": [mask]})

    assert run(*edit("cut.png"), "--out", "no") == 2
    assert "write opaque:FILE or transparent:FILE" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "no").exists()
    assert run(*edit("m.png"), "--out", "plain", "--quiet") == 0
    assert run(*edit("opaque:cut.png"), "--out", "cut", "--quiet") == 0
    assert np.array_equal(np.asarray(Pillow.open("plain/result.png")), np.asarray(Pillow.open("cut/result.png")))
    (folder / "cut.png").unlink()
    capsys.readouterr()
    assert app.run(["rerun", "cut", "--trust", "--out", "again"]) == 0
    assert "bit for bit the same" in capsys.readouterr().out


def test_untouched_pixels_of_the_file_are_exact(folder: Path) -> None:
    assert run("--remove", "box:30,30,44,44", "--out", "one", "--quiet") == 0
    before, after = (np.asarray(Pillow.open(folder / name)) for name in ("a.png", "one/result.png"))
    changed = (before != after).any(-1)
    assert changed.any()
    assert not changed[:20].any()
    assert not changed[:, 55:].any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--remove", "small.png"), "the mask is 32x32 px and the picture 64x64"),
        (("--remove", "empty.png"), "the mask is empty"),
        (("--remove", "polygon:1,1;80,2;5,5"), "lies outside of the picture"),
        (("--plan", "plan.json"), "the key 'remvoe' is unknown; did you mean remove?"),
        (("--plan", "absent.json"), "does not exist"),
        (("--swap", "m.png"), "the two that change places"),
        ((), "nothing is to be done"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    (folder / "plan.json").write_text('{"remvoe": ["m.png"]}')
    assert run(*arguments, "--out", "bad") == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("calotype:")]) == 1
    assert not (folder / "bad").exists()
