"""Features of the decoder: where they are taken, how the noise level is reached, and that the network stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import calotype
from calotype.backbones.diffusion_features import FeaturePlan, collect, decoder_layers
from calotype.core.noise import noise
from calotype.errors import InputError
from tests.tiny import cached

LAST = "up_blocks.0.resnets.1.conv2"


@pytest.fixture(scope="module")
def model() -> Any:
    return calotype.load(cached("toy-t2i"), device="cpu")


def pictures(batch: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_tap_is_the_convolution_before_the_residual_is_added(model: Any) -> None:
    given = pictures(1)
    ((tap,),) = collect(model, given, FeaturePlan(layers=(LAST,)), seeds=[5])
    block = model.unet.get_submodule(LAST.removesuffix(".conv2"))
    seen: dict[str, torch.Tensor] = {}
    hook = block.register_forward_hook(lambda module, inputs, output: seen.update(before=inputs[0], after=output))
    sigma = model.model_sampling.sigma_at(261.0)
    clean = model.encode(given)
    model.estimate(clean + sigma * noise(clean.shape[1:], 5), sigma, model.condition([""]))
    hook.remove()
    shortcut = seen["before"] if block.conv_shortcut is None else block.conv_shortcut(seen["before"])
    assert torch.allclose(tap, seen["after"] * block.output_scale_factor - shortcut, atol=1e-4)
    assert float((tap - seen["after"]).abs().max()) > 0.1


def test_all_of_the_decoder_can_be_taken(model: Any) -> None:
    layers = decoder_layers(model.unet)
    assert len(layers) == sum(len(block.resnets) for block in model.unet.up_blocks)
    (step,) = collect(model, pictures(), FeaturePlan(layers=layers))
    assert [tuple(tap.shape[2:]) for tap in step] == [(4, 4), (4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    assert all(tap.dtype == torch.float32 and len(tap) == 2 and not tap.requires_grad for tap in step)


def test_nothing_is_left_behind_and_the_same_comes_again(model: Any) -> None:
    before = {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in model.unet.named_modules()}
    plan = FeaturePlan(layers=(LAST,), num_noises=2)
    state = torch.get_rng_state()
    first, second = (collect(model, pictures(), plan)[0][0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert before == {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in model.unet.named_modules()}


def test_noises_are_averaged_and_belong_to_the_picture(model: Any) -> None:
    given = pictures()
    one, many = (collect(model, given, FeaturePlan(layers=(LAST,), num_noises=number), seeds=[3, 9])[0][0] for number in (1, 4))
    assert float((one - many).abs().max()) > 1e-3
    alone = collect(model, given[1:], FeaturePlan(layers=(LAST,), num_noises=4), seeds=[9])[0][0]
    assert torch.allclose(many[1:], alone, atol=1e-4)
    shared = collect(model, given[:1].expand(2, -1, -1, -1), FeaturePlan(layers=(LAST,)), seeds=[3, 4])[0][0]
    assert float((shared[0] - shared[1]).abs().max()) > 1e-3


@torch.no_grad()
def test_an_inversion_needs_no_noise_and_goes_no_higher_than_asked(model: Any) -> None:
    plan = FeaturePlan(layers=(LAST,), timesteps=(400.0, 1.0), num_inversion_steps=10)
    calls: list[float] = []
    hook = model.unet.register_forward_pre_hook(lambda module, inputs: calls.append(float(inputs[1])))
    one, two = (collect(model, pictures(), plan, seeds=seeds) for seeds in ([1, 2], [3, 4]))
    hook.remove()
    assert [tuple(step[0].shape) for step in one] == [(2, 64, 4, 4)] * 2
    assert all(torch.equal(*pair) for pair in zip([step[0] for step in one], [step[0] for step in two], strict=True))
    assert max(calls) == pytest.approx(400, abs=1e-3)
    assert calls[-2:] == [pytest.approx(400, abs=1e-3), pytest.approx(1, abs=1e-3)]


@torch.no_grad()
def test_an_inversion_of_one_step_is_the_textbook_one(model: Any) -> None:
    given, sigma = pictures(1), float(model.sigmas(1, sampler="ddim")[0])
    timestep = float(model.model_sampling.preconditioner.timestep(sigma))
    clean, condition = model.encode(given), model.condition([""])
    lifted = clean + (clean - model.estimate(clean, sigma, condition))
    taken: list[torch.Tensor] = []
    hook = model.unet.get_submodule(LAST).register_forward_hook(lambda module, inputs, output: taken.append(output))
    model.estimate(lifted, sigma, condition)
    hook.remove()
    ((tap,),) = collect(model, given, FeaturePlan(layers=(LAST,), timesteps=(timestep,), num_inversion_steps=1))
    assert torch.allclose(tap, taken[0], atol=1e-4)


def test_a_picture_of_another_shape_keeps_its_aspect(model: Any) -> None:
    ((tap,),) = collect(model, pictures(1, 40, 160), FeaturePlan(layers=(LAST,)))
    assert tuple(tap.shape[2:]) == (2, 10)


def test_what_can_not_be_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match="the checkpoint has 0 to 999"):
        collect(model, pictures(), FeaturePlan(layers=(LAST,), timesteps=(1000.0,)))
    with pytest.raises(InputError, match=r"no module 'up_blocks\.7'"):
        collect(model, pictures(), FeaturePlan(layers=("up_blocks.7",)))
    with pytest.raises(InputError, match="name one or more"):
        FeaturePlan(layers=())
    with pytest.raises(InputError, match="num_noises"):
        FeaturePlan(layers=(LAST,), num_noises=0)
