"""Descriptor models: a folder of their own, Stable Diffusion beside DINOv2, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype.backbones.descriptors import DiffusionDescriptors, comparable_maps, describing
from calotype.backbones.diffusion_features import collect
from calotype.backbones.hub import locate
from calotype.backbones.vision_transformer import Dinov2Encoder, VisionTransformer
from calotype.errors import InputError
from calotype.imaging.types import Image
from tests.tiny import cached
from tests.tiny_descriptors import cached_descriptors, cached_dinov2


def picture(height: int = 64, width: int = 64, seed: int = 1) -> Image:
    return Image(torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def model() -> Any:
    return calotype.load(cached_descriptors(), device="cpu")


@pytest.fixture(scope="module")
def dinov2() -> Any:
    return calotype.load(cached_dinov2(), device="cpu")


def test_a_folder_of_its_own_holds_all_of_it(model: Any) -> None:
    assert model.role == "DescriptorModel"
    assert sorted(model.networks) == ["mixer", "text_encoder", "unet", "vae", "vit"]
    assert locate(cached_descriptors()).checkpoint.role == "DescriptorModel"
    maps = model.maps(picture())
    assert {kind: tuple(found.shape) for kind, found in maps.items()} == {"diffusion": (32, 8, 8), "vit": (16, 8, 8)}
    assert torch.equal(maps["diffusion"], model.maps(picture())["diffusion"])
    with torch.no_grad():
        assert torch.allclose(maps["diffusion"], model.mixer(collect(model.diffusion, picture().pixels[None], model.plan))[0], atol=1e-5)


def test_without_a_mixer_the_coarser_levels_stand_side_by_side() -> None:
    model = calotype.load(cached_descriptors(mixer=False), device="cpu")
    found = model.maps(picture())["diffusion"]
    assert model.plan.layers == ("up_blocks.0", "up_blocks.1")
    assert tuple(found.shape) == (128, 16, 16)
    assert torch.allclose(found[64:].norm(dim=0), torch.full((16, 16), 0.5**0.5), atol=1e-5)
    other = model.maps(Image(picture().pixels.roll(1, 0)))["diffusion"]
    assert float((found - other).abs().max()) > 1e-3


@torch.no_grad()
def test_patches_are_where_the_picture_has_them(dinov2: Any) -> None:
    """A change in one patch changes that patch's first layer, the embedding, and no other."""
    assert isinstance(dinov2, VisionTransformer)
    assert (dinov2.role, dinov2.size) == ("VisionTransformer", (56, 56))
    given = picture(56, 56).pixels[None]
    changed = given.clone()
    changed[..., 14:28, 42:56] = 1.0
    one, other = (dinov2.vit.embeddings((images - 0.45) / 0.25)[:, 1:] for images in (given, changed))
    assert (one - other).abs().sum(-1).reshape(4, 4).nonzero().tolist() == [[1, 3]]
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    tokens = dinov2.vit(pixel_values=(given - mean) / std)
    assert torch.allclose(dinov2.patch_features(given)[0, :, 1, 3], tokens.last_hidden_state[0, 1 + 7], atol=1e-5)
    assert tuple(dinov2.patch_features(torch.rand(1, 3, 30, 120)).shape) == (1, 16, 2, 9)


def test_stable_diffusion_and_dinov2_together(dinov2: Any) -> None:
    diffusion = calotype.load(cached("sd21"), device="cpu")
    model = describing(diffusion, dinov2)
    assert isinstance(model, DiffusionDescriptors)
    first, second = comparable_maps(model, [picture(128, 128), picture(96, 160, seed=2)])
    assert tuple(first["vit"].shape) == (16, 8, 8)
    assert tuple(second["vit"].shape) == (16, 6, 10)
    assert first["diffusion"].shape[0] == second["diffusion"].shape[0]


def test_wide_maps_are_compared_in_one_basis() -> None:
    class Wide:
        def maps(self, image: Image) -> dict[str, torch.Tensor]:
            mean = image.pixels.mean()
            return {"diffusion": mean + torch.randn(900, 4, 4, generator=torch.Generator().manual_seed(int(1000 * mean)))}

    one, other = comparable_maps(Wide(), [picture(), picture(seed=4)])
    assert tuple(one["diffusion"].shape) == (768, 4, 4)
    assert float((one["diffusion"].sum((1, 2)) + other["diffusion"].sum((1, 2))).abs().max()) < 1e-3


def test_what_does_not_go_together_is_told_in_one_line(model: Any, dinov2: Any) -> None:
    assert describing(model, None) is model
    assert describing(model, dinov2).vit is dinov2
    diffusion = calotype.load(cached("sd21"), device="cpu")
    with pytest.raises(InputError, match="give a DINOv2 folder as vit"):
        describing(diffusion, None)
    with pytest.raises(InputError, match="is of the role TextToImage; vit takes a DINOv2 folder"):
        describing(model, diffusion)
    with pytest.raises(InputError, match="features are taken of Stable Diffusion"):
        describing(calotype.load(cached("sdxl"), device="cpu"), dinov2)


def test_a_mixer_that_does_not_say_what_it_takes_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(cached_descriptors(), tmp_path / "copy")
    config = folder / "mixer" / "config.json"
    config.write_text(config.read_text().replace('"timesteps": [\n    1.0,\n    261.0\n  ]', '"timesteps": []'))
    with pytest.raises(InputError, match="names no layers or no timesteps"):
        calotype.load(folder, device="cpu")


def test_the_role_of_a_bare_vision_transformer_is_found_by_its_config() -> None:
    assert locate(cached_dinov2()).checkpoint.role == "VisionTransformer"
    assert isinstance(calotype.load(str(cached_dinov2()), device="cpu"), Dinov2Encoder)


def test_a_vision_transformer_of_oblong_pictures_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(cached_dinov2(), tmp_path / "copy")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"image_size": 56', '"image_size": [56, 56]'))
    with pytest.raises(InputError, match=r"image_size \[56, 56\]"):
        calotype.load(folder, device="cpu")
