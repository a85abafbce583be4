"""What outlives a run: checkpoints are loaded once, a network does one run at a time, several named ones are recorded and watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from calotype.core.events import SILENT, Events
from calotype.core.method import Method
from calotype.core.roles import Denoises
from calotype.errors import InputError
from calotype.imaging.types import Image
from calotype.runs import ModelRequest, Session, call_parameters, compare
from calotype.runs.signature import needed_models

ONE, OTHER = ModelRequest("one"), ModelRequest("other")


class Network:
    """Notes how many runs it does at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.device = "cpu"
        self.at_once = self.most = 0
        self.guard = threading.Lock()

    def work(self) -> None:
        """Take some time."""
        with self.guard:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.02)
        with self.guard:
            self.at_once -= 1


@dataclass(frozen=True, kw_only=True)
class ToyPair(Method):
    """Asks two networks."""

    slug: ClassVar[str] = "toy-pair"
    role: ClassVar[str] = "Model"
    presets: ClassVar[tuple[str, ...]] = ()

    def __call__(self, model: Any, vit: Denoises | None = None, *, seed: int = 0, events: Events = SILENT) -> Image:
        """Ask.

        Args:
            vit: the second network.
        """
        for network in (model, vit):
            if network is not None:
                network.work()
        return Image(torch.full((3, 4, 4), seed / 100))


def test_a_checkpoint_is_loaded_once_until_it_is_let_go() -> None:
    asked: list[str] = []
    session = Session(lambda request: asked.append(request.name) or Network(request.name))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(session.load, [ONE, ONE, OTHER, ONE]))
    assert found[0] is found[1] is found[3] is not found[2]
    assert sorted(asked) == ["one", "other"]
    assert session.load(ModelRequest("one", dtype="float16")) is not found[0]
    session.evict(OTHER)
    assert {request.name for request in session.loaded} == {"one"}
    assert session.load(OTHER) is not found[2]
    with session:
        assert session.load(ONE) is found[0]
    assert session.loaded == ()


def test_a_checkpoint_that_failed_is_asked_for_again() -> None:
    tries: list[str] = []

    def load(request: ModelRequest) -> Network:
        tries.append(request.name)
        if len(tries) < 2:
            raise InputError("not yet")
        return Network(request.name)

    session = Session(load)
    with pytest.raises(InputError, match="not yet"):
        session.load(ONE)
    assert session.loaded == ()
    assert session.load(ONE).name == "one"


def test_runs_on_one_network_wait_for_one_another_and_others_do_not(tmp_path: Path) -> None:
    session = Session(lambda request: Network(request.name))
    barrier = threading.Barrier(2, timeout=10)

    @contextmanager
    def met(models: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        barrier.wait()  # Two runs on different networks are here at the same time.
        yield models

    def one(number: int) -> None:
        # Each pair of networks is asked for in both orders.
        first, second = (ONE, OTHER) if number % 2 else (OTHER, ONE)
        session.run(ToyPair(), {"vit": second}, model=first, seed=number, out=tmp_path / str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(6)))
    assert session.load(ONE).most == session.load(OTHER).most == 1
    with ThreadPoolExecutor(2) as pool:
        alone = [pool.submit(session.run, ToyPair(), {}, model=name, out=tmp_path / name.name, observe=met) for name in (ONE, OTHER)]
        assert [done.result().record.status for done in alone] == ["finished", "finished"]


def test_every_network_of_a_run_is_recorded_and_watched(tmp_path: Path) -> None:
    assert [(item.name, item.kind) for item in call_parameters(ToyPair)] == [("vit", "model")]
    assert needed_models(ToyPair) == {"model": "Model", "vit": "Denoises"}
    session, seen = Session(lambda request: Network(request.name)), []

    @contextmanager
    def watching(models: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        seen.append({name: model.name for name, model in models.items()})
        yield models
        seen.append("ended")

    done = session.run(ToyPair(), {"vit": OTHER}, model=ONE, out=tmp_path / "run", observe=watching)
    again = session.rerun(done.folder, resolve_method=lambda slug: ToyPair, trust=True, out=tmp_path / "again", observe=watching)
    assert again.identical is True
    assert seen == [{"model": "one", "vit": "other"}, "ended"] * 2
    assert {name: request.name for name, request in again.record.requests.items()} == {"model": "one", "vit": "other"}
    other = session.run(ToyPair(), {"vit": ONE}, model=ONE, out=tmp_path / "other")
    told = {line.name: (line.left, line.right) for line in compare(done.folder, other.folder).lines if not line.same}
    assert told["vit"] == ("other", "one")
