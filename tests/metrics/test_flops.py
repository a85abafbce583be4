"""Operations of calls against closed forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.metrics import count_flops


def test_a_linear_layer() -> None:
    assert count_flops(lambda: nn.Linear(7, 11)(torch.zeros(5, 7))).total == 2 * 5 * 7 * 11


def test_a_convolution() -> None:
    layer = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    assert count_flops(lambda: layer(torch.zeros(3, 6, 16, 16))).total == 2 * 3 * 8 * 8 * 8 * (6 // 2) * 9


def test_attention_whatever_computes_it() -> None:
    heads, queries, keys, width = 4, 10, 12, 8
    q, k = torch.zeros(2, heads, queries, width), torch.zeros(2, heads, keys, width)
    wanted = 2 * (2 * 2 * heads * queries * keys * width)
    assert count_flops(lambda: functional.scaled_dot_product_attention(q, k, k)).total == wanted
    assert count_flops(lambda: (q @ k.mT).softmax(-1) @ k).total == wanted


def test_evaluations_of_each_network_are_summed() -> None:
    inner, outer = nn.Linear(4, 4), nn.Linear(4, 2)

    def steps() -> Tensor:
        x = torch.zeros(3, 4)
        for _ in range(5):
            x = inner(x)
        return outer(x) @ torch.zeros(2, 2)

    found = count_flops(steps, {"inner": inner, "outer": outer, "absent": nn.Linear(2, 2)})
    assert found.networks == {"inner": 5 * 2 * 3 * 16, "outer": 2 * 3 * 8, "absent": 0}
    assert found.calls == {"inner": 5, "outer": 1, "absent": 0}
    assert found.total == sum(found.networks.values()) + 2 * 3 * 4
    # Nothing is left on the modules.
    assert not inner._forward_hooks
    assert not inner._forward_pre_hooks


def test_gradients_are_counted_too() -> None:
    layer = nn.Linear(4, 4)
    forward = count_flops(lambda: layer(torch.zeros(3, 4)))
    both = count_flops(lambda: layer(torch.zeros(3, 4)).sum().backward())
    assert both.total == 2 * forward.total  # the input needs no gradient
