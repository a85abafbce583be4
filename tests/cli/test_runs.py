"""run, resume, rerun and compare as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calotype.cli import app
from calotype.cli.console import seconds_text
from calotype.cli.demo import example_files, example_pair
from calotype.data import read_image
from tests.cli.conftest import ROOT
from tests.tiny import cached

FADE = ["run", "toy-fade", "--start", "first.png", "--end", "last.png", "--gain", "0.5"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    found = app.run(arguments)
    captured = capsys.readouterr()
    assert found == status, captured.err
    return captured.out, captured.err


@pytest.mark.usefixtures("plugins")
def test_run_rerun_compare(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, *FADE, "--seed", "5", "--wobble.strength", "0.3", "--preset", "quick")
    (folder,) = (here / "runs").iterdir()
    assert folder.name.endswith("-toy-fade")
    assert f"runs/{folder.name}/result.mp4" in out
    assert "4 frames, 32x32 px, 4 fps" in out
    assert "fade, 2 steps" in err
    record = json.loads((folder / "run.json").read_text())
    assert record["parameters"]["wobble"]["strength"] == 0.3
    assert (record["preset"], record["seed"], record["command"][:2]) == ("quick", 5, ["calotype", "run"])

    out, err = said(capsys, "rerun", str(folder / "contact-sheet.png"), "--out", "again", "--json")
    told = json.loads(out)
    assert told["identical"] is True
    assert told["outputs"]["result"]["pixels_sha256"] == record["outputs"]["result"]["pixels_sha256"]

    out, _ = said(capsys, "compare", str(folder), "again")
    assert "bit for bit the same" in out
    assert "wobble" not in out
    out, _ = said(capsys, "compare", str(folder), "again", "--all")
    assert "wobble.strength" in out

    out, err = said(capsys, *FADE, "--out", "quiet", "--quiet")
    assert (out.strip(), err) == ("quiet", "")
    assert app.run([*FADE, "--out", "quiet"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    said(capsys, *FADE, "--out", "quiet", "--overwrite")


@pytest.mark.usefixtures("plugins", "here")
def test_failures_have_their_status_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, *FADE, "--fault", "strange", "--out", "strange", status=4)
    assert "ZeroDivisionError: strange (traceback: strange/traceback.log)" in err
    assert "Traceback" not in err
    _, err = said(capsys, *FADE, "--fault", "error", "--out", "error", status=2)
    assert "half way" in err
    out, err = said(capsys, *FADE[:3], "absent.png", "--json", status=2)
    assert "absent.png does not exist" in json.loads(out)["error"]


@pytest.fixture(scope="module")
def tiny() -> str:
    return str(cached("toy-i2v"))


def test_time_reversal_fusion_from_the_command_line(here: Path, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "time-reversal-fusion", "--model", tiny, "--start", "first.png", "--end", "last.png", "--num-inference-steps", "2"]
    out, err = said(capsys, *arguments, "--out", "clip", "--json", "--seed", "3")
    record = json.loads(out)
    assert record["outputs"]["result"]["frames"] == 8
    assert record["checkpoint"]["role"] == "ImageToVideo"
    assert len(record["checkpoint"]["sha256"]) == 64
    assert record["metrics"]["model_calls"] > 0
    assert record["preset"] == "paper"
    assert "end: 256x256 px resized to 64x64" in err
    out, _ = said(capsys, "rerun", "clip/result.mp4", "--trust", "--out", "again")
    assert "bit for bit the same" in out
    out, _ = said(capsys, "doctor", "time-reversal-fusion", "--model", tiny)
    assert "rough estimate" in out


def test_the_checkpoint_names_the_preset(here: Path, tiny: str) -> None:
    from calotype.methods.time_reversal_fusion import TimeReversalFusion
    from calotype.runs.presets import default_model, default_preset

    assert default_preset(TimeReversalFusion, tiny) == "paper"
    (here / "folder").mkdir()
    (here / "folder" / "calotype.json").write_text('{"presets": {"time-reversal-fusion": "fast"}}')
    assert default_preset(TimeReversalFusion, "folder") == "fast"
    assert default_model(TimeReversalFusion) == "toy-i2v"
    assert default_preset(TimeReversalFusion, "toy-i2v") == "toy"


def start(here: Path, plugin_path: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{plugin_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "calotype", *arguments]
    return subprocess.Popen(command, cwd=here, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_steps(folder: Path, steps: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        progress = folder / "progress.jsonl"
        if progress.exists() and progress.read_text().count('"step"') > steps:
            return
        time.sleep(0.005)
    raise AssertionError(f"{folder} made no {steps} steps in a minute")


@pytest.mark.usefixtures("plugins")
def test_ctrl_c_and_kill_in_a_real_process(here: Path, plugin_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = ["--num-inference-steps", "30", "--delay", "0.05"]
    said(capsys, *FADE, *slow[:2], "--out", "whole")

    stopped, killed = (start(here, plugin_path, *FADE, *slow, "--out", name, "--json") for name in ("stopped", "killed"))
    wait_for_steps(here / "stopped", 3)
    stopped.send_signal(signal.SIGINT)
    wait_for_steps(here / "killed", 8)
    killed.kill()
    out, err = stopped.communicate(timeout=60)
    killed.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "stopping after this step" in err
    assert "calotype resume stopped" in err
    assert json.loads(out)["status"] == 130
    assert (here / "stopped" / "state" / "fade.safetensors").is_file()

    whole = json.loads((here / "whole" / "run.json").read_text())["outputs"]["result"]["pixels_sha256"]
    for name in ("stopped", "killed"):
        out, _ = said(capsys, "resume", name, "--json")
        told = json.loads(out)
        assert (told["status"], told["sessions"]) == ("finished", 2)
        assert told["outputs"]["result"]["pixels_sha256"] == whole


def test_the_example_pictures_are_of_the_example_pair() -> None:
    pair = example_pair()
    for name, path in example_files(pair).items():
        painted = (pair.start if name == "start" else pair.end).pixels
        found = read_image(path, size=(pair.size, pair.size)).pixels
        assert float((found - painted).abs().mean()) < 0.02


def test_durations_read_well() -> None:
    assert [seconds_text(value) for value in (0.04, 12.3, 60, 61, 3600, 5400)] == [
        "0.0 s",
        "12 s",
        "1 min",
        "1 min 1 s",
        "1 h 0 min",
        "1 h 30 min",
    ]
