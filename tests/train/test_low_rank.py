"""Low-rank adaptation: nothing at first, differences of a rank alone, and an ordinary network afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from calotype.errors import InputError
from calotype.train.low_rank import adapt, adapted
from tests.tolerance import close


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.proj, self.to_out = nn.Linear(6, 5), nn.Linear(5, 5), nn.ModuleList([nn.Conv2d(5, 4, 3, padding=1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.to_out[0](self.proj(self.to_q(x)).mT[..., None]).squeeze(-1)
        return made


def test_what_is_trained_is_a_difference_of_the_rank_and_nothing_else() -> None:
    torch.manual_seed(0)
    plain = Layer()
    network, x = adapt(copy.deepcopy(plain), 2), torch.randn(3, 7, 6)
    close(network(x), plain(x), depth=8)
    optimizer = torch.optim.Adam([parameter for parameter in network.parameters() if parameter.requires_grad], 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    made = Layer()
    made.load_state_dict(adapted(copy.deepcopy(network)))
    close(made(x), network(x), depth=8)
    for name, value in made.state_dict().items():
        difference = value - plain.state_dict()[name]
        if name in ("to_q.weight", "to_out.0.weight"):
            assert torch.linalg.matrix_rank(difference.flatten(1), tol=1e-5) == 2
        else:
            assert not difference.any(), name
    assert "to_q.parametrizations.weight.0.up" in network.state_dict()


def test_a_network_without_such_parts_is_refused() -> None:
    with pytest.raises(InputError, match="has no to_k to adapt"):
        adapt(Layer(), 2, ends=["to_k"])
