"""What a model logs reaches the user once, and the run's record."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from calotype import load
from calotype.core.events import Events, warnings_noted
from calotype.methods.ovam import OpenVocabularyAttentionMaps
from calotype.runs import ModelRequest, run
from tests import tiny

LONG = "a red ball on sand and a blue house on grass " * 12


class Heard(Events):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("kind", ["toy-t2i", "sdxl"])
def test_a_prompt_that_is_too_long_is_noted_once_and_in_the_record(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
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


def test_two_threads_hear_their_own_warnings_only() -> None:
    heard = {name: Heard() for name in ("one", "two")}
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
