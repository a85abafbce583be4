"""The recipe of toy-landscape, trained for a few steps, and the model that is shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calotype.backbones.hub import CHECKPOINTS
from calotype.backbones.landscape_generator import LandscapeGenerator
from calotype.backbones.loading import load
from calotype.core.events import SILENT
from calotype.embedded import landscape
from calotype.embedded.api import train
from calotype.embedded.landscape import LandscapeRecipe, Landscapes, figures, fresh
from calotype.embedded.recipes import RECIPES


@pytest.fixture(scope="module")
def shipped() -> LandscapeGenerator:
    model: LandscapeGenerator = load("toy-landscape", device="cpu")
    return model


def test_the_shipped_model_holds_its_gates(shipped: LandscapeGenerator) -> None:
    found = figures(shipped, seed=3, count=4, events=SILENT)
    assert all(gate.holds(found[gate.metric]) for gate in RECIPES["toy-landscape"].gates if gate.metric != "motion_error_px"), found
    batch = Landscapes("eval", 3, "cpu").batch(range(48), augment=False)
    with torch.no_grad():
        wrong, none = ((motion - batch["motion"]).norm(dim=1) for motion in (shipped.networks["motion"](batch["pictures"]), 0.0))
    moving = (batch["motion"] != 0).any(1)
    assert float(wrong[moving].mean()) < 0.45 * float(none[moving].mean())
    assert sum(path.stat().st_size for path in (CHECKPOINTS / "toy-landscape").rglob("*.safetensors")) < 6e6


def test_a_code_draws_its_landscape_better_than_another_codes(shipped: LandscapeGenerator) -> None:
    batch = Landscapes("tune", 2, "cpu").batch(range(24), augment=False)
    with torch.no_grad():
        drawn = shipped.generator(shipped.generator.broadcast(shipped.generator.map(batch["code"])))
    right, wrong = ((drawn - pictures).square().mean() for pictures in (batch["pictures"], batch["pictures"].roll(1, 0)))
    assert float(right) < 0.4 * float(wrong)


def test_losses_reach_only_what_a_stage_trains() -> None:
    trainee = fresh()
    batch = Landscapes("tune", 2, "cpu").batch(range(2), augment=True)
    for stage, names in {
        "autoencoder": ("generator.conv1", "generator.to_rgbs", "encoder.styles", "encoder.feature"),
        "mapping": ("generator.style",),
        "encoder": ("encoder.styles", "encoder.feature"),
        "motion": ("motion",),
    }.items():
        trainee.zero_grad(set_to_none=True)
        trainee.enter(stage)
        loss = trainee(batch)
        assert loss.shape == (2,)
        loss.mean().backward()
        reached = {name for name, value in trainee.named_parameters() if value.grad is not None}
        for part in names:
            assert any(name.startswith(part) for name in reached), (stage, part)
        assert ("motion.out.weight" in reached) == (stage == "motion")
        assert any(name.startswith("generator.style") for name in reached) == (stage == "mapping")
    assert trainee({**batch, "training": torch.zeros(2)}).shape == (2,)


def test_it_trains_every_stage_ships_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landscape, "CHANNELS", {4: 16, 8: 16, 16: 8, 32: 48, 64: 8})
    monkeypatch.setattr(landscape, "ANNOTATED", 2)
    recipe = LandscapeRecipe()
    recipe.settings = replace(recipe.settings, batch_size=2, held_out=4, held_out_often=2)
    recipe.classifier_steps = 3
    given = {"recipe": recipe, "checkpoints": tmp_path, "device": "cpu"}
    made = train("toy-landscape", budget="8steps", out=tmp_path / "run", **given)  # type: ignore[arg-type]
    assert made.exported
    model = load(tmp_path / "toy-landscape", device="cpu")
    assert set(model.networks) == {"generator", "encoder", "pixel_classifier", "motion"}
    assert float(model.generator.mean_style.abs().max()) > 0
    again = recipe.build(seed=5, start=tmp_path / "toy-landscape", checkpoints=tmp_path)
    assert torch.equal(again.encoder.stem.weight, model.encoder.stem.weight)
