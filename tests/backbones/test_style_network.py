"""A UNet with a layout beside the noise and a style in its middle: what flows where, against the stock UNet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import calotype
from calotype.backbones.layout_style import LayoutStyleToImage, one_hot
from calotype.backbones.style_network import NULL_STYLE, run_unet
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.errors import InputError, ShapeError
from tests.tiny_style import SIDE, cached_style_model, tiny_conditioner, tiny_unet
from tests.tolerance import close

INJECTIONS = ("mid", "temb", "cross")


def latents(batch: int = 2) -> Tensor:
    return torch.randn(batch, 7, 8, 8, generator=torch.Generator().manual_seed(1))


def pictures(batch: int = 2, count: int = 3, seed: int = 2) -> Tensor:
    return torch.rand(batch, count, 3, 24, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("injection", INJECTIONS)
def test_before_training_the_network_is_the_stock_one_to_the_bit(injection: str) -> None:
    unet, conditioner = tiny_unet(), tiny_conditioner(injection=injection, zeros=True)
    with torch.no_grad():
        plain = unet(latents(), torch.tensor(400.0)).sample
        styled = run_unet(unet, conditioner, latents(), torch.tensor([400.0]), conditioner(pictures()))
    assert torch.equal(plain, styled)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_after_it_the_style_counts(injection: str) -> None:
    unet, conditioner = tiny_unet(), tiny_conditioner(injection=injection)
    with torch.no_grad():
        one, other = (run_unet(unet, conditioner, latents(), torch.tensor([400.0]), conditioner(pictures(seed=seed))) for seed in (2, 3))
    assert float((one - other).abs().max()) > 1e-3


@pytest.mark.parametrize("aggregation", ["mean", "max", "set"])
def test_a_set_of_styles_has_no_order_and_any_size(aggregation: str) -> None:
    conditioner = tiny_conditioner(aggregation=aggregation)
    given = pictures()
    with torch.no_grad():
        close(conditioner(given), conditioner(given[:, [2, 0, 1]]), depth=40)
        close(conditioner(given[:, :1]), conditioner(given[:, [0, 0, 0]]), depth=40)
        close(*(conditioner(torch.full((2, count, 3, 24, 24), NULL_STYLE)) for count in (1, 4)), depth=40)


def test_a_linear_join_has_its_own_number() -> None:
    conditioner = tiny_conditioner(aggregation="linear", num_styles=3)
    assert conditioner(pictures()).shape == (2, 1, 12)
    with pytest.raises(ShapeError, match="this model joins exactly 3"):
        conditioner(pictures(count=2))


def test_layouts_are_halved_to_the_grid_and_an_unknown_one_is_zero() -> None:
    conditioner = tiny_conditioner()
    layout = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    layout[:, : SIDE // 2] = 1
    with torch.no_grad():
        channels = conditioner.layout_channels(one_hot(layout, 3))
    weight = conditioner.layout.weight[:, :, 0, 0]
    close(channels[0, :, 0, 0], weight[:, 1], depth=4)
    close(channels[0, :, -1, -1], weight[:, 0], depth=4)
    assert not conditioner.layout_channels(one_hot(layout - 2, 3)).any()
    with pytest.raises(ShapeError, match="3 classes and sides that are multiples of 4"):
        conditioner.layout_channels(torch.zeros(1, 3, 30, 32))


def test_every_part_learns() -> None:
    unet, conditioner = tiny_unet(), tiny_conditioner()
    before = {name: value.clone() for name, value in conditioner.named_parameters()}
    optimizer = torch.optim.SGD(conditioner.parameters(), lr=10.0)
    layout = conditioner.layout_channels(one_hot(torch.randint(3, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(1)), 3))
    sample = torch.cat([latents()[:, :4], layout], 1)
    run_unet(unet, conditioner, sample, torch.tensor([400.0]), conditioner(pictures())).square().mean().backward()
    optimizer.step()
    same = [name for name, value in conditioner.named_parameters() if torch.equal(value, before[name])]
    # A bias before a normalisation by few channels may stay; weights may not.
    assert [name for name in same if name.endswith("weight")] == []


def test_guidance_keeps_the_layout_and_changes_the_style_alone() -> None:
    model: Any = calotype.load(str(cached_style_model()), device="cpu")
    assert isinstance(model, LayoutStyleToImage)
    layouts = torch.randint(3, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    styled, none = model.condition(layouts, pictures() / 2 + 0.5), model.condition(layouts, None)
    assert torch.equal(styled.tensors["layout"], none.tensors["layout"])
    x = torch.randn(2, *model.latent_shape((SIDE, SIDE)), generator=torch.Generator().manual_seed(2))
    found = {name: model.denoiser({"cond": one}, ClassifierFreeGuidance(1.0))(x, 2.0) for name, one in (("style", styled), ("none", none))}
    guided = model.denoiser({"cond": styled, "uncond": none}, ClassifierFreeGuidance(1.5))(x, 2.0)
    close(guided, found["none"] + 1.5 * (found["style"] - found["none"]), depth=400)


def test_eight_bits_are_nearly_the_same_network() -> None:
    one, other = (calotype.load(str(cached_style_model(rounded)), device="cpu", dtype="float32") for rounded in (False, True))
    layouts = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    x = torch.randn(1, *one.latent_shape((SIDE, SIDE)), generator=torch.Generator().manual_seed(2))
    made = [
        model.denoiser({"cond": model.condition(layouts, pictures(1) / 2 + 0.5)}, ClassifierFreeGuidance(1.0))(x, 2.0)
        for model in (one, other)
    ]
    assert float((made[0] - made[1]).square().mean().sqrt()) < 0.05


@pytest.mark.parametrize("changes", [{"injection": "left"}, {"factor": 3}, {"num_classes": 1}])
def test_numbers_that_make_no_network_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        tiny_conditioner(**changes)
