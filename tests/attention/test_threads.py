"""Two threads on one network: what one does in it, the other doesn't see."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.attention import AttentionControl, Inject, KeyScale, sites
from calotype.errors import InputError
from calotype.features import FeatureInject
from tests.attention.networks import call, network, untouched

TURNS = 6


def side_by_side(*works: Callable[[threading.Barrier], Any]) -> list[Any]:
    """Each in a thread of its own; the barrier lets them meet."""
    barrier = threading.Barrier(len(works), timeout=60)
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(work, barrier) for work in works]]


def ruled(kind: str, barrier: threading.Barrier | None = None, *rules: Any) -> list[Tensor]:
    """The network's output again and again under rules, entered and left each time."""
    outputs = []
    for _ in range(TURNS):
        with AttentionControl(network(kind), roles=("a", "b", "c")) as control:
            for rule in rules:
                control.add(rule)
            if barrier is not None:
                barrier.wait()
            control.begin_step(0, 1)
            outputs.append(call(kind, network(kind), 3))
    return outputs


SCALED = KeyScale(mask=torch.ones(8, 8), rows="b", select=sites(kind="self"))
INJECTED = Inject(src="a", dst="c", select=sites(kind="self"))


@pytest.mark.parametrize("kind", ["sd", "i2vgen"])
def test_plain_calls_of_another_thread_stay_as_they_are(kind: str) -> None:
    plain, alone = untouched(kind, 3), ruled(kind, None, SCALED)[0]
    assert not torch.equal(plain, alone)

    def calls(barrier: threading.Barrier) -> list[Tensor]:
        outputs = []
        for _ in range(TURNS):
            barrier.wait()
            outputs.append(call(kind, network(kind), 3))
        return outputs

    under, others = side_by_side(lambda barrier: ruled(kind, barrier, SCALED), calls)
    assert all(torch.allclose(output, plain, atol=1e-5) for output in others)
    assert all(torch.allclose(output, alone, atol=1e-5) for output in under)
    assert not any("forward" in vars(module) for module in network(kind).modules())


def test_two_threads_have_their_own_rules_on_one_network() -> None:
    feature = FeatureInject(module="up_blocks.1.resnets.0", src="a", dst="b")
    one, two = ruled("sd", None, SCALED)[0], ruled("sd", None, INJECTED, feature)[0]
    first, second = side_by_side(lambda barrier: ruled("sd", barrier, SCALED), lambda barrier: ruled("sd", barrier, INJECTED, feature))
    assert all(torch.allclose(output, one, atol=1e-5) for output in first)
    assert all(torch.allclose(output, two, atol=1e-5) for output in second)
    assert torch.equal(call("sd", network("sd"), 3), untouched("sd", 3))


def test_a_control_that_is_driven_from_another_thread_says_so() -> None:
    control = AttentionControl(network("sd"))
    with control, ThreadPoolExecutor(1) as pool:
        with pytest.raises(InputError, match="was entered in another thread, and its rules act on that thread's calls only"):
            pool.submit(control.begin_step, 0, 1).result()
        with pytest.raises(InputError, match="already in use in another thread"):
            pool.submit(control.__enter__).result()
    control.begin_step(0, 1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(control.begin_step, 0, 1).result()


def test_rules_act_when_a_backward_pass_runs_the_network_again() -> None:
    from torch.utils.checkpoint import checkpoint

    def gradient(again: bool) -> Tensor:
        unet, x = network("sd"), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        words = torch.randn(3, 5, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))

        def run(sample: Tensor) -> Tensor:
            made: Tensor = unet(sample, 1, words).sample
            return made

        with AttentionControl(unet, roles=("a", "b", "c")) as control:
            control.add(SCALED)
            output = checkpoint(run, x, use_reentrant=False) if again else run(x)
            (found,) = torch.autograd.grad(output.square().sum(), x)
        return found

    assert torch.allclose(gradient(True), gradient(False), atol=1e-5)


def test_a_call_of_another_thread_while_the_hooks_go_on_and_off() -> None:
    """torch stores a hook, and that it wants the keywords, in two steps; a call may come in between."""
    model, others = network("sd"), []

    class Between(OrderedDict[int, bool]):
        """The second step, with a call in another thread before the note is made, and after it is gone."""

        def __setitem__(self, key: int, value: bool) -> None:
            beside()
            super().__setitem__(key, value)

        def __delitem__(self, key: int) -> None:
            super().__delitem__(key)
            beside()

    def beside() -> None:
        with ThreadPoolExecutor(1) as pool:
            others.append(pool.submit(call, "sd", model, 1).result(timeout=60))

    plain, kept = untouched("sd", 1), model._forward_pre_hooks_with_kwargs
    model._forward_pre_hooks_with_kwargs = Between()
    try:
        with AttentionControl(model):
            pass
    finally:
        model._forward_pre_hooks_with_kwargs = kept
    assert others
    assert all(torch.allclose(output, plain, atol=1e-5) for output in others)
