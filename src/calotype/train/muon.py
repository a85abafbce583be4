"""Muon (Jordan et al., 2024) for the matrices of a network and AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

ENDS = ("conv_in", "conv_out", "embed", "unet.out.")
"""Parts of the names of layers that stay with AdamW: the first and the last (`out` in MONAI), and everything that embeds."""


class Muon(torch.optim.AdamW):
    """AdamW whose updates of hidden weight matrices are orthogonalised momentum instead.

    Every singular direction of such an update has about the same length, so that rare directions are learnt as fast as frequent ones.
    A convolution's kernel counts as a matrix of output channels by everything else. The update is scaled by 0.2 sqrt(longer side)
    (Liu et al., 2025), which gives it about AdamW's size: one learning rate serves both.

    Args:
        module: whose parameters with `requires_grad` are trained, or those parameters by name.
        lr: learning rate.
        betas: of AdamW.
        weight_decay: decoupled, for all parameters.
        momentum: of the matrices (Nesterov's form).
        dtype: what matrices are orthogonalised in: bfloat16 is enough, and faster only where the hardware multiplies it.
    """

    def __init__(
        self,
        module: nn.Module | Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        everything = module.named_parameters() if isinstance(module, nn.Module) else module
        named = [(name, parameter) for name, parameter in everything if parameter.requires_grad]
        hidden = [value for name, value in named if value.ndim >= 2 and not any(part in name for part in ENDS)]
        known = {id(value) for value in hidden}
        rest = [value for _, value in named if id(value) not in known]
        groups: list[dict[str, Any]] = [{"params": hidden, "momentum": momentum}, {"params": rest}]
        super().__init__([group for group in groups if group["params"]], lr=lr, betas=betas, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update; gradients of the matrices are used up."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if "momentum" in group:
                for parameter in group["params"]:
                    self._turn(parameter, group)
        super().step()
        return loss

    def _turn(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:
            state["step"], state["momentum_buffer"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = orthogonalise(parameter.grad.lerp(state["momentum_buffer"], group["momentum"]).flatten(1), dtype=self.dtype)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)
        parameter.grad = None  # so that AdamW leaves it alone


def orthogonalise(
    matrix: Float[Tensor, "rows columns"], steps: int = 5, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "rows columns"]:
    """U V' of the matrix U S V', roughly: five quintic Newton-Schulz steps in `dtype` bring all singular values of any size into 0.7..1.2.

    Directions whose singular value is below about 1/1000 of the matrix's norm come out shorter.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    x = x.to(dtype)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.to(matrix.dtype)
    made: Tensor = x.T if tall else x
    return made
