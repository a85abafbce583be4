"""`calotype run stylecinegan` as a user types it: clip, GIF and frames, done again to the bit; what is wrong is one line and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageDraw

from calotype.cli import app
from calotype.imaging.types import Image, Mask
from tests.cli.test_runs import said
from tests.tiny import cached
from tests.tiny_landscape import cached_landscape_model

SIZE = (48, 64)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a picture that is no square, a mask, strokes and flows."""
    monkeypatch.chdir(tmp_path)
    Image(torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1))).save("lake.png")
    Mask((torch.arange(48) < 24)[:, None].expand(SIZE).contiguous()).save("sky.png")
    Mask(torch.ones(16, 16, dtype=torch.bool)).save("small.png")
    layer = Pillow.new("RGBA", (64, 48), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    draw.line([(8, 12), (50, 10)], fill=(0, 255, 0, 255), width=3)
    draw.line([(50, 10), (54, 10)], fill=(255, 0, 0, 255), width=3)
    layer.save("strokes.png")
    np.save("flow.npy", np.full((2, *SIZE), 0.3, np.float32))
    np.save("nan.npy", np.full((2, *SIZE), np.nan, np.float32))
    return tmp_path


def model() -> list[str]:
    return ["--model", str(cached_landscape_model()), "--frames", "5"]


def test_a_drawn_loop_is_written_as_clip_animation_and_frames_and_done_again(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--image", "lake.png", "--mask", "sky.png", "--motion", "strokes.png", "--drawn-speed", "3"]
    command += ["--also", "gif", "frames", "--out", "made", "--json"]
    out, _ = said(capsys, "run", "stylecinegan", *model(), *command)
    assert {"video", "mask", "motion", "sheet", "animation", "frames"} <= set(json.loads(out)["outputs"])
    assert sorted(path.name for path in (files / "made" / "frames").iterdir()) == [f"{number:04d}.png" for number in range(5)]
    with Pillow.open("made/animation.gif") as animation:
        assert (animation.n_frames, animation.size) == (5, (64, 48))  # type: ignore[attr-defined]
    assert np.load("made/motion.npy").shape == (2, 24, 32)
    for name in ("sky.png", "strokes.png"):
        (files / name).unlink()
    out, _ = said(capsys, "rerun", "made/video.mp4", "--out", "again", "--trust", "--json")
    assert json.loads(out)["identical"] is True


def test_the_motion_that_was_followed_can_be_followed_again(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "stylecinegan", *model(), "--image", "lake.png", "--mask", "sky.png"]
    said(capsys, *command, "--motion", "flow.npy", "--out", "first")
    said(capsys, *command, "--motion", "first/motion.npy", "--out", "second")
    first, second = (np.load(f"{name}/motion.npy") for name in ("first", "second"))
    assert np.abs(first - second).max() < 0.02
    assert np.abs(first[0, 2:10] - 0.15).max() < 1e-3


def test_a_flow_with_nan_is_one_line_of_a_process(files: Path) -> None:
    command = [sys.executable, "-m", "calotype", "run", "stylecinegan", *model(), "--image", "lake.png", "--motion", "nan.npy"]
    done = subprocess.run([*command, "--out", "made"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "NaN" in done.stderr
    assert not (files / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mask", "small.png"], "it has 16x16 px and the picture 64x48"),
        (["--mask", "nowhere.png"], "nowhere.png does not exist"),
        (["--mask", "word:castle"], "give --word-model"),
        (["--motion", "wind:left"], "has no speed"),
        (["--motion", "lake.png"], "no drawing on an empty layer"),
        (["--motion", "arrows:1,1-99,1"], "the pixel 99,1"),
        (["--also", "mp3"], "mp3"),
        (["--num-frames", "1"], "num_frames is 1"),
    ],
)
def test_what_is_wrong_is_told_before_a_folder_is_made(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert app.run(["run", "stylecinegan", "--image", "lake.png", *model(), *arguments, "--out", "made"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (files / "made").exists()


def test_the_name_of_a_clip_is_no_folder(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["run", "stylecinegan", *model(), "--image", "lake.png", "--motion", "wind:left:1", "--out", "lake.mp4"]) == 2
    assert "such as --out lake" in " ".join(capsys.readouterr().err.split())
    assert not (files / "lake.mp4").exists()


def test_another_models_checkpoint_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["run", "stylecinegan", "--model", str(cached("toy-vae")), "--image", "lake.png", "--out", "made"]) == 2
    assert "toy-landscape" in capsys.readouterr().err
