"""CAGE's public weights at small width: names and shapes become a network that runs; what isn't such a file is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.backbones.official_cage import read_official
from calotype.backbones.official_cage_network import MixingLayer, OfficialCageTransformer
from calotype.errors import InputError

CONFIG: dict[str, Any] = {"grid": (2, 3), "width": 32, "depth": 5, "heads": 4, "feature_width": 10}


@pytest.fixture(scope="module")
def network() -> OfficialCageTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return OfficialCageTransformer(**CONFIG).eval()


def official(network: OfficialCageTransformer, controls: str = "feats_project_in") -> dict[str, Tensor]:
    """The state as the file has it: wrapped, with the encoders in it, and with names of another choice where ours don't matter."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    renamed = {}
    for name, value in state.items():
        for ours, theirs in (("spatial.", "first."), ("qkv", "attn.in"), ("rows", "place.row_embed"), ("columns", "place.col_embed")):
            name = name.replace(ours, theirs)
        renamed[f"module.{name.replace('feats_project_in', controls)}"] = value
    extra = {"dino.blocks.0.weight": torch.ones(3), "ae.encoder.weight": torch.ones(3), "time_projection.0.weight": torch.ones(32, 32)}
    return {**renamed, **{f"module.{name}": value for name, value in extra.items()}}


def window(known: int) -> list[Tensor]:
    torch.manual_seed(0)
    offsets = torch.tensor([[-4, 0, 1, 2, 3]])[:, 2 - known :]
    times = torch.nn.functional.pad(torch.rand(1, 3), (known, 0))
    return [torch.randn(1, known + 3, 4, 2, 3), offsets, times, torch.randn(1, 3, 10, 2, 3), (torch.rand(1, 3, 2, 3) < 0.5).float()]


@pytest.mark.parametrize("controls", ["feats_project_in", "dino_project_in"])
def test_public_names_and_shapes_become_the_network(network: OfficialCageTransformer, controls: str, tmp_path: Path) -> None:
    torch.save(official(network, controls), tmp_path / "model.pth")
    read = read_official(tmp_path / "model.pth", (2, 3))
    assert dict(read.config) | CONFIG == dict(read.config)
    for name, value in network.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name


def test_each_input_matters_and_unknown_frames_may_be_left_out(network: OfficialCageTransformer) -> None:
    with torch.no_grad():
        for known in (0, 1, 2):
            assert network(*window(known)).shape == (1, 3, 4, 2, 3)
        base = network(*window(2))
        for place in (0, 3):
            changed = window(2)
            changed[place] = changed[place] + 1.0
            assert (network(*changed) - base).abs().max() > 1e-3
        told = window(2)
        told[2][:, 3] = 0.1
        assert (network(*told) - base).abs().max() > 1e-4
        far = window(2)
        far[1][:, 0] = -1
        assert (network(*far) - base).abs().max() > 1e-4
        hidden = window(2)
        hidden[3] = torch.where(hidden[4][:, :, None] > 0, hidden[3], 9.0)
        torch.testing.assert_close(network(*hidden), base)


def test_attention_is_scaled_by_the_whole_width_and_knows_how_far_frames_are_apart() -> None:
    torch.manual_seed(1)
    layer = MixingLayer(16, 2, frames=True).eval().double()
    states, waves, numbers = torch.randn(1, 5, 16).double(), torch.randn(1, 5, 16).double(), torch.tensor([[-12, 0, 0, 1, 3]])
    split = (layer.qkv(layer.norm1(states)).view(1, 5, 3, 2, 8) + layer.time(waves).view(1, 5, 3, 1, 8))[0]
    assert layer.distance is not None
    mixed = torch.zeros(5, 2, 8).double()
    for head in range(2):
        query, key, value = split[:, 0, head], split[:, 1, head], split[:, 2, head]
        for i in range(5):
            apart = (numbers[0] - numbers[0, i]).clamp(-8, 8) + 8
            logits = (key @ query[i] + layer.distance[apart] @ query[i]) / 16**0.5
            mixed[i, head] = logits.softmax(0) @ value
    expected = states + mixed.flatten(1)
    torch.testing.assert_close(layer(states, waves, numbers), expected + layer.mlp(layer.norm2(expected)))


def test_other_files_are_refused(network: OfficialCageTransformer, tmp_path: Path) -> None:
    whole = official(network)
    lacking = {name: value for name, value in whole.items() if "first.2.attn.in" not in name}
    more = {**whole, "module.extra": torch.zeros(7)}
    for content, words in (
        ({"a": torch.zeros(2)}, "has no weights named feats_project_in"),
        (lacking, "not known|don't make up|expected"),
        (more, "not known: extra"),
        ([1, 2], "holds no weights by name"),
        ({"path": tmp_path}, "can't be read"),
    ):
        torch.save(content, tmp_path / "model.pth")
        with pytest.raises(InputError, match=words):
            read_official(tmp_path / "model.pth", (2, 3))
    (tmp_path / "model.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"torch 1\.6 or later"):
        read_official(tmp_path / "model.pth", (2, 3))


def test_a_file_that_unfolds_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"module.x": torch.zeros(1).expand(10**9)}, tmp_path / "claims.pth")
    with pytest.raises(InputError, match="larger weights than it holds"):
        read_official(tmp_path / "claims.pth", (4, 4))
    torch.save({"module.x": torch.zeros(10**5)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    with pytest.raises(InputError, match="has packed parts"):
        read_official(tmp_path / "packed.pth", (4, 4))
    torch.save({"module.x": torch.zeros(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"torch 1\.6 or later"):
        read_official(tmp_path / "old.pth", (4, 4))
