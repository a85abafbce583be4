"""What rules on attention cost over sampling without them, and how much memory a capture takes beside storing every map."""

from __future__ import annotations

import threading
import time
from typing import Any

import psutil
import pytest
import torch

import calotype
from calotype.attention import AttentionControl, Capture, Inject, KeyScale, KeySums, TokenMaps, attention_sites, sites
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.noise import batch_noise
from calotype.core.samplers import sample

STEPS, ROUNDS, BATCH = 3, 7, 1
TARGETS = {"no rule": 1.0, "capture of queries": 1.05, "key scaling": 1.05, "injection": 1.10}
NOISE = 0.02
"""What two timings of the same thing may differ by."""


def rules(name: str) -> list[Any]:
    where = sites(kind="self")
    return {
        "no rule": [],
        "capture of queries": [Capture(what="q", select=sites(kind="cross"), rows="cond")],
        "key scaling": [KeyScale(mask=torch.eye(16), rows="cond", select=where)],
        "injection": [Inject(what=("q", "k"), src="uncond", dst="cond", select=where)],
    }[name]


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    """Least processor time of a sampling run by rule, the runs taken in turns so that a slow minute strikes them all."""
    model = calotype.load("toy-t2i", device="cpu", dtype="float32")
    condition = model.condition(["a red house on grass"] * BATCH)
    conditions, guidance = {"cond": condition, "uncond": model.unconditional(condition)}, ClassifierFreeGuidance(3.0)
    levels = model.sigmas(STEPS)
    x = batch_noise(model.latent_shape(), 0, BATCH) * float(levels[0])

    def once(name: str) -> float:
        began = time.process_time()
        if name == "untouched":
            sample(model.denoiser(conditions, guidance), x, levels)
            return time.process_time() - began
        with AttentionControl(model) as control:
            denoise = model.denoiser(conditions, guidance, control=control)
            for rule in rules(name):
                control.add(rule)
            sample(denoise, x, levels)
        return time.process_time() - began

    names = ("untouched", *TARGETS)
    for name in names:
        once(name)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            taken[name].append(once(name))
    return {name: min(values) for name, values in taken.items()}


@pytest.mark.parametrize("name", list(TARGETS))
def test_sampling_under_rules_against_untouched_sampling(name, seconds, benchmark, record):
    benchmark.pedantic(lambda: None, rounds=1)
    ratio = seconds[name] / seconds["untouched"]
    record(
        f"attention, {name}, sampling over untouched sampling", ratio, "ratio", f"<= {TARGETS[name]:.2f}", ratio <= TARGETS[name] + NOISE
    )


def test_memory_of_a_capture_against_every_map(benchmark, record):
    """Stable Diffusion 1.5's grids, heads and tokens (512 px) at small width: the maps' size doesn't depend on the width."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(block_out_channels=(32, 64, 64, 64), attention_head_dim=8, cross_attention_dim=64, sample_size=64).eval()

    def call() -> None:
        with torch.no_grad():
            unet(torch.ones(2, 4, 64, 64), 1, torch.ones(2, 77, 64))

    def captured() -> None:
        with AttentionControl(unet, roles=("uncond", "cond")) as control:
            control.add(Capture(what="probs", select=sites(kind="cross"), rows="cond", reduce=TokenMaps()))
            control.add(Capture(what="probs", select=sites(kind="self"), rows="cond", reduce=KeySums()))
            call()

    call()
    plain = peak(call)
    extra = benchmark.pedantic(lambda: peak(captured), rounds=1) - plain
    every = sum(
        4 * site.heads * site.grid[0] * site.grid[1] * (77 if site.kind == "cross" else site.grid[0] * site.grid[1])
        for site in attention_sites(unet)
        if site.grid
    )
    share = max(0.0, extra) / every
    record("attention, memory of capturing all maps of SD 1.5 at 512 px, one step", max(0.0, extra) / 2**20, "MiB", "", None)
    record("attention, the same over storing every map", share, "ratio", "<= 0.1", share <= 0.1)


def peak(act: Any) -> float:
    """Most resident memory while something runs, in bytes."""
    process, done, most = psutil.Process(), threading.Event(), [0.0]

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], process.memory_info().rss)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        act()
    finally:
        done.set()
        thread.join()
    return most[0]
