"""I3D: names and shapes of the usual files, both families of names, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from calotype.backbones.i3d import I3D, load_i3d
from calotype.errors import InputError, ShapeError


def narrow() -> I3D:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = I3D(classes=7, narrow=8).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                torch.nn.init.normal_(module.running_mean, std=0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def other_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the other family."""

    def renamed(name: str) -> str:
        name = re.sub(r"^logits\.", "conv3d_0c_1x1.", name).replace("Conv3d_", "conv3d_").replace("Mixed_", "mixed_")
        name = re.sub(r"\.b([12])([ab])\.", lambda m: f".branch_{m[1]}.{'ab'.index(m[2])}.", name)
        return name.replace(".b0.", ".branch_0.").replace(".b3b.", ".branch_3.1.").replace(".bn.", ".batch3d.")

    return {renamed(name): value for name, value in state.items()}


def test_names_and_shapes_at_full_width() -> None:
    with torch.device("meta"):
        state = I3D().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert shapes["Conv3d_2c_3x3.conv3d.weight"] == (192, 64, 3, 3, 3)
    assert shapes["Mixed_3b.b1a.conv3d.weight"] == (96, 192, 1, 1, 1)
    assert shapes["Mixed_3b.b1b.bn.running_var"] == (128,)
    assert shapes["Mixed_4f.b2b.conv3d.weight"] == (128, 32, 3, 3, 3)
    assert shapes["Mixed_5c.b3b.conv3d.weight"] == (128, 832, 1, 1, 1)
    assert shapes["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)
    assert shapes["logits.conv3d.bias"] == (400,)
    learnt = {name for name in shapes if not name.endswith("num_batches_tracked")}
    # 57 convolutions with a norm of four tensors, and the logits.
    assert len(learnt) == 57 * 5 + 2
    # What the paper's table says: 12 million parameters, with the logits.
    assert sum(value.numel() for value in state.values()) == pytest.approx(12.7e6, rel=0.01)


@pytest.mark.parametrize("family", [dict, other_names], ids=["capitals", "branches"])
def test_a_file_of_either_family_of_names_is_read(family, tmp_path: Path) -> None:
    network = narrow()
    save_file(family(network.state_dict()), tmp_path / "i3d.safetensors")
    # Files that were converted from the TF-hub model lack the counters of the norms.
    slim = {name: value for name, value in family(network.state_dict()).items() if not name.endswith("num_batches_tracked")}
    save_file(slim, tmp_path / "slim.safetensors")
    clips = torch.rand(2, 9, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    wanted = network.features(clips)
    assert wanted.shape == (2, 7)
    for name in ("i3d", "slim"):
        assert torch.equal(load_i3d(tmp_path / f"{name}.safetensors").features(clips), wanted)


def test_padding_is_tensorflows() -> None:
    network = narrow()
    x = torch.randn(1, 3, 9, 15, 16, generator=torch.Generator().manual_seed(2))
    unit = network.Conv3d_1a_7x7
    # "SAME": ceil(size / 2) results; for even sizes two zeros before and three after, for odd ones three on either side.
    padded = functional.pad(x, (2, 3, 3, 3, 3, 3))
    wanted = functional.relu(unit.bn(functional.conv3d(padded, unit.conv3d.weight, stride=2)))
    with torch.no_grad():
        assert torch.allclose(unit(x), wanted, atol=1e-5)
        assert unit(x).shape[2:] == (5, 8, 8)


def test_features_are_logits_of_resized_clips_averaged_over_time() -> None:
    network = narrow()
    clips = torch.rand(1, 17, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.allclose(network.features(clips), network(clips.transpose(1, 2) * 2 - 1), atol=1e-6)
    with pytest.raises(ShapeError, match="9 or more"):
        network.features(clips[:, :8])


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    state = narrow().state_dict()
    cases = {
        "other": {"conv.weight": torch.zeros(3)},
        "short": {name: value for name, value in state.items() if "Mixed_4c.b2a.bn.bias" not in name},
        "shape": {**state, "Mixed_5b.b0.bn.bias": torch.zeros(3)},
        "more": {**state, "Mixed_9z.b0.bn.bias": torch.zeros(3)},
    }
    for name, tensors in cases.items():
        save_file(tensors, tmp_path / name)
        with pytest.raises(InputError, match="holds no I3D") as told:
            load_i3d(tmp_path / name)
        assert "\n" not in str(told.value)
    torch.save(state, tmp_path / "pickled.pt")
    with pytest.raises(InputError, match="no safetensors"):
        load_i3d(tmp_path / "pickled.pt")
    with pytest.raises(InputError, match="no file"):
        load_i3d(tmp_path / "absent")
