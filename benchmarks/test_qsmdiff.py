"""The method's wall time should be its model calls and little else; the field's correction is told apart."""

from __future__ import annotations

import time

import torch

import calotype
from calotype.evaluation.qsm_cases import heads, scan
from calotype.methods.qsmdiff import QSMDiff


def test_overhead(benchmark, record):
    """Wall time of a run on the evaluation's crop over that of its forward passes alone, and over these and the corrections."""
    model, method = calotype.load("toy-qsm", device="cpu"), QSMDiff.toy()
    case = scan(heads("tune", 1, 1)[0], noise_ppm=0.006)
    passes, spent = [], [0.0]
    hook = model.network.register_forward_pre_hook(lambda _, args: passes.append(args))
    guide_of = QSMDiff.guide

    def timed(self: QSMDiff, measured):
        guide = guide_of(self, measured)

        def correct(x, sigma):
            began = time.perf_counter()
            made = guide(x, sigma)
            spent[0] += time.perf_counter() - began
            return made

        return correct

    def whole() -> float:
        began = time.perf_counter()
        method(model, case.field, case.mask)
        return time.perf_counter() - began

    whole()
    hook.remove()

    @torch.no_grad()
    def bare() -> float:
        began = time.perf_counter()
        for args in passes:
            model.network(*args)
        return time.perf_counter() - began

    ratio = sorted(whole() / bare() for _ in range(3))[1]
    QSMDiff.guide = timed
    try:
        total = whole()
    finally:
        QSMDiff.guide = guide_of
    benchmark.pedantic(whole, rounds=1)
    record("qsmdiff, wall time over bare model calls", ratio, "ratio", "<= 1.05", ratio <= 1.05)
    record("qsmdiff, share of the field's correction", spent[0] / total, "share", "", None)
    record("qsmdiff, a run on 48 x 64 x 48 voxels", total, "s", "<= 45", total <= 45)
