"""A program that begins a training three times and kills it each time, once it has come so far."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from calotype.methods.qsmdiff.training import QSMDiffTraining
from calotype.train.loop import accelerator_for
from calotype.train.state import read_counters
from tests.train.test_training import SMALL


def killed(maps: Path, out: Path, budget: str, wanted: int) -> None:
    """Train in a process of its own until `wanted` steps are saved, or a little longer, and kill it."""
    child = os.fork()
    if not child:
        QSMDiffTraining(**SMALL)(maps, out, budget=budget, device="cpu", save_every=0.0)
        os._exit(1)
    while (read_counters(out / "training") or {"step": 0})["step"] < wanted:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the training ended before it could be killed"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator_for("cpu")
    QSMDiffTraining(**SMALL).build(seed=0)  # what is imported now needs no second time
    for step in (1, 4, 7):
        killed(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], step)
        assert not (Path(sys.argv[2]) / "model_index.json").exists()
