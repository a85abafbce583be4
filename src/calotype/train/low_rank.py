"""Low-rank adaptation: of a network's matrices only a difference of low rank is trained (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from calotype.errors import InputError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Ends of the names of the attention's projections in diffusers' networks."""
Network = TypeVar("Network", bound=nn.Module)


class LowRank(nn.Module):
    """A weight plus a product of two thin matrices, which is 0 at first.

    Args:
        weight: [rows, ...] that it is for.
        rank: of the product.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        columns = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns, device=weight.device) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device))

    def forward(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The weight with the difference."""
        return weight + (self.up @ self.down).view_as(weight)


def adapt(network: Network, rank: int, *, ends: Sequence[str] = ATTENTION) -> Network:
    """Freeze a network and let differences of some of its weights be trained; `adapted` gives the weights that result.

    Args:
        network: is changed.
        rank: of each difference.
        ends: of the names of the modules whose `weight` it is.

    Raises:
        InputError: there is no such module.

    Example:
        >>> network = adapt(nn.Sequential(nn.Linear(8, 8)), 2, ends=["0"])
        >>> sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        32
    """
    network.requires_grad_(False)
    chosen = [module for name, module in network.named_modules() if any(f".{name}".endswith(f".{end}") for end in ends)]
    if not chosen:
        raise InputError(f"{type(network).__name__} has no {', '.join(ends)} to adapt; train all of its weights")
    for module in chosen:
        parametrize.register_parametrization(module, "weight", LowRank(getattr(module, "weight"), rank))  # noqa: B009
    return network


def adapted(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network as it was before `adapt`, with the differences added to its weights; another's is returned as it is."""
    state = {name: value for name, value in network.state_dict().items() if ".parametrizations." not in f".{name}"}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            state[f"{name}.weight"] = getattr(module, "weight").detach()  # noqa: B009
    return state
