"""`--save-attention` on runs of two kinds of models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from calotype.cli import app
from calotype.cli.attention_capture import Watcher
from calotype.core.denoiser import Condition
from calotype.errors import InputError
from tests.tiny import cached


def pixels(folder: str) -> str:
    outputs = json.loads((Path(folder) / "run.json").read_text())["outputs"]
    return json.dumps([entry["pixels_sha256"] for entry in outputs.values()])


def test_the_page_has_each_word_and_the_result_stays_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "ovam", "--model", str(cached("toy-t2i")), "--words", "ball", "--prompt", "red ball", "--num-inference-steps", "2"]
    assert app.run([*command, "--out", "plain"]) == 0
    assert app.run([*command, "--out", "watched", "--save-attention", "red house, star"]) == 0
    assert "watched/attention/index.html" in capsys.readouterr().err
    assert pixels("plain") == pixels("watched")
    text = (here / "watched" / "attention" / "index.html").read_text()
    # Two branches, each with two steps, of which each has the picture and two words.
    assert text.count("<img") == 2 * 2 * 3
    assert "<th>red house</th>" in text
    assert sorted(path.name for path in (here / "watched" / "attention").iterdir()) == ["index.html", "row-1.png", "row-2.png"]
    assert app.run([*command, "--out", "wrong", "--save-attention", "red,,ball"]) == 2
    assert "empty entry" in capsys.readouterr().err


def test_clips_are_watched_at_their_middle_frame(tmp_path: Path) -> None:
    import calotype

    model = calotype.load(str(cached("toy-i2v")), device="cpu")
    condition = Condition(
        {"context": torch.ones(2, 5, 64), "image_latents": torch.ones(2, 4, 8, 8), "added_time_ids": torch.ones(2, 3)},
    )
    watcher = Watcher("ball")
    watched = watcher.attach(model)
    with torch.no_grad():
        watched.estimate(torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 1.0, condition)
    watcher.detach()
    written = watcher.write(tmp_path)
    assert [path.name for path in written] == ["index.html", "row-1.png", "row-2.png"]
    assert "<th>ball</th>" in written[0].read_text()


def test_a_model_without_words_is_refused_and_left_alone() -> None:
    import calotype

    model = calotype.load(str(cached("svd")), device="cpu")
    watcher = Watcher("ball")
    with pytest.raises(InputError, match="has no text encoder"):
        watcher.attach(model)
    watcher.detach()


def test_attaching_and_detaching_leaves_the_model_as_it_was() -> None:
    import calotype

    model = calotype.load(str(cached("toy-t2i")), device="cpu")
    watcher = Watcher("ball")
    before = dict(vars(model))
    watched = watcher.attach(model)
    assert watched.unet is model.unet
    assert vars(model) == before
    watcher.detach()
    assert not any("forward" in vars(module) for module in model.unet.modules())
