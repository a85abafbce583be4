"""The role Segmenter: MONAI's networks by name, folders that load what was saved, windows that cover larger pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

import calotype
from calotype.backbones.segmenter import FeedForwardSegmenter, Segments
from calotype.backbones.segmenter_network import (
    Architecture,
    PictureFacts,
    known_networks,
    make_network,
    network_config,
    save_segmenter,
)
from calotype.errors import InputError, ShapeError

WIDTHS: dict[str, tuple[int, ...]] = {"segresnet": (4, 8), "basic-unet": (4, 4, 4, 4, 4), "attention-unet": (4, 8)}


def widths(architecture: str) -> tuple[int, ...]:
    return WIDTHS.get(architecture, (4, 4, 8))


def config(architecture: Architecture = "unet", *, sides: int = 2, **more: Any) -> dict[str, Any]:
    arguments = {"channels": 1, "classes": 2, "window": (16 if architecture == "unetr" else 32,) * sides, **more}
    return network_config(architecture, widths=widths(architecture), **arguments)


def saved(path: Path, made: dict[str, Any], facts: PictureFacts, *, rounded: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make_network(made).eval()
    save_segmenter(path, network, made, facts, rounded=rounded)
    return network


def pictures(*sides: int, count: int = 2, channels: int = 1) -> torch.Tensor:
    return torch.rand((count, channels, *sides), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@pytest.mark.parametrize("sides", [2, 3])
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_architecture_gives_a_number_for_each_class_and_pixel(architecture: Architecture, sides: int, norm: Any) -> None:
    made = config(architecture, sides=sides, norm=norm, classes=3)
    side = 16 if architecture == "unetr" else 32
    network = make_network(json.loads(json.dumps(made))).eval()
    with torch.no_grad():
        assert network(pictures(*(side,) * sides, count=1)).shape == (1, 3, *(side,) * sides)
    tensors = network.state_dict(keep_vars=True).values()
    assert len({id(tensor) for tensor in tensors}) == len(tensors)
    kinds = {type(module).__name__ for module in network.modules() if "Norm" in type(module).__name__}
    if norm != "batch":
        assert not any("Batch" in kind for kind in kinds)


@pytest.mark.parametrize("name", sorted(known_networks()))
def test_folders_load_in_their_role_with_the_weights_that_were_saved(name: str, tmp_path: Path) -> None:
    by_class = {config(architecture)["_class_name"]: config(architecture) for architecture in get_args(Architecture)}
    made, window = by_class[name], (16 if name == "UNETR" else 32,) * 2
    network = saved(tmp_path / "model", made, PictureFacts(window=window, class_values=(0, 7), intensity={"kind": "whole"}))
    model = calotype.load(tmp_path / "model", device="cpu")
    assert isinstance(model, FeedForwardSegmenter)
    assert isinstance(model, Segments)
    assert (model.role, model.num_classes, model.class_values, model.window) == ("Segmenter", 2, (0, 7), window)
    assert model.intensity == {"kind": "whole"}
    found = model.network.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    x = pictures(*window)
    with torch.no_grad():
        assert torch.allclose(model.segment(x), network(x).softmax(1), atol=1e-5)


def test_eight_bits_are_the_same_network_within_their_rounding(tmp_path: Path) -> None:
    facts = PictureFacts(window=(32, 32))
    saved(tmp_path / "plain", config(), facts)
    saved(tmp_path / "rounded", config(), facts, rounded=True)
    plain, rounded = (calotype.load(tmp_path / name, device="cpu") for name in ("plain", "rounded"))
    assert plain.source.weights[0].stat().st_size > rounded.source.weights[0].stat().st_size
    x = pictures(32, 32)
    assert (plain.segment(x) - rounded.segment(x)).abs().max() < 0.05


@pytest.mark.parametrize("sides", [(32, 32), (48, 40), (20, 70), (9, 9)])
def test_pictures_of_any_size_are_seen_whole(sides: tuple[int, int], tmp_path: Path) -> None:
    """Larger ones through windows, as MONAI's sliding windows; smaller ones continued by their border."""
    network = saved(tmp_path / "model", config(), PictureFacts(window=(32, 32)))
    model = calotype.load(tmp_path / "model", device="cpu", max_rows=3)
    x = pictures(*sides)
    found = model.segment(x)
    assert found.shape == (2, 2, *sides)
    assert found.dtype == torch.float32
    assert torch.allclose(found.sum(1), torch.ones(2, *sides), atol=1e-5)
    if min(sides) >= 32:
        from monai.inferers import sliding_window_inference

        with torch.no_grad():
            expected = sliding_window_inference(
                x, (32, 32), 4, lambda x: network(x).softmax(1), overlap=0.5, mode="gaussian", sigma_scale=0.125
            )
        assert torch.allclose(found, expected, atol=1e-5)  # type: ignore[arg-type]
    alone = torch.cat([model.segment(row[None]) for row in x])
    assert torch.allclose(found, alone, atol=1e-6)


def test_pictures_of_another_kind_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "model", config(), PictureFacts(window=(32, 32)))
    model = calotype.load(tmp_path / "model", device="cpu")
    for shape in ((1, 3, 32, 32), (1, 1, 32, 32, 32), (32, 32)):
        with pytest.raises(ShapeError, match="1 channels and 2 sides"):
            model.segment(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (24, 34)}, "each side must be 8 or more and a multiple of 4"),
        ({"window": (4, 32)}, "each side must be 8 or more"),
        ({"widths": (4, 8)}, "three levels or more"),
        ({"architecture": "segresnet", "widths": (4, 4, 8)}, "doubles them"),
        ({"architecture": "basic-unet"}, "has 5 levels"),
        ({"architecture": "u-net"}, "choose one of unet, attention-unet"),
        ({"norm": "layer"}, "choose one of instance"),
        ({"window": (32,)}, "two or three"),
    ],
)
def test_networks_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"architecture": "unet", "channels": 1, "classes": 2, "window": (32, 32), "widths": (4, 4, 8), **arguments}
    with pytest.raises(InputError, match=message):
        network_config(given.pop("architecture"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model_index.json", {"window": [32]}, "window is"),
        ("model_index.json", {"window": None}, "must be lists"),
        ("model_index.json", {"class_values": [0]}, "two values are the least"),
        ("model_index.json", {"class_values": ["a", "b"]}, "two values are the least"),
        ("model_index.json", {"intensity": "bright"}, "must be an object"),
        ("network/config.json", {"filters": [4, 4, 4]}, "don't belong together"),
        ("network/config.json", {"filters": [400, 400, 800]}, "don't belong together"),
        ("network/config.json", {"depth": 3}, "refused by MONAI's DynUNet"),
    ],
)
def test_folders_that_make_no_sense_are_refused(file: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path / "model", config(), PictureFacts(window=(32, 32)))
    path = tmp_path / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message) as refused:
        calotype.load(tmp_path / "model", device="cpu")
    assert "\n" not in str(refused.value)
