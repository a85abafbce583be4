"""Training samples per second of the loop against the bare forward and backward pass of the same network on the same batch."""

from __future__ import annotations

import time

from calotype.embedded.api import CHECKPOINTS, trainer_of
from calotype.embedded.recipes import RECIPES
from calotype.train.budget import Budget
from calotype.train.loop import accelerator_for
from calotype.train.rng import BatchRng

STEPS = 8


def test_loop_against_bare_passes(benchmark, record, tmp_path):
    recipe = RECIPES["toy-t2i"]
    loop = trainer_of(
        recipe, tmp_path, budget=Budget(steps=10**6), seed=0, checkpoints=CHECKPOINTS, start=None, accelerator=accelerator_for("cpu")
    )
    size = loop.settings.batch_size
    rows = range(size)
    batch = loop.source.batch(rows, BatchRng(0, 0, rows, size), augment=True)

    def bare() -> float:
        before = time.perf_counter()
        for _ in range(STEPS):
            loop.accelerator.backward(loop.model(batch).mean())
            loop.model.zero_grad(set_to_none=True)
        return time.perf_counter() - before

    def whole() -> float:
        before = time.perf_counter()
        for _ in range(STEPS):
            loop._one_step(0.1)
        return time.perf_counter() - before

    bare(), whole()
    ratios = sorted(bare() / whole() for _ in range(3))
    benchmark.pedantic(whole, rounds=1)
    record("training of toy-t2i, samples per second over bare forward and backward", ratios[1], "ratio", ">= 0.9", ratios[1] >= 0.9)
    record("training of toy-t2i", size * STEPS / whole(), "samples per second", "", None)
