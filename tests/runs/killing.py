"""A process of its own that starts runs, kills them with SIGKILL at given steps and resumes them; prints what it found as JSON.

It imports torch once and forks, which is safe because it has a single thread.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from calotype.runs import ModelRequest, resume, run
from calotype.runs import state as state_module
from tests.runs.toy_method import ToyFade

STEPS = 12


def begin(folder: Path, picture: Path) -> None:
    method = ToyFade(num_inference_steps=STEPS, delay=0.01)
    run(method, {"start": picture, "gain": 0.5}, lambda request: None, model=ModelRequest(""), seed=3, out=folder, previews=True)


def go_on(folder: Path) -> None:
    resume(folder, resolve_method=lambda slug: ToyFade, load_model=lambda request: None)


def forked(work: Callable[[], None], moment: int, folder: Path) -> None:
    """Run `work` in a child; kill it as soon as `progress.jsonl` has `moment` more lines (never if that is 0)."""
    before = lines(folder)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    while moment and lines(folder) < before + moment:
        time.sleep(0.001)
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit(f"the run ended before it could be killed at line {moment}")
    if moment:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def lines(folder: Path) -> int:
    path = folder / "progress.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def visible(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def main(root: Path, picture: Path, moments: list[list[int]]) -> None:
    torch.set_num_threads(1)
    state_module.INTERVAL = 0.0
    state_module.StateStore.__init__.__defaults__ = (0.0,)
    forked(partial(begin, root / "whole", picture), 0, root / "whole")
    found = []
    for index, kills in enumerate(moments):
        folder = root / f"killed-{index}"
        left = []
        for attempt, moment in enumerate(kills):
            work = partial(begin, folder, picture) if attempt == 0 else partial(go_on, folder)
            forked(work, moment, folder)
            left.append(visible(folder))
        forked(partial(go_on, folder), 0, folder)
        record = json.loads((folder / "run.json").read_text())
        stages = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
        found.append({"left": left, "record": record, "lines": stages, "files": visible(folder)})
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
