"""Encoders of pictures: what they give fits the generator, each part of it depends on the picture, and a small one learns to invert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.backbones.feature_style_encoder import FeatureStyleEncoder, OfficialFeatureStyleEncoder
from calotype.backbones.stylegan2 import StyleGAN2Generator
from calotype.errors import InputError, ShapeError

SMALL: dict[str, Any] = {"size": 32, "style_dim": 8, "num_styles": 8}
OFFICIAL: dict[str, Any] = {**SMALL, "seen": 16, "widths": (4, 4, 6, 8, 8), "depths": (1, 2, 1, 1), "feature_width": 8}


def generator() -> StyleGAN2Generator:
    made: StyleGAN2Generator = StyleGAN2Generator(size=32, style_dim=8, num_mapping_layers=1, channels={4: 8, 8: 8, 16: 6, 32: 4}).eval()
    return made.requires_grad_(False)


@pytest.mark.parametrize("layer", [2, 3, 4, 5])
def test_the_feature_takes_its_place_in_the_generator(layer: int) -> None:
    torch.manual_seed(0)
    network, channels = generator(), generator().input_shape(layer)[0]
    encoders: list[Any] = [OfficialFeatureStyleEncoder(**OFFICIAL, feature_layer=layer, feature_channels=channels).eval()]
    encoders.append(FeatureStyleEncoder(**SMALL, widths=(8, 8, 8), feature_layer=layer, feature_channels=channels, feature_width=8))
    for encoder in encoders:
        pictures = torch.rand(2, 3, 32, 32) * 2 - 1
        w_plus, feature = encoder(pictures)
        assert feature.shape[1:] == network.input_shape(layer)
        assert network(w_plus, {layer: feature}).shape == pictures.shape
        moved = encoder(pictures.flip(3))
        assert all((new - old).abs().max() > 1e-5 for new, old in zip(moved, (w_plus, feature), strict=True))


@pytest.mark.parametrize(("made", "config"), [(FeatureStyleEncoder, {"widths": (8, 8, 8)}), (OfficialFeatureStyleEncoder, OFFICIAL)])
def test_styles_are_offsets_of_the_mean(made: Any, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = made(**{**SMALL, **config}, feature_layer=4, feature_channels=6).eval()
    pictures = torch.rand(1, 3, 32, 32)
    before = encoder(pictures)[0]
    encoder.mean_style.add_(2.0)
    torch.testing.assert_close(encoder(pictures)[0], before + 2.0)


def test_a_large_picture_is_reduced_by_its_means() -> None:
    torch.manual_seed(0)
    encoder = OfficialFeatureStyleEncoder(**OFFICIAL, feature_layer=4, feature_channels=6).eval()
    pictures = torch.rand(1, 3, 32, 32)
    means = torch.nn.functional.avg_pool2d(pictures, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for found, expected in zip(encoder(pictures), encoder(means), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_small_one_learns_to_invert() -> None:
    torch.manual_seed(0)
    network = generator()
    with torch.no_grad():
        pictures = torch.nn.functional.avg_pool2d(torch.rand(8, 3, 64, 64), 2) * 2 - 1
    encoder = FeatureStyleEncoder(**SMALL, widths=(16, 16, 16), feature_layer=5, feature_channels=6, feature_width=16)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        w_plus, feature = encoder(pictures)
        loss = (network(w_plus, {5: feature}) - pictures).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_they_are_saved_and_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures = torch.rand(1, 3, 32, 32)
    for number, encoder in enumerate(
        (
            FeatureStyleEncoder(**SMALL, widths=(8, 8, 8), feature_layer=5, feature_channels=6),
            OfficialFeatureStyleEncoder(**OFFICIAL, feature_layer=4, feature_channels=6).eval(),
        )
    ):
        encoder.save_pretrained(tmp_path / str(number))
        read = type(encoder).from_pretrained(tmp_path / str(number)).eval()
        assert all(torch.equal(found, expected) for found, expected in zip(read(pictures), encoder(pictures), strict=True))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="none of the encoder's stages"):
        FeatureStyleEncoder(**SMALL, feature_layer=9, feature_channels=6)
    with pytest.raises(InputError, match="which no stage of"):
        OfficialFeatureStyleEncoder(feature_layer=14, feature_channels=64)
    with pytest.raises(ShapeError, match=r"\[batch, 3, 32, 32\]"):
        FeatureStyleEncoder(**SMALL, widths=(8, 8, 8), feature_layer=5, feature_channels=6)(torch.zeros(1, 3, 32, 16))
