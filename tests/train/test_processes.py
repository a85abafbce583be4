"""A training in two processes: the same recipe and about the same loss as in one, one checkpoint, one result, every network trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import cached
from tests.tiny_cage import SIDE, clips_folder

STEPS = 6
FLAGS = [
    "--size", str(SIDE), str(SIDE), "--num-frames", "6", "--width", "16", "--depth", "1", "--heads", "2", "--batch-size", "4",
    "--held-out-samples", "4", "--learning-rate", "0.01", "--budget", f"{STEPS}steps", "--device", "cpu", "--json",
]  # fmt: skip


def train(clips: Path, out: Path, launcher: list[str]) -> dict[str, Any]:
    flags = ["--data", str(clips), "--out", str(out), "--autoencoder", str(cached("toy-vae")), *FLAGS]
    command = [sys.executable, "-m", *launcher, "calotype", "train", "cage", *flags]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("excerpts of 6 frames") == 1
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in ("transformer", "control_encoder")
        for name, tensor in load_file(out / part / "diffusion_pytorch_model.safetensors").items()
    }


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch knows no processes")
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    clips = clips_folder(tmp_path / "clips")
    one = train(clips, tmp_path / "one", [])
    two = train(clips, tmp_path / "two", ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"])
    assert (one["steps"], two["steps"], two["status"]) == (STEPS, STEPS, "finished")
    assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=0.02)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    moved = torch.cat([(first[name] - second[name]).flatten().float() for name in first]).norm()
    size = torch.cat([tensor.flatten().float() for tensor in first.values()]).norm()
    assert moved < 0.05 * size
