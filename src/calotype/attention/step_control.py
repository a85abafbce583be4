"""Samplers drive the clock: a denoiser that tells the control which noise level is being looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from calotype.attention.control import AttentionControl
from calotype.core.denoiser import Denoiser
from calotype.errors import InputError


class ControlledDenoiser:
    """`denoise(x, sigma)` that begins the control's step first; everything else is the wrapped denoiser's."""

    def __init__(self, denoise: Denoiser, control: AttentionControl, sigmas: Sequence[float]) -> None:
        self.denoise, self.control, self.levels = denoise, control, sorted(sigmas, reverse=True)

    @property
    def calls(self) -> int:
        """The wrapped denoiser's count of model calls."""
        return int(getattr(self.denoise, "calls", 0))

    def __call__(self, x: Float[Tensor, "batch ..."], sigma: float) -> Float[Tensor, "batch ..."]:
        """The estimate of x0, at the step whose noise level is nearest.

        Raises:
            InputError: the model evaluates fewer rows at once than the roles need.
        """
        _check_rows(self.denoise, int(x.shape[0]))
        steps = max(1, len(self.levels) - 1)
        nearest = min(range(steps), key=lambda place: abs(self.levels[place] - sigma))
        self.control.begin_step(nearest, steps, sigma)
        return self.denoise(x, sigma)


def controlled(denoise: Denoiser, control: AttentionControl, sigmas: Float[Tensor, " levels"] | Sequence[float]) -> ControlledDenoiser:
    """The denoiser, with the control's clock set by the noise level of each call.

    Step k is the one that starts at `sigmas[k]`, whichever way the levels are walked: inversion, time travel and second calls of a step
    (Heun) find their level too. Use it for one sampler run inside of the control's `with` block.

    Args:
        denoise: (x, sigma) -> x0.
        control: whose rules are to act.
        sigmas: the run's noise levels [n + 1].

    Example:
        >>> import torch
        >>> from diffusers import UNet2DModel
        >>> unet = UNet2DModel(block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> with AttentionControl(unet) as control:
        ...     _ = controlled(lambda x, sigma: x, control, torch.tensor([4.0, 2.0, 0.0]))(torch.zeros(1), 2.0)
        ...     control.context.index, control.context.count
        (1, 2)
    """
    return ControlledDenoiser(denoise, control, [float(sigma) for sigma in sigmas])


def _check_rows(denoise: Any, rows: int) -> None:
    bound = getattr(getattr(denoise, "model", None), "max_rows", None)
    labels = getattr(getattr(denoise, "guidance", None), "labels", ())
    if bound is not None and bound < rows * max(1, len(labels)):
        raise InputError(
            f"max_rows is {bound} but attention rules need all {rows * max(1, len(labels))} rows in one call; use model.with_max_rows(None)"
        )
