"""The method's wall time should be its model calls and little else."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

import calotype
from calotype.core.guidance import NoGuidance
from calotype.core.noise import batch_noise
from calotype.imaging.types import Image
from calotype.methods.time_reversal_fusion import TimeReversalFusion
from calotype.world import paint, sample_scene


@pytest.fixture(scope="module")
def model():
    return calotype.load("toy-i2v", device="cpu")


@pytest.fixture(scope="module")
def frames() -> tuple[Image, Image]:
    clip = paint([sample_scene("small", split="tune", seed=1, index=0, num_frames=8, objects=1, motion="straight")], size=64, num_frames=8)[
        0
    ]
    return Image(clip[0]), Image(clip[-1])


def test_overhead(benchmark, record, model, frames):
    """Wall time of a run, decoding included, over its forward passes times one bare forward pass of the UNet."""
    method = TimeReversalFusion.toy()
    start, end = frames
    condition = model.condition(start)
    unet = model.modules["unet"]
    captured: list[tuple[tuple, dict]] = []
    handle = unet.register_forward_pre_hook(lambda _, args, kwargs: captured.append((args, kwargs)), with_kwargs=True)
    model.denoiser({"cond": condition.cat([condition, condition])}, NoGuidance())(batch_noise(model.latent_shape(), 0, 2), 1.0)
    handle.remove()
    arguments, keywords = captured[0]
    passes = [0]
    handle = unet.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    method(model, start, end)
    handle.remove()
    count = passes[0]

    @torch.no_grad()
    def bare() -> float:
        before = time.perf_counter()
        for _ in range(count):
            unet(*arguments, **keywords)
        return time.perf_counter() - before

    def whole() -> float:
        before = time.perf_counter()
        method(model, start, end)
        return time.perf_counter() - before

    bare(), whole()
    ratios = sorted(whole() / bare() for _ in range(5))
    benchmark.pedantic(whole, rounds=2)
    ratio = ratios[len(ratios) // 2]
    record("time-reversal-fusion, wall time over bare model calls", ratio, "ratio", "<= 1.05", ratio <= 1.05)
    record("time-reversal-fusion, toy preset, one clip", min(whole() for _ in range(2)), "s", "", None)


PEAK = """
import dataclasses, resource, sys
import torch, calotype
from calotype.imaging.types import Image
from calotype.methods.time_reversal_fusion import TimeReversalFusion
model = calotype.load("toy-i2v", device="cpu")
if sys.argv[1] == "one":
    model = model.with_max_rows(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
method = dataclasses.replace(TimeReversalFusion.toy(), num_inference_steps=1, height=256, width=256, max_guidance_scale=2.0)
method(model, torch.rand(3, 256, 256), torch.rand(3, 256, 256))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("branches", ["batched", "one"])
def test_peak_memory(benchmark, record, branches):
    def peak() -> float:
        return float(subprocess.run([sys.executable, "-c", PEAK, branches], check=True, capture_output=True, text=True).stdout.split()[-1])

    megabytes = benchmark.pedantic(peak, rounds=1)
    record(f"time-reversal-fusion at 256 px with guidance, peak memory, branches {branches}", megabytes, "MB", "", None)
