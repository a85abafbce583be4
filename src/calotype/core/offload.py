"""Networks whose weights wait elsewhere: accelerate's hooks bring them to their device when a network, or a layer of it, is called.

The one rule for offload: what a run holds (samples, conditions, keys) lies on the model's device, and no code asks a weight where it is,
since it may be away. Code that calls a part of a network instead of the network wraps it in `awake`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def awake(network: nn.Module) -> Iterator[nn.Module]:
    """Calls of the network's own modules, and not of the network itself, find their weights on its device.

    Example:
        >>> with awake(nn.Sequential(nn.Linear(2, 1))) as network:
        ...     network[0](torch.zeros(1, 2)).shape
        torch.Size([1, 1])
    """
    hook: Any = getattr(network, "_hf_hook", None)
    if hook is None:
        yield network
        return
    hook.pre_forward(network)
    try:
        yield network
    finally:
        hook.post_forward(network, None)


def in_precision(network: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network itself if that is its precision, else a copy in it, on the device; the network stays as it is, for every thread.

    Weights that are away are copied from where they wait, and the copy stays awake.

    Example:
        >>> half = nn.Linear(2, 1).half()
        >>> in_precision(half, torch.float32, torch.device("cpu")).weight.dtype, half.weight.dtype
        (torch.float32, torch.float16)
    """
    if next(network.parameters()).dtype == dtype:
        return network
    with awake(network):
        memo: dict[int, Any] = {}
        for module in network.modules():
            hook = module.__dict__.get("_hf_hook")
            if hook is not None:
                memo[id(hook)] = None
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                value = _waiting(hook, name) if tensor.device.type == "meta" else tensor.detach()
                moved = value.to(device, dtype if tensor.is_floating_point() else None)
                memo[id(tensor)] = nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
        made = copy.deepcopy(network, memo)
    for module in made.modules():
        module.__dict__.pop("_hf_hook", None)
        forward = module.__dict__.pop("_old_forward", None)
        if forward is not None:
            module.__dict__["forward"] = forward
    return made


def _waiting(hook: Any, name: str) -> Tensor:
    """A weight of a module whose hook keeps it away."""
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights is not None:
            value: Tensor = weights[name]
            return value
    raise KeyError(name)
