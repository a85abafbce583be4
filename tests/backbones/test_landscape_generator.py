"""The adapter of landscape generators: folders that are read, inversions, masks and motions, and what is said where a part is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype import Image
from calotype.backbones.landscape_generator import LandscapeGenerator, save_parts
from calotype.backbones.motion_network import MotionNetwork
from calotype.errors import InputError, MissingError, ShapeError
from tests.tiny_landscape import FEATURE_LAYER, SIDE, cached_landscape_model, tiny_classifier, tiny_encoder, tiny_generator, tiny_motion


@pytest.fixture(scope="module")
def model() -> LandscapeGenerator:
    found: LandscapeGenerator = calotype.load(cached_landscape_model())
    return found


def picture(seed: int = 0) -> Image:
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Image(torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")[0])


def error(model: LandscapeGenerator, refine_steps: int) -> float:
    found = model.invert(picture(), refine_steps=refine_steps)
    return float((found.reconstruction.pixels - picture().pixels).square().mean())


def test_a_folder_is_read(model: LandscapeGenerator) -> None:
    assert (model.role, model.size, model.feature_layer) == ("LandscapeGenerator", (SIDE, SIDE), FEATURE_LAYER)
    assert set(model.networks) == {"generator", "encoder", "pixel_classifier", "motion"}


def test_an_inversion_holds_what_makes_its_reconstruction(model: LandscapeGenerator) -> None:
    found = model.invert(picture())
    assert found.w_plus.shape == (1, model.generator.num_styles, 8)
    assert found.feature.shape[1:] == model.generator.input_shape(FEATURE_LAYER)
    made = model.generator(found.w_plus, {FEATURE_LAYER: found.feature})[0]
    assert torch.equal(found.reconstruction.pixels, (made * 0.5 + 0.5).clamp(0, 1))
    assert not torch.equal(model.invert(picture(1)).reconstruction.pixels, found.reconstruction.pixels)


def test_refining_the_feature_brings_the_reconstruction_nearer(model: LandscapeGenerator) -> None:
    plain, refined = error(model, 0), error(model, 40)
    assert refined < 0.8 * plain
    first, again = model.invert(picture(), refine_steps=3), model.invert(picture(), refine_steps=3)
    assert torch.equal(first.feature, again.feature)
    assert not first.feature.requires_grad


def test_the_mask_has_a_class_for_each_pixel(model: LandscapeGenerator) -> None:
    found = model.invert(picture())
    maps = model.pixel_features(found)
    assert [each.shape[1] for each in maps] == [8, 8, 8, 6, 6]
    classes = model.predict_mask(found)
    assert classes.shape == (SIDE, SIDE)
    assert set(classes.unique().tolist()) <= {0, 1, 2}


def test_the_motion_has_the_networks_own_size(model: LandscapeGenerator) -> None:
    motion = model.predict_motion(picture())
    assert motion.shape == (2, 16, 16)
    assert not torch.equal(motion, model.predict_motion(picture(1)))


def test_a_missing_part_is_asked_for_when_it_is_needed(tmp_path: Path) -> None:
    save_parts(tmp_path / "bare", generator=tiny_generator(), encoder=tiny_encoder())
    bare = calotype.load(tmp_path / "bare")
    found = bare.invert(picture())
    with pytest.raises(InputError, match=r"bare has no pixel classifier: give a mask, or take .*toy-landscape"):
        bare.predict_mask(found)
    with pytest.raises(InputError, match="bare has no motion: give a motion"):
        bare.predict_motion(picture())


def test_eight_bits_keep_the_picture(model: LandscapeGenerator, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"generator": tiny_generator(), "encoder": tiny_encoder()}
    save_parts(tmp_path / "rounded", **parts, pixel_classifier=tiny_classifier(), motion=tiny_motion(), rounded=True)
    rounded = calotype.load(tmp_path / "rounded")
    difference = rounded.invert(picture()).reconstruction.pixels - model.invert(picture()).reconstruction.pixels
    assert 0 < difference.abs().mean() < 0.02
    assert (rounded.predict_motion(picture()) - model.predict_motion(picture())).abs().max() < 0.05


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    from calotype.backbones.feature_style_encoder import FeatureStyleEncoder

    small: dict[str, Any] = {"size": SIDE, "style_dim": 8, "widths": (8, 8, 8)}
    for number, (changes, words) in enumerate(
        (
            ({"num_styles": 10, "feature_layer": 4, "feature_channels": 8}, "num_styles is 8 and the encoder's 10"),
            ({"num_styles": 8, "feature_layer": 4, "feature_channels": 7}, "receives 8 channels and the encoder gives 7"),
        )
    ):
        save_parts(tmp_path / str(number), generator=tiny_generator(), encoder=FeatureStyleEncoder(**small, **changes))
        with pytest.raises(InputError, match=words):
            calotype.load(tmp_path / str(number))


def test_a_folder_without_its_encoder_is_incomplete(tmp_path: Path) -> None:
    shutil.copytree(cached_landscape_model(), tmp_path / "lacking")
    (tmp_path / "lacking" / "encoder" / "config.json").unlink()
    with pytest.raises(MissingError, match=r"encoder/config\.json is missing"):
        calotype.load(tmp_path / "lacking")


def test_what_does_not_fit_is_refused(model: LandscapeGenerator) -> None:
    with pytest.raises(ShapeError, match=r"takes \[32, 32\]"):
        model.invert(Image(torch.zeros(3, 32, 40)))
    with pytest.raises(InputError, match="refine_steps is -1"):
        model.invert(picture(), refine_steps=-1)


def test_a_motion_network_learns_a_direction_and_refuses_other_sizes() -> None:
    torch.manual_seed(0)
    network = MotionNetwork(size=16, widths=(8, 8))
    pictures, optimizer = torch.zeros(8, 3, 16, 16), torch.optim.Adam(network.parameters(), lr=1e-2)
    pictures[:4, 0] = 1.0
    motion = torch.tensor([[0.5, -1.0]] * 4 + [[-0.5, 0.0]] * 4)[:, :, None, None].expand(-1, -1, 16, 16)
    for _ in range(80):
        loss = (network(pictures) - motion).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    with pytest.raises(ShapeError, match=r"\[batch, 3, 16, 16\]"):
        network(torch.zeros(1, 3, 8, 16))
    with pytest.raises(InputError, match="halves 20 px to a fraction"):
        MotionNetwork(size=20, widths=(8, 8, 8, 8))
