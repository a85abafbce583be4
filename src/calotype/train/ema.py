"""The exponential moving average of a model's weights: what is tested and shipped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """A copy of a module whose floating-point weights and buffers trail behind it.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), so that the start is forgotten quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module as it is now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(_floating(self.module), _floating(module), 1.0 - decay)
        self.updates += 1


def _floating(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in module.state_dict(keep_vars=True).values() if tensor.is_floating_point()]
