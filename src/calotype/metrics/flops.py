"""Counting the floating-point operations of a call, and of the networks that it evaluates on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Flops:
    """What a call cost: a multiplication and an addition are two operations."""

    total: int
    """Of the whole call: matrix products, convolutions and attention, as PyTorch counts them; elementwise operations aren't counted."""
    networks: dict[str, int] = field(default_factory=dict)
    """Of all evaluations of each network."""
    calls: dict[str, int] = field(default_factory=dict)
    """How often each network was evaluated."""


def count_flops(call: Callable[[], Any], networks: Mapping[str, nn.Module] | None = None) -> Flops:
    """Run a call and count its floating-point operations, by `torch.utils.flop_counter.FlopCounterMode`.

    Attention is computed by PyTorch's plain implementation meanwhile, because the fused ones are not all counted; the number is the same
    for every implementation.

    Args:
        call: what to run, once.
        networks: modules by name whose share is told apart. One inside another is counted in both.

    Returns:
        The operations of the call and of each network, summed over its evaluations.

    >>> import torch
    >>> layer = nn.Linear(4, 5)
    >>> def twice():
    ...     layer(torch.zeros(3, 4)), layer(torch.zeros(3, 4))
    >>> count_flops(twice, {"layer": layer})
    Flops(total=240, networks={'layer': 240}, calls={'layer': 2})
    """
    named = dict(networks or {})
    shares, calls = dict.fromkeys(named, 0), dict.fromkeys(named, 0)
    counter = FlopCounterMode(display=False)
    handles = []
    for name, module in named.items():

        def enter(module: nn.Module, given: Any, *, name: str = name) -> None:
            shares[name] -= counter.get_total_flops()

        def leave(module: nn.Module, given: Any, made: Any, *, name: str = name) -> None:
            shares[name] += counter.get_total_flops()
            calls[name] += 1

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            call()
    finally:
        for handle in handles:
            handle.remove()
    return Flops(int(counter.get_total_flops()), shares, calls)
