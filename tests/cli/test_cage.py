"""`calotype run cage` and `calotype train cage` as a user types them: a clip and a sheet; what is wrong is one line and exit status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow

from calotype.cli import app
from tests.cli.test_runs import said
from tests.tiny import cached
from tests.tiny_cage import SIDE, cached_cage_model, clips_folder, tiny_dinov2


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two pictures."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.png", "b.png")):
        values = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(number))
        Pillow.fromarray((values * 255).byte().numpy()).save(name)
    return tmp_path


def run(*arguments: str) -> int:
    return app.run(["run", "cage", "--num-inference-steps", "2", *arguments])


def test_a_move_and_patches_make_a_clip_and_a_sheet(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(cached_cage_model()), "--num-inference-steps", "2", "--json"]
    out, _ = said(capsys, "run", "cage", *model, "--image", "a.png", "--move", "1,1:2,2@1-3", "--move", "0,0:0,1@1", "--frames", "3")
    assert set(json.loads(out)["outputs"]) >= {"video", "sheet"}
    out, _ = said(capsys, "run", "cage", *model, "--patch", "a.png:0,0-1,1@2,2", "--patch", "b.png:3,3@0,0", "--out", "made")
    assert (pictures / "made" / "sheet.png").is_file()
    record = json.loads((pictures / "made" / "run.json").read_text())
    assert "1:3,3@0,0" in json.dumps(record)  # the pictures are kept with the run, and the patches name them


def test_a_bad_path_is_one_line_of_a_process(pictures: Path) -> None:
    command = [sys.executable, "-m", "calotype", "run", "cage", "--image", "a.png", "--out", "made"]
    command += ["--model", str(cached_cage_model()), "--move", "1,1:2,2@1;2,2@3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "has frame 3 after frame 1" in done.stderr
    assert not (pictures / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "a.png", "--move", "1,1"], "has no path"),
        (["--image", "a.png", "--move", "1,1:9,1@1"], "the cell 9,1"),
        (["--image", "a.png", "--move-px", "99,1:1,1@1"], "the pixel 99,1"),
        (["--patch", "nowhere.png:1,1@1,1"], "nowhere.png"),
        (["--patch", "a.png"], "no PICTURE:SOURCE@PATH"),
        ([], "nothing is given"),
    ],
)
def test_bad_commands_are_refused(pictures: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert run("--model", str(cached_cage_model()), *arguments, "--out", "made") == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (pictures / "made" / "video.mp4").exists()


def test_another_models_checkpoint_is_refused(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", str(cached("toy-vae")), "--image", "a.png", "--out", "made") == 2
    assert "toy-cage" in capsys.readouterr().err


def test_clips_that_are_too_short_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips_folder(tmp_path / "clips", count=2)
    command = ["train", "cage", "--data", str(tmp_path / "clips"), "--out", str(tmp_path / "model")]
    command += ["--autoencoder", str(cached("toy-vae"))]
    assert app.run([*command, "--size", str(SIDE), str(SIDE), "--num-frames", "9"]) == 2
    told_problems = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert {"clip0: 6 frames, 9 are needed", "clip1: 6 frames, 9 are needed"} <= set(told_problems)


def test_public_weights_are_converted_and_run(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from calotype.backbones.official_cage_network import OfficialCageTransformer
    from tests.backbones.test_official_cage import official

    network = OfficialCageTransformer(grid=(8, 8), width=32, depth=5, heads=4, feature_width=8)
    torch.save(official(network), "model.pth")
    command = ["models", "convert", "model.pth", "--features", str(tiny_dinov2(pictures / "dino")), "--autoencoder", str(cached("toy-vae"))]
    command += ["--size", str(SIDE), str(SIDE)]
    assert app.run([*command, "--out", "two-layers"]) == 2
    assert "the parts have 4 and 16" in " ".join(capsys.readouterr().err.split())
    assert app.run([*command, "--feature-layers", "1", "--out", "converted"]) == 0
    assert "never run with them" in " ".join(capsys.readouterr().err.split())
    assert run("--model", "converted", "--image", "a.png", "--move", "1,1:2,2@1-3", "--frames", "3", "--out", "made") == 0
    assert not (pictures / "two-layers").exists()
