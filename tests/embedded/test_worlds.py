"""The wide autoencoder and the worlds that it learns from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import calotype
from calotype.embedded import train
from calotype.embedded.vae import WideVAERecipe, load_autoencoder
from calotype.embedded.validation_vae import validate
from calotype.embedded.worlds import WORLDS, paint_mix


@pytest.mark.parametrize("name", list(WORLDS))
def test_pictures_of_a_world_belong_to_their_numbers(name: str) -> None:
    pictures = WORLDS[name]("tune", 4, range(8))
    assert pictures.shape == (8, 3, 64, 64)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    assert torch.allclose(pictures[5:6], WORLDS[name]("tune", 4, [5]), atol=1 / 255)
    others = WORLDS[name]("eval", 4, range(8))
    assert float((pictures - others).abs().mean((1, 2, 3)).min()) > 0.01


def test_a_mix_takes_its_worlds_in_turn() -> None:
    mixed = paint_mix(("portraits", "critters"), split="tune", seed=4, rows=[6, 7, 1])
    assert torch.equal(mixed[0], WORLDS["portraits"]("tune", 4, [3])[0])
    assert torch.equal(mixed[1:], WORLDS["critters"]("tune", 4, [3, 0]))


class NarrowWide(WideVAERecipe):
    settings = replace(WideVAERecipe.settings, batch_size=4, held_out=8, held_out_often=4, warmup_steps=4)
    config = {"block_out_channels": (8, 16, 16)}  # noqa: RUF012


def test_the_wide_autoencoder_begins_as_the_narrow_one_and_is_stored_in_8_bits(family: Path, tmp_path: Path) -> None:
    recipe = NarrowWide()
    home = tmp_path / "checkpoints"
    shutil.copytree(family / "toy-vae", home / "toy-vae")
    begun = recipe.build(seed=1, start=None, checkpoints=home).vae.state_dict()
    narrow = load_autoencoder(home / "toy-vae").state_dict()
    assert all(torch.equal(begun[key], narrow[key]) for key in narrow)
    train(recipe.name, budget="2steps", out=tmp_path / "run", checkpoints=home, recipe=recipe, device="cpu")
    folder = home / "toy-vae-wide"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.int8.safetensors"]
    assert "six worlds in equal shares" in (folder / "README.md").read_text()
    model = calotype.load(str(folder), device="cpu")
    pictures = paint_mix(recipe.worlds, split="tune", seed=1, rows=range(6))
    latents = model.encode(pictures)
    assert latents.shape == (6, 4, 16, 16)
    assert model.decode(latents).shape == pictures.shape
    assert any(not torch.equal(value, narrow[key]) for key, value in load_autoencoder(folder).state_dict().items())


def test_going_on_trains_the_decoder_and_keeps_the_latents(family: Path, tmp_path: Path) -> None:
    home, recipe = tmp_path / "checkpoints", NarrowWide()
    shutil.copytree(family / "toy-vae", home / "toy-vae")
    train(recipe.name, budget="1steps", out=tmp_path / "first", checkpoints=home, recipe=recipe, device="cpu")
    before = load_autoencoder(home / "toy-vae-wide").state_dict()
    result = train(recipe.name, budget="4steps", out=tmp_path / "second", checkpoints=home, recipe=recipe, device="cpu")
    assert result.exported
    after = load_autoencoder(home / "toy-vae-wide").state_dict()
    kept = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith(("encoder.", "quant_conv."))} <= kept
    assert "decoder.conv_in.weight" not in kept
    assert "It went on from earlier weights of 1 steps." in (home / "toy-vae-wide" / "README.md").read_text()


def test_each_world_has_its_own_figure_and_bar(family: Path) -> None:
    figures = validate(family / "toy-vae", worlds=WideVAERecipe.worlds, seed=1, count=12, device="cpu")
    alone = [figures[f"psnr_db_{world}"] for world in WORLDS]
    assert figures["psnr_db"] == pytest.approx(sum(alone) / len(alone), abs=1e-4)
    assert {gate.metric for gate in WideVAERecipe.gates} <= set(figures)
    assert figures["count"] == 12
    assert "psnr_db_scenes" not in validate(family / "toy-vae", seed=1, count=4, device="cpu")
