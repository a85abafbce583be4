"""The method's wall time should be its model calls and little else."""

from __future__ import annotations

import dataclasses
import time

import torch

import calotype
from calotype.evaluation.clip_edits import cases
from calotype.methods.anyv2v import AnyV2V


def test_overhead(benchmark, record):
    """Wall time of an edit over that of its forward passes, one encoding, one decoding and the conditions alone."""
    model, method = calotype.load("toy-i2v", device="cpu"), dataclasses.replace(AnyV2V.toy(), rebuild=False, cache_megabytes=0)
    case = cases("small", "tune", 1, 1)[0]
    unet, passes = model.unet, []
    hook = unet.register_forward_pre_hook(lambda _, args, keywords: passes.append((args, keywords)), with_kwargs=True)
    method(model, case.clip, case.frame)
    hook.remove()

    def whole() -> float:
        began = time.perf_counter()
        method(model, case.clip, case.frame)
        return time.perf_counter() - began

    @torch.no_grad()
    def bare() -> float:
        began = time.perf_counter()
        for args, keywords in passes:
            unet(*args, **keywords)
        model.decode(model.encode(case.clip.frames), 7.0)
        for image in (case.clip[0], case.clip[0], case.frame):
            method.condition(model, image, "", 7.0, 0)
        return time.perf_counter() - began

    whole(), bare()
    ratio = sorted(whole() / bare() for _ in range(5))[2]
    benchmark.pedantic(whole, rounds=1)
    record("anyv2v, wall time over bare model calls", ratio, "ratio", "<= 1.08", ratio <= 1.08)
