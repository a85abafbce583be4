"""`calotype run anyv2v` as a user types it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

import calotype
from calotype.cli import app
from calotype.imaging.types import Video
from calotype.methods.anyv2v.editor import edit_picture
from tests.tiny import cached

STEPS = ["--preset", "toy", "--num-inference-steps", "2", "--num-inversion-steps", "2", "--start-index", "0", "--no-rebuild"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "cache"))
    frames = torch.rand(9, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    Video(frames, 24.0).save("clip.mp4")
    Video(frames[:1], 24.0).save("one.mp4")
    for name, size in {"frame.png": (80, 48), "tall.png": (48, 80)}.items():
        Pillow.radial_gradient("L").resize(size).convert("RGB").save(name)
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 4096), dtype=np.float32), format="fltp", layout="stereo")
        sound.sample_rate = 44100
        for packet in (*stream.encode(sound), *stream.encode(None)):
            container.mux(packet)
    return tmp_path


def run(*arguments: str, model: str = "toy-i2v") -> int:
    return app.run(["run", "anyv2v", "--model", str(cached(model)), *STEPS, *arguments])


def test_any_clip_is_edited_and_edited_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another size, rate and length than the model's; the second edit reads the inversion, a rerun gives the same."""
    given = ("--video", "clip.mp4", "--edited-first-frame", "frame.png", "--window", "6", "--height", "32", "--width", "32", "--json")
    assert run(*given, "--out", "one") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["outputs"]["result"] | {"frames": 9, "fps": 24.0, "width": 32, "height": 32} == record["outputs"]["result"]
    assert record["metrics"]["inversion_calls"] > 0
    assert any("resized to 32x32" in note for note in record["notes"])
    assert any("in 3 windows of 6" in note for note in record["notes"])
    assert run(*given, "--tau-conv", "0", "--out", "two") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["inversion_calls"] == 0
    assert app.run(["rerun", "one", "--trust", "--out", "three"]) == 0
    assert "bit for bit the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "model", "said"),
    [
        (("--video", "one.mp4", "--edited-first-frame", "frame.png"), "toy-i2v", "it has one frame"),
        (("--video", "sound.mp4", "--edited-first-frame", "frame.png"), "toy-i2v", "holds no pictures (sound only?)"),
        (("--video", "clip.mp4", "--edited-first-frame", "tall.png"), "toy-i2v", "is 48x80 px and the clip 80x48, another shape"),
        (("--video", "clip.mp4"), "toy-i2v", "edited_first_frame is missing"),
        (("--video", "clip.mp4", "--instruction", "red"), "toy-i2v", "editor is missing"),
        (("--video", "clip.mp4", "--editor", "toy-t2i"), "toy-i2v", "instruction is empty"),
        (("--video", "clip.mp4", "--editor", "toy-t2i", "--instruction", "red"), "toy-i2v", "give a loaded InstructPix2Pix checkpoint"),
        (("--video", "clip.mp4", "--edited-first-frame", "frame.png", "--tau-conv", "2"), "toy-i2v", "tau_conv is 2.0"),
        (("--video", "clip.mp4", "--edited-first-frame", "frame.png"), "i2vgen", "prompt is empty"),
        (("--video", "clip.mp4", "--edited-first-frame", "frame.png"), "sd", "can't be used: anyv2v needs"),
    ],
)
def test_bad_inputs_get_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], model: str, said: str
) -> None:
    assert run(*arguments, "--out", "bad", "--quiet", model=model) == 2
    told = capsys.readouterr()
    assert said in " ".join(told.err.split())
    assert not (folder / "bad" / "result.mp4").exists()
    if model == "toy-i2v" and "InstructPix2Pix" not in said:
        assert not (folder / "bad").exists()


def test_the_editor_is_loaded_as_the_model_is_recorded_and_compared(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calotype.methods.anyv2v.method.edit_picture", partial(edit_picture, num_inference_steps=1))
    shutil.copytree(cached("pix2pix"), folder / "editor")
    loaded = []
    monkeypatch.setattr("calotype.cli.running.load_model", lambda request: loaded.append(request) or calotype.load(**asdict(request)))
    given = ("--video", "clip.mp4", "--instruction", "red ball", "--editor", "editor", "--max-frames", "3")
    assert run(*given, "--dtype", "bfloat16", "--height", "32", "--width", "32", "--out", "one", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [request.dtype for request in loaded] == ["bfloat16", "bfloat16"]
    assert record["models"]["editor"]["name"].endswith("/editor")
    assert record["models"]["editor"]["dtype"] == "bfloat16"
    assert len(record["checkpoints"]["editor"]["sha256"]) == 64
    assert app.run(["rerun", "one/result.mp4", "--out", "two"]) == 2
    assert "/editor (editor)" in " ".join(capsys.readouterr().err.split())
    assert app.run(["rerun", "one/result.mp4", "--trust", "--out", "two"]) == 0
    assert "bit for bit the same" in capsys.readouterr().out
    weights = folder / "editor" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(weights).items()}, weights)
    assert app.run(["rerun", "one", "--trust", "--out", "three"]) == 0
    assert "has other weights" in " ".join(capsys.readouterr().out.split())
