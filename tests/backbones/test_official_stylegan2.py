"""Public StyleGAN2 weights at small width: their names become a folder that inverts pictures; what isn't such a file is refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import calotype
from calotype import Image
from calotype.backbones.feature_style_encoder import OfficialFeatureStyleEncoder
from calotype.backbones.official_stylegan2 import convert_stylegan2, is_stylegan2, read_encoder, read_generator, read_mean
from calotype.backbones.stylegan2 import StyleGAN2Generator
from calotype.cli import app
from calotype.errors import InputError
from tests.recorder import Recorder

SIDE = 32
CHANNELS = {4: 6, 8: 5, 16: 4, 32: 3}
ENCODER: dict[str, Any] = {
    "size": SIDE, "seen": SIDE, "style_dim": 7, "num_styles": 8, "widths": (4, 4, 6, 8, 8), "depths": (1, 2, 1, 1), "feature_width": 8,
}  # fmt: skip
FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])


def generator() -> StyleGAN2Generator:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made: StyleGAN2Generator = StyleGAN2Generator(size=SIDE, style_dim=7, num_mapping_layers=3, channels=CHANNELS).eval()
        for parameter in made.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)
        return made.requires_grad_(False)


def encoder(layer: int = 4) -> OfficialFeatureStyleEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        channels = generator().input_shape(layer)[0]
        made: OfficialFeatureStyleEncoder = OfficialFeatureStyleEncoder(**ENCODER, feature_layer=layer, feature_channels=channels)
        made(torch.randn(4, 3, SIDE, SIDE))
        return made.eval().requires_grad_(False)


def public_generator() -> dict[str, Tensor]:
    """The state by the public names: with the filters, without what is ours."""
    state = {name: value.clone() for name, value in generator().state_dict().items() if name != "mean_style"}
    kernel = FILTER[:, None] * FILTER / 16
    for number in range(3):
        state[f"convs.{2 * number}.conv.blur.kernel"] = state[f"to_rgbs.{number}.upsample.kernel"] = kernel
    return state


def training_file(path: Path, state: dict[str, Tensor] | None = None) -> Path:
    """What a training writes: other weights, an optimiser's state and its settings beside the averaged weights."""
    state = public_generator() if state is None else state
    other = {name: value + 1 for name, value in state.items()}
    optimiser = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.002, "params": [0]}]}
    settings = argparse.Namespace(size=SIDE, path="data", channel_multiplier=2)
    torch.save({"g": other, "g_ema": state, "g_optim": optimiser, "args": settings, "ada_aug_p": 0.0}, path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Generator, encoder and mean as they are published."""
    home = tmp_path / "logs" / "lhq_k4"
    home.mkdir(parents=True)
    weights = {name: value for name, value in encoder().state_dict().items() if name != "mean_style"}
    torch.save(weights, home / "enc.pth.tar")
    torch.save(torch.linspace(-1, 1, 7)[None], tmp_path / "mean.pt")
    return {"file": training_file(tmp_path / "sg2.pt"), "encoder": home / "enc.pth.tar", "mean": tmp_path / "mean.pt"}


def test_public_names_become_the_generator(files: dict[str, Path], tmp_path: Path) -> None:
    torch.save(public_generator(), tmp_path / "bare.pt")
    torch.save({f"module.{name}": value for name, value in public_generator().items()}, tmp_path / "wrapped.pt")
    w_plus = torch.randn(1, 8, 7, generator=torch.Generator().manual_seed(0))
    for file in (files["file"], tmp_path / "bare.pt", tmp_path / "wrapped.pt"):
        read = read_generator(file)
        assert (read.config.size, read.config.style_dim, read.config.num_mapping_layers) == (SIDE, 7, 3)
        assert torch.equal(read(w_plus), generator()(w_plus))
        assert torch.equal(read.map(w_plus[:, 0]), generator().map(w_plus[:, 0]))


@pytest.mark.parametrize("layer", [2, 3, 4, 5])
def test_public_names_become_the_encoder(layer: int, tmp_path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in encoder(layer).state_dict().items() if name != "mean_style"}, tmp_path / "enc")
    network = generator()
    network.mean_style.fill_(0.5)
    read = read_encoder(tmp_path / "enc", network, layer)
    pictures = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    w_plus, feature = encoder(layer)(pictures)
    torch.testing.assert_close(read(pictures)[0], w_plus + 0.5)
    assert torch.equal(read(pictures)[1], feature)


def test_the_folder_inverts_a_picture(files: dict[str, Path], tmp_path: Path) -> None:
    events = Recorder()
    convert_stylegan2(tmp_path / "sg2.pt", tmp_path / "out", encoder=files["encoder"], mean=files["mean"], events=events)
    assert any("never run here with the public files" in note for note in events.notes)
    model = calotype.load(tmp_path / "out")
    picture = Image(torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    found = model.invert(picture)
    w_plus, feature = encoder()(picture.pixels[None] * 2 - 1)
    torch.testing.assert_close(found.w_plus, w_plus + torch.linspace(-1, 1, 7))
    torch.testing.assert_close(found.feature, feature)
    with pytest.raises(InputError, match="give a mask"):
        model.predict_mask(found)


def test_a_mean_that_is_not_given_is_measured(files: dict[str, Path], tmp_path: Path) -> None:
    events = Recorder()
    convert_stylegan2(files["file"], tmp_path / "out", encoder=files["encoder"], feature_layer=4, events=events)
    assert any("was measured over 10,000 z" in note for note in events.notes)
    mean = calotype.load(tmp_path / "out").generator.mean_style
    assert torch.equal(mean, generator().measure_mean_style())


def test_files_that_do_not_fit_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    whole = public_generator()
    lacking = {name: value for name, value in whole.items() if name != "to_rgbs.1.conv.weight"}
    larger = {**whole, "convs.2.conv.weight": torch.zeros(1, 9, 5, 3, 3)}
    for state, words in (
        (lacking, "no weights named to_rgbs.1.conv.weight"),
        ({**whole, "extra": torch.zeros(2)}, "not known: extra"),
        (larger, "is expected"),
        ({**whole, "to_rgbs.0.upsample.kernel": torch.ones(4, 4) / 4}, r"isn't \[1, 3, 3, 1\]"),
        ({"a": torch.zeros(2)}, "no weights named conv1"),
        ({**whole, "convs.0.conv.weight": torch.zeros(1)}, "no weights named convs.0|is expected"),
    ):
        with pytest.raises(InputError, match=words):
            read_generator(training_file(tmp_path / "other.pt", state))
    assert not is_stylegan2({"module.enter.weight": torch.zeros(1)})
    assert not is_stylegan2([1])
    with pytest.raises(InputError, match="gives features of 4 channels and layer 3 receives 5"):
        read_encoder(files["encoder"], generator(), 3)
    with pytest.raises(InputError, match="layers 0 to 6"):
        read_encoder(files["encoder"], generator(), 7)
    bare = tmp_path / "bare.pt"
    torch.save(whole, bare)
    with pytest.raises(InputError, match="no weights named content_layer"):
        read_encoder(bare, generator(), 4)
    with pytest.raises(InputError, match="holds no 6 numbers"):
        read_mean(files["mean"], 6)


def test_hostile_files_are_refused_before_they_take_memory(files: dict[str, Path], tmp_path: Path) -> None:
    # Weights of no size to speak of, whose shapes ask for layers of a terabyte.
    wide = torch.zeros(1, 400_000, 1, 1, 1)
    thin = {**public_generator(), "convs.0.conv.weight": wide, "convs.2.conv.weight": wide.clone()}
    with pytest.raises(InputError, match="is expected"):
        read_generator(training_file(tmp_path / "thin.pt", thin))
    torch.save({"g_ema": {"convs.0.conv.weight": torch.zeros(1).expand(10**9)}}, tmp_path / "claims.pt")
    with pytest.raises(InputError, match="larger weights than it holds"):
        read_generator(tmp_path / "claims.pt")
    torch.save({"g_ema": public_generator(), "args": tmp_path}, tmp_path / "code.pt")
    with pytest.raises(InputError, match="can't be read"):
        read_generator(tmp_path / "code.pt")
    looped: dict[str, Any] = {"g_ema": public_generator()}
    looped["self"] = looped
    torch.save(looped, tmp_path / "looped.pt")
    assert read_generator(tmp_path / "looped.pt").config.size == SIDE
    torch.save(public_generator(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"torch 1\.6 or later"):
        read_generator(tmp_path / "old.pt")


def test_the_command_asks_for_what_is_missing(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enc.pth.tar").write_bytes(files["encoder"].read_bytes())

    def told(*arguments: str) -> tuple[int, str]:
        status = app.run(["models", "convert", *arguments, "--out", "made"])
        found = capsys.readouterr()
        return status, " ".join((found.out + found.err).split())

    for arguments, words in (
        (["sg2.pt"], "sg2.pt is a StyleGAN2 generator, which needs the encoder"),
        (["sg2.pt", "--encoder", "enc.pth.tar"], "give it as --feature-layer"),
        (["sg2.pt", "--encoder", "none.tar"], "none.tar is no file; give a file as --encoder"),
        (["enc.pth.tar"], "is no StyleGAN2 generator; for CAGE's weights give"),
    ):
        status, text = told(*arguments)
        assert status == 2, text
        assert words in text
        assert not (tmp_path / "made").exists()
    status, text = told("sg2.pt", "--encoder", "enc.pth.tar", "--feature-layer", "4", "--mean", "mean.pt")
    assert status == 0, text
    assert "calotype run stylecinegan --model made" in text
