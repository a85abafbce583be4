"""StyleGAN2's generator against its equations written out in float64, and what its layers promise to those who replace a feature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from calotype.backbones.stylegan2 import StyleGAN2Generator, default_channels, upsample_rgb
from calotype.errors import InputError, ShapeError
from tests.tolerance import close

CHANNELS = {4: 6, 8: 5, 16: 4}
FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0]).double() / 8


@pytest.fixture(scope="module")
def network() -> StyleGAN2Generator:
    """With weights, biases and noise strengths of a seed, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made: StyleGAN2Generator = StyleGAN2Generator(size=16, style_dim=7, num_mapping_layers=2, channels=CHANNELS).double().eval()
        for name, parameter in made.named_parameters():
            if name.endswith(("bias", "noise.weight")):
                torch.nn.init.normal_(parameter, std=0.3)
        return made.requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stuffed(x: Tensor, before: int, after: int) -> Tensor:
    """Twice the resolution: zeros between the pixels, zeros around them, then the filter with a gain of 2 along each side."""
    batch, channels, height, width = x.shape
    made = x.new_zeros(batch, channels, 2 * height, 2 * width)
    made[:, :, ::2, ::2] = x
    kernel = (FILTER[:, None] * FILTER[None] * 4).expand(channels, 1, 4, 4)
    return functional.conv2d(functional.pad(made, (before, after, before, after)), kernel, groups=channels)


def reference(network: StyleGAN2Generator, w_plus: Tensor) -> Tensor:
    """The picture of one w+, by the equations of arXiv 1912.04958, one output pixel's sum at a time."""
    state: dict[str, Tensor] = network.state_dict()

    def modulated(name: str, x: Tensor, style: Tensor, *, up: bool = False, demodulate: bool = True) -> Tensor:
        weight = state[f"{name}.weight"][0]
        outputs, inputs, kernel, _ = weight.shape
        linear = state[f"{name}.modulation.weight"] / math.sqrt(style.numel())
        scales = linear @ style + state[f"{name}.modulation.bias"]
        weight = weight / math.sqrt(inputs * kernel**2) * scales[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if not up:
            return functional.conv2d(x, weight, padding=kernel // 2)
        # The transposed convolution adds a kernel at every second pixel.
        height, width = x.shape[2:]
        made = x.new_zeros(1, outputs, 2 * height + 1, 2 * width + 1)
        for row in range(height):
            for column in range(width):
                made[0, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += torch.einsum("i,oijk->ojk", x[0, :, row, column], weight)
        filters = (FILTER[:, None] * FILTER[None] * 4).expand(outputs, 1, 4, 4)
        return functional.conv2d(made, filters, padding=1, groups=outputs)

    def layer(name: str, number: int, x: Tensor) -> Tensor:
        made = modulated(f"{name}.conv", x, w_plus[0, number], up=number % 2 == 1)
        made = made + state[f"{name}.noise.weight"] * state[f"noises.noise_{number}"] + state[f"{name}.activate.bias"][:, None, None]
        return torch.where(made > 0, made, 0.2 * made) * math.sqrt(2)

    x = layer("conv1", 0, state["input.input"])
    picture = modulated("to_rgb1.conv", x, w_plus[0, 1], demodulate=False) + state["to_rgb1.bias"]
    for place in range(len(CHANNELS) - 1):
        for number in (2 * place + 1, 2 * place + 2):
            x = layer(f"convs.{number - 1}", number, x)
        rgb = modulated(f"to_rgbs.{place}.conv", x, w_plus[0, 2 * place + 3], demodulate=False) + state[f"to_rgbs.{place}.bias"]
        picture = rgb + stuffed(picture, 2, 1)
    return picture


def test_the_picture_is_that_of_the_equations(network: StyleGAN2Generator) -> None:
    w_plus = normal(2, network.num_styles, 7)
    made = network(w_plus)
    for row in range(2):
        close(made[row : row + 1], reference(network, w_plus[row : row + 1]), depth=40)


def test_the_mapping_is_that_of_the_equations(network: StyleGAN2Generator) -> None:
    z, state = normal(3, 7), network.state_dict()
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for number in (1, 2):
        x = x @ state[f"style.{number}.weight"].T * (0.01 / math.sqrt(7)) + state[f"style.{number}.bias"] * 0.01
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    close(network.map(z), x, depth=10)


def test_truncation_goes_from_the_mean_style_to_the_whole_one(network: StyleGAN2Generator) -> None:
    mean = network.measure_mean_style(count=500)
    z = normal(2, 7)
    close(mean, network.map(torch.randn(500, 7, generator=torch.Generator().manual_seed(0)).double()).mean(0), depth=500)
    close(network.map(z, truncation=0.0), mean.expand(2, -1))
    close(network.map(z, truncation=0.25), mean + (network.map(z) - mean) * 0.25, depth=4)
    network.mean_style.zero_()


def test_upsampling_is_the_filter_on_stuffed_zeros() -> None:
    rgb = normal(2, 3, 5, 7)
    close(upsample_rgb(rgb), stuffed(rgb, 2, 1), depth=4)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 4])
def test_a_layers_own_input_in_its_place_changes_nothing(network: StyleGAN2Generator, layer: int) -> None:
    w_plus = normal(2, network.num_styles, 7)
    plain = network.collect(w_plus)
    given = plain.layers[layer - 1] if layer else network.input.input.expand(2, -1, -1, -1)
    assert given.shape[1:] == network.input_shape(layer)
    again = network.collect(w_plus, {layer: given})
    assert torch.equal(again.picture, plain.picture)
    changed = network.collect(w_plus, {layer: given + 1.0})
    assert (changed.picture - plain.picture).abs().max() > 1e-3
    assert all(torch.equal(changed.layers[number], plain.layers[number]) for number in range(layer))


def test_levels_add_up_to_the_picture(network: StyleGAN2Generator) -> None:
    w_plus = normal(2, network.num_styles, 7)
    found = network.collect(w_plus)
    picture = network.to_rgb(4, found.layers[0], w_plus)
    for side, layer in ((8, 2), (16, 4)):
        picture = upsample_rgb(picture) + network.to_rgb(side, found.layers[layer], w_plus)
        assert torch.equal(picture, found.rgb[side])
        assert torch.equal(found.rgb[side], network(w_plus, size=side))
    assert torch.equal(found.picture, picture)


def test_without_its_bias_rgb_is_linear_in_the_feature(network: StyleGAN2Generator) -> None:
    w_plus, first, second = normal(1, network.num_styles, 7), normal(1, 5, 8, 8), normal(1, 5, 8, 8, seed=1)
    both = network.to_rgb(8, 2 * first - second, w_plus, bias=False)
    close(both, 2 * network.to_rgb(8, first, w_plus, bias=False) - network.to_rgb(8, second, w_plus, bias=False), depth=10, scale=3)
    close(network.to_rgb(8, first, w_plus), network.to_rgb(8, first, w_plus, bias=False) + network.rgb_bias(8))


def test_noise_can_be_given(network: StyleGAN2Generator) -> None:
    w_plus = normal(2, network.num_styles, 7)
    own = {layer: getattr(network.noises, f"noise_{layer}") for layer in range(network.num_layers)}
    assert torch.equal(network(w_plus, noise=own), network(w_plus))
    assert not torch.equal(network(w_plus, noise={**own, 4: -own[4]}), network(w_plus))


def test_rows_of_a_batch_do_not_touch_each_other(network: StyleGAN2Generator) -> None:
    w_plus = normal(3, network.num_styles, 7)
    close(network(w_plus)[1:2], network(w_plus[1:2]), depth=40)


def test_it_is_saved_and_read_with_its_channels(network: StyleGAN2Generator, tmp_path: Any) -> None:
    network.save_pretrained(tmp_path)
    read = StyleGAN2Generator.from_pretrained(tmp_path, torch_dtype=torch.float64)
    w_plus = normal(1, network.num_styles, 7)
    assert torch.equal(read(w_plus), network(w_plus))


def test_the_public_layout_is_that_of_the_paper() -> None:
    with torch.device("meta"):
        network = StyleGAN2Generator()
    assert (network.num_layers, network.num_styles) == (17, 18)
    assert {layer: network.input_shape(layer) for layer in (9, 10, 11, 12, 14)} == {
        9: (512, 64, 64), 10: (256, 128, 128), 11: (256, 128, 128), 12: (128, 256, 256), 14: (64, 512, 512),
    }  # fmt: skip
    assert default_channels(2)[1024] == 32


def test_what_does_not_fit_is_refused(network: StyleGAN2Generator) -> None:
    w_plus = normal(1, network.num_styles, 7)
    with pytest.raises(ShapeError, match=r"\[batch, 6, 7\] is expected"):
        network(w_plus[:, :5])
    with pytest.raises(ShapeError, match="the feature for layer 3"):
        network(w_plus, {3: normal(1, 5, 8, 9)})
    with pytest.raises(InputError, match="layers 0 to 4"):
        network(w_plus, {5: normal(1, 5, 8, 8)})
    with pytest.raises(InputError, match="a picture of 32 px"):
        network(w_plus, size=32)
    with pytest.raises(InputError, match="a power of two"):
        StyleGAN2Generator(size=48)
    with pytest.raises(InputError, match="the level of 16 px"):
        StyleGAN2Generator(size=16, channels={4: 1, 8: 1})
