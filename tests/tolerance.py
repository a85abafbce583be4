"""How far two computations of one thing may lie apart when only the order of their sums differs.

Kernels add up in an order that depends on the processor's vectors, on the number of threads and on the batch. So each layer adds an error
of about the unit roundoff times the size of what it computes, and later layers carry it on. A fixed tolerance holds on one machine; this
one follows the type, the depth and the size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FACTOR = 4.0
"""Both computations are off, and in one place more than on average."""


def roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff: 6e-8 for float32, 1.1e-16 for float64."""
    return torch.finfo(dtype).eps / 2


def layers(*modules: nn.Module) -> int:
    """How many layers with weights of their own there are, as the depth of a network."""
    return sum(any(True for _ in module.parameters(recurse=False)) for root in modules for module in root.modules())


def tolerance(expected: Tensor, *, depth: float = 1, scale: float = 1.0) -> float:
    """The largest difference that rounding explains.

    Args:
        expected: gives type and size (its largest magnitude).
        depth: layers, or terms of a sum, that the values went through one after the other; times the steps of a sampler.
        scale: what happens to differences afterwards: 2 g - 1 for guidance of scale g, or the size of what cancels over the result's.
    """
    return FACTOR * roundoff(expected.dtype) * depth * scale * float(expected.detach().abs().max())


def close(found: Tensor, expected: Tensor, *, depth: float = 1, scale: float = 1.0) -> None:
    """Assert that two tensors differ by no more than rounding; see `tolerance`."""
    assert found.shape == expected.shape, f"shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    allowed = tolerance(expected, depth=depth, scale=scale)
    difference = float((found.detach().to(expected.dtype) - expected.detach()).abs().max())
    assert difference <= allowed, f"they differ by {difference:.2e}; rounding explains {allowed:.1e}"


def in_float64(model: Any) -> Any:
    """The same loaded model with its networks in float64, where nothing but the two ends (float32) is rounded to speak of.

    For what should be equal although many layers or steps lie between: in float32 the tolerance would be as large as what is looked for.
    """
    for network in model.networks.values():
        network.double()
    return model


ENDS = 4.0
"""The depth of a computation in float64 that is given and returns float32."""
