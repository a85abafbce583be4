from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calotype.embedded import train
from calotype.embedded.export import read_gates
from calotype.errors import Cancelled, InputError
from calotype.train.precision import Precision, PrecisionName, precision_for
from calotype.train.rng import BatchRng, rows_of_step
from calotype.train.state import locked, read_counters
from tests.recorder import Recorder
from tests.train import narrow
from tests.train.narrow import run


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    counters = read_counters(folder)
    assert counters is not None
    return load_file(folder / counters["tensors"])


def same(first: Path, second: Path) -> bool:
    a, b = tensors(first), tensors(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps of the autoencoder without a break."""
    home = tmp_path_factory.mktemp("straight")
    run("toy-vae", home / "run", home / "checkpoints", "12steps", export=False)
    return home / "run"


def test_a_training_killed_at_any_moment_resumes_to_the_same_weights(straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tests.train.narrow", str(out), str(tmp_path / "checkpoints"), "12steps"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while (read_counters(out) or {"step": 0})["step"] < 3:
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    counters = read_counters(out)
    assert counters is not None
    assert 3 <= counters["step"] <= 12
    run("toy-vae", out, tmp_path / "checkpoints", "12steps", export=False)
    assert same(out, straight)


def test_a_cancelled_training_keeps_its_state_and_resumes_to_the_same_weights(straight: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run("toy-vae", tmp_path / "run", tmp_path / "checkpoints", "12steps", export=False, events=Recorder(stop_after=5))
    assert (read_counters(tmp_path / "run") or {})["step"] == 5
    run("toy-vae", tmp_path / "run", tmp_path / "checkpoints", "12steps", export=False)
    assert same(tmp_path / "run", straight)


def test_a_torn_log_line_is_dropped_on_resume(tmp_path: Path, straight: Path) -> None:
    shutil.copytree(straight, tmp_path / "run")
    counters = json.loads((tmp_path / "run" / "state.json").read_text())
    for mark in ("closed", "finished", "held_out"):
        counters.pop(mark)
    (tmp_path / "run" / "state.json").write_text(json.dumps(counters))
    with (tmp_path / "run" / "progress.jsonl").open("a") as file:
        file.write('{"step": 99, "loss": 1}\n{"step": 1')
    run("toy-vae", tmp_path / "run", tmp_path / "checkpoints", "13steps", export=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 13


def test_a_folder_with_another_run_is_refused(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "run")
    counters = json.loads((tmp_path / "run" / "state.json").read_text())
    (tmp_path / "run" / "state.json").write_text(json.dumps({**counters, "closed": False}))
    with pytest.raises(InputError, match="seed 0, not 1"):
        run("toy-vae", tmp_path / "run", tmp_path / "checkpoints", "12steps", seed=1)


def test_two_trainings_never_share_a_folder(straight: Path, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another process is training"):
        run("toy-vae", tmp_path, tmp_path / "checkpoints", "1steps")


def test_the_training_learns_and_leaves_a_log_a_plot_and_a_sheet(straight: Path) -> None:
    lines = [json.loads(line) for line in (straight / "progress.jsonl").read_text().splitlines()]
    assert (lines[0]["step"], lines[0]["precision"]) == (0, precision_for("cpu").name)
    assert lines[1]["step"] == 1
    assert lines[-1]["final"]
    assert lines[-1]["held_out"] < lines[1]["loss"]
    assert (straight / "loss.png").is_file()
    assert (straight / "sheets" / "0000012.png").is_file()


class Clock:
    """A clock that training steps and held-out batches move, so that no test waits for a real one."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Timed(narrow.NarrowVAE):
    """A training step takes a second, a held-out batch of 4 takes `batch` seconds; 8 held-out samples are 2 batches."""

    settings = replace(narrow.NarrowVAE.settings, sheet_batches=5, export_batches=3)

    def __init__(self, clock: Clock, batch: float) -> None:
        self.clock, self.batch = clock, batch

    def build(self, **keywords: Any) -> Any:
        trainee, clock, batch = super().build(**keywords), self.clock, self.batch
        trainee.register_forward_hook(lambda module, *_: setattr(clock, "now", clock.now + (1.0 if module.training else batch)))
        return trainee


@pytest.mark.parametrize(
    ("budget", "batch", "steps", "drawn", "short"),
    [
        # Off 12 s: 3 batches for the estimate, 2 for the held-out loss, 3 for the export, 5 for the sheet.
        ("12s", 0.2, 10, True, False),
        ("20s", 0.1, 19, True, False),
        # The sheet is over its share of the budget: 8 batches are left.
        ("12s", 0.52, 8, False, False),
        # Half of it at least is training.
        ("4s", 1.8, 2, False, True),
        ("1s", 30.0, 1, False, True),
    ],
)
def test_a_budget_of_time_pays_for_measuring_and_export_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, batch: float, steps: int, drawn: bool, short: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr("calotype.train.loop.time", clock)
    heard = Recorder()
    result = train(
        "toy-vae", budget=budget, out=tmp_path / "run", checkpoints=tmp_path / "checkpoints", recipe=Timed(clock, batch), device="cpu",
        events=heard, save_every=1e9, report_every=1e9,
    )  # fmt: skip
    assert result.steps == steps
    assert [name for name, _, _ in heard.stages] == [
        "prepare toy-vae", "train toy-vae", "measure toy-vae", *["draw samples of toy-vae"] * drawn, "export toy-vae",
    ]  # fmt: skip
    assert all(total is None or total == done for _, total, done in heard.stages), "every bar runs full"
    assert bool(list((tmp_path / "run").glob("sheets/*"))) is drawn
    told = [note for note in heard.notes if "short for toy-vae" in note]
    assert len(told) == short
    # Whatever it costs, what decides about shipping is the loss on all the fixed samples.
    assert read_gates(tmp_path / "checkpoints")["toy-vae"]["held_out_count"] == 8


def test_a_budget_of_time_ends_by_the_real_clock_too(tmp_path: Path) -> None:
    result = run("toy-vae", tmp_path / "run", tmp_path / "checkpoints", "1s", export=False)
    assert result.seconds >= 0.5
    assert result.steps >= 1


@pytest.mark.parametrize(("first", "second"), [("float32", "bfloat16"), (None, "float32")])
def test_a_resumed_training_says_that_its_precision_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: PrecisionName | None, second: PrecisionName
) -> None:
    before, after = first or "bfloat16", second
    out, home = tmp_path / "run", tmp_path / "checkpoints"

    class Stop(Recorder):
        left = 3

        def check(self) -> None:
            if self.stages[-1][0].startswith("train"):
                self.left -= 1
                if not self.left:
                    raise Cancelled("stopped by the test")

    monkeypatch.setattr("calotype.train.loop.precision_for", lambda device: Precision(before, "the test says so"))
    with pytest.raises(Cancelled):
        run("toy-vae", out, home, "6steps", events=Stop())
    if first is None:  # a state of before there was a choice
        counters = json.loads((out / "state.json").read_text())
        del counters["precisions"]
        (out / "state.json").write_text(json.dumps(counters))
    monkeypatch.setattr("calotype.train.loop.precision_for", lambda device: Precision(after, "the test says so"))
    heard = Recorder()
    run("toy-vae", out, home, "6steps", events=heard)
    assert f"toy-vae is trained in {after} from step 3 on, {before} before: the test says so" in heard.notes
    told = [(line["step"], line["precision"]) for line in map(json.loads, (out / "progress.jsonl").open()) if "precision" in line]
    assert told == [(0, before), (3, after)]
    assert f"| precision | {before}, from step 3 on {after}; weights and optimiser in float32 |" in (home / "toy-vae/README.md").read_text()
    assert read_gates(home)["toy-vae"]["held_out_precision"] == after


def test_each_pass_sees_every_sample_once_in_another_order() -> None:
    passes = [[row for step in range(start, start + 4) for row in rows_of_step(step, 8, 32, seed=3)] for start in (0, 4, 8)]
    assert passes[0] == list(range(32))
    assert sorted(passes[1]) == sorted(passes[2]) == passes[0]
    assert passes[1] != passes[2]


def test_draws_depend_on_seed_step_and_place_alone() -> None:
    whole = BatchRng(1, 7, range(6), 6)
    part = BatchRng(1, 7, range(1, 6, 2), 6)
    assert torch.equal(whole.normal((2, 3))[1::2], part.normal((2, 3)))
    assert torch.equal(whole.stratified()[1::2], part.stratified())
    assert not torch.equal(BatchRng(1, 8, range(6), 6).uniform(), BatchRng(1, 7, range(6), 6).uniform())
    levels = BatchRng(0, 0, range(100), 100).stratified()
    assert sorted((levels * 100).long().tolist()) == list(range(100))
