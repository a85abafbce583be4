"""Rules on the output of a module, by its name: for `calotype.attention.AttentionControl.add`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from calotype.core.stepping import StepContext, Steps, always


@dataclass(kw_only=True, eq=False)
class FeatureTap:
    """Keeps the output of a module by step: [rows of the chosen roles, ...].

    Example:
        >>> tap = FeatureTap(module="up_blocks.1.resnets.1", rows="cond")
        >>> tap.tensors
        {}
    """

    module: str
    """Path in the network; `calotype models --taps NAME` lists some."""
    rows: str | Sequence[str] | None = None
    steps: Steps = always
    dtype: torch.dtype | None = torch.float16
    """Precision of what is kept; None is the network's."""
    device: str | torch.device = "cpu"
    tensors: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def act(self, output: Tensor, context: StepContext) -> Tensor:
        """Keep a copy."""
        chosen = output.detach()
        if self.rows is not None:
            chosen = torch.cat([chosen[place] for place in context.slices(self.rows, chosen.shape[0])])
        self.tensors[context.index] = chosen.to(self.dtype or chosen.dtype).to(self.device, copy=True)
        return output


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureInject:
    """Copies the output of a module from the rows of one role over those of others, as Plug-and-Play and AnyV2V do with convolutions.

    Example:
        >>> rule = FeatureInject(module="up_blocks.1.resnets.1.conv2", src="src", dst=("uncond", "cond"))
    """

    module: str
    src: str
    dst: str | Sequence[str]
    steps: Steps = always

    def act(self, output: Tensor, context: StepContext) -> Tensor:
        """A copy with the rows replaced."""
        (source,) = context.slices(self.src, output.shape[0])
        changed = output.clone()
        for place in context.slices(self.dst, output.shape[0]):
            changed[place] = output[source]
        return changed
