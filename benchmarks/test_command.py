"""What a newcomer waits for before anything is computed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest


def cpu_seconds(*command: str) -> float:
    """User and system time of a finished child process."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


@pytest.mark.parametrize("arguments", [("--help",), ("list",)], ids=" ".join)
def test_cheap_verbs(benchmark, record, arguments):
    seconds = [cpu_seconds(sys.executable, "-m", "calotype", *arguments) for _ in range(3)]
    benchmark.pedantic(cpu_seconds, args=(sys.executable, "-m", "calotype", *arguments), rounds=2)
    record(f"calotype {' '.join(arguments)}, CPU time", min(seconds), "s", "< 0.5", min(seconds) < 0.5)


def test_import(benchmark, record):
    code = "import time; t = time.perf_counter(); import calotype; print(time.perf_counter() - t)"

    def once() -> float:
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    seconds = min(benchmark.pedantic(once, rounds=3), once())
    record("import calotype", seconds, "s", "< 0.2", seconds < 0.2)


def test_world(benchmark, record):
    from calotype.world import paint, sample_scene

    scenes = [sample_scene("small", seed=5, index=index) for index in range(128)]
    paint(scenes[:8], size=64)

    def per_core() -> float:
        before = time.process_time()
        paint(scenes, size=64)
        return len(scenes) / (time.process_time() - before)

    rate = max(per_core() for _ in range(3))
    benchmark.pedantic(per_core, rounds=2)
    record("toy world at 64 px, preset small", rate, "pictures per core second", ">= 200", rate >= 200)
