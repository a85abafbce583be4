"""What a model logs reaches the user once, and the run's record."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest
import torch

from calotype import load
from calotype.core.events import warnings_noted
from calotype.imaging.types import Image
from calotype.methods.ovam import OpenVocabularyAttentionMaps
from calotype.runs import ModelRequest, run
from tests import tiny
from tests.recorder import Recorder
from tests.runs.toy_bare_method import ToyNegative

LONG = "a red ball on sand and a blue house on grass " * 12


@pytest.mark.parametrize("kind", ["toy-t2i", "sdxl"])
def test_a_prompt_that_is_too_long_is_noted_once_and_in_the_record(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard = Recorder()
    method = OpenVocabularyAttentionMaps(num_inference_steps=1, levels=1, self_attention=1.0, refine="none", prompt_competes=True)
    request = ModelRequest(str(tiny.cached(kind)), device="cpu")
    capfd.readouterr()
    done = run(
        method,
        {"words": "ball,house", "prompt": LONG},
        lambda request: load(request.name, device=request.device),
        model=request,
        out=tmp_path / "run",
        events=heard,
    )
    told = [note for note in heard.notes if "is left out" in note]
    assert len(told) == 1
    assert told[0].startswith("the prompt 'a red ball on sand and a blue hous")
    assert len(told[0]) < 400
    assert done.record.notes.count(told[0]) == 1
    assert told[0] in json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert "left out" not in capfd.readouterr().err


def test_what_is_logged_while_a_run_is_replaced_is_noted_too(tmp_path: Path) -> None:
    def load_model(request: ModelRequest) -> None:
        logging.getLogger("calotype.backbones.loading").warning("%s was found in an odd place", request.name)

    for number in range(2):
        heard = Recorder()
        done = run(
            ToyNegative(),
            {"image": Image(torch.zeros(3, 16, 16))},
            load_model,
            model=ModelRequest("some"),
            out=tmp_path / "run",
            overwrite=number > 0,
            events=heard,
        )
        assert heard.notes.count("some was found in an odd place") == 1
        assert done.record.notes == ("some was found in an odd place",)


def test_two_threads_hear_their_own_warnings_only() -> None:
    heard = {name: Recorder() for name in ("one", "two")}
    both = threading.Barrier(2, timeout=10)

    def work(name: str) -> None:
        with warnings_noted(heard[name]):
            both.wait()
            for _ in range(3):
                logging.getLogger("calotype.backbones.text").warning("%s is too long", name)
            both.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: events.notes for name, events in heard.items()} == {name: [f"{name} is too long"] for name in heard}
    assert not logging.getLogger("calotype").handlers
