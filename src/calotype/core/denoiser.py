"""The one interface between checkpoints and samplers.

Every noisy tensor is `x = x0 + sigma * n` with `n ~ N(0, I)`, whatever parametrisation the checkpoint was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Denoiser(Protocol):
    """`denoise(x, sigma) -> x0`: the model's estimate of the clean tensor, guidance included; same shape as `x`, float32."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor: ...


@dataclass(frozen=True)
class Condition:
    """What a checkpoint is told about the picture or clip: named tensors that share their first dimension, one row per sample.

    Example:
        >>> import torch
        >>> both = Condition.cat([Condition({"text": torch.zeros(1, 4)}), Condition({"text": torch.ones(1, 4)})])
        >>> both.rows
        2
    """

    tensors: Mapping[str, Tensor]

    @property
    def rows(self) -> int:
        """The number of samples."""
        return next(iter(self.tensors.values())).shape[0]

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Stack the rows of several conditions of the same kind."""
        names = conditions[0].tensors.keys()
        return Condition({name: torch.cat([c.tensors[name] for c in conditions]) for name in names})
