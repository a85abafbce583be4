"""The method's wall time should be its model calls and little else."""

from __future__ import annotations

import time

import torch

import calotype
from calotype.evaluation.edit_cases import cases
from calotype.methods.design_edit import DesignEdit


def test_overhead(benchmark, record):
    """Wall time of a removal over that of its forward passes, one encoding, one decoding and one prompt alone."""
    model, method = calotype.load("toy-t2i", device="cpu"), DesignEdit.toy()
    case = cases("small", "tune", 1, 1)[0]
    unet, passes = model.unet, []
    hook = unet.register_forward_pre_hook(lambda _, args, keywords: passes.append((args, keywords)), with_kwargs=True)
    inversion = [method.inverted(model, case.task.source[None])]
    method.edit(model, [case.task], inversion=inversion)
    hook.remove()

    def whole() -> float:
        began = time.perf_counter()
        known = [method.inverted(model, case.task.source[None])]
        method.edit(model, [case.task], inversion=known)
        return time.perf_counter() - began

    @torch.no_grad()
    def bare() -> float:
        began = time.perf_counter()
        for args, keywords in passes:
            unet(*args, **keywords)
        model.decode(model.encode(case.task.source[None]))
        model.condition([""])
        return time.perf_counter() - began

    whole(), bare()
    ratio = sorted(whole() / bare() for _ in range(5))[2]
    benchmark.pedantic(whole, rounds=1)
    record("design-edit, wall time over bare model calls", ratio, "ratio", "<= 1.08", ratio <= 1.08)
