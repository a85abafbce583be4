"""A network in another precision is a copy: the network itself stays as it is, for every thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype.backbones import load
from calotype.core.offload import awake, in_precision
from tests.tiny import cached

CPU = torch.device("cpu")


def _latents() -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["sdxl", "svd"])
def test_decoding_in_float32_leaves_a_half_precision_autoencoder_alone(kind: str) -> None:
    """A borrowed pipeline's autoencoder may be at work in another thread at the same time."""
    import diffusers

    single = load(cached(kind), device="cpu")
    pipeline_class = diffusers.StableDiffusionXLPipeline if kind == "sdxl" else diffusers.StableVideoDiffusionPipeline
    pipeline: Any = pipeline_class.from_pretrained(cached(kind), torch_dtype=torch.float16)
    model, vae = load(pipeline), pipeline.vae
    weights = {name: value.clone() for name, value in vae.state_dict().items()}

    def plain() -> Tensor:
        with torch.no_grad():
            extra = {"num_frames": 1} if kind == "svd" else {}
            made: Tensor = vae.decode(_latents().half(), **extra).sample
        return made

    def ours() -> Tensor:
        made: Tensor = model.latent_space.decode(_latents())
        return made

    with torch.no_grad():
        expected, decoded = plain(), ours()
        assert (decoded - single.latent_space.decode(_latents())).abs().max() < 2e-2
        barrier = threading.Barrier(2, timeout=60)

        def again(work: Any) -> list[Tensor]:
            found = []
            for _ in range(5):
                barrier.wait()
                with torch.no_grad():
                    found.append(work())
            return found

        with ThreadPoolExecutor(2) as pool:
            others, own = [future.result(timeout=120) for future in [pool.submit(again, plain), pool.submit(again, ours)]]
    assert all(torch.allclose(one, expected, atol=1e-2) for one in others)
    assert all(torch.allclose(one, decoded, atol=1e-5) for one in own)
    assert all(value.dtype == torch.float16 and torch.equal(value, weights[name]) for name, value in vae.state_dict().items())


@pytest.mark.parametrize("hooked", ["none", "model", "sequential"])
def test_a_copy_holds_the_weights_wherever_they_wait(hooked: str) -> None:
    from accelerate import cpu_offload, cpu_offload_with_hook

    torch.manual_seed(0)
    other, network = nn.Linear(2, 2), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 2))
    network = network.half().eval()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = in_precision(network, torch.float32, CPU)(x)
    if hooked == "sequential":
        cpu_offload(network, CPU, offload_buffers=True)
    elif hooked == "model":
        _, before = cpu_offload_with_hook(other, CPU)
        cpu_offload_with_hook(network, CPU, prev_module_hook=before)
    places = {name: (value.device, value.dtype) for name, value in network.named_parameters()}
    made = in_precision(network, torch.float32, CPU)
    assert torch.equal(made(x), expected)
    assert not any(hasattr(module, "_hf_hook") for module in made.modules())
    assert {name: (value.device, value.dtype) for name, value in network.named_parameters()} == places
    assert in_precision(network, torch.float16, CPU) is network


def test_awake_brings_a_networks_own_weights_and_takes_them_away_again() -> None:
    from accelerate import cpu_offload

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    network = Scaled()
    cpu_offload(network, CPU)
    assert network.scale.device.type == "meta"
    with awake(network):
        assert network.scale.tolist() == [2.0]
    assert network.scale.device.type == "meta"

    def fails() -> None:
        with awake(network):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fails()
    assert network.scale.device.type == "meta"
