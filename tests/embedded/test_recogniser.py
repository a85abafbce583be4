"""The recogniser's recipe: its pictures and targets, one loss a sample, and the way from training to a folder that reads pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from calotype.core.events import SILENT
from calotype.embedded import train
from calotype.embedded.export import read_gates
from calotype.embedded.recogniser import KINDS, LabelledPictures, RecogniserRecipe
from calotype.train.rng import BatchRng
from calotype.world import sample_scene


class Narrow(RecogniserRecipe):
    settings = dataclasses.replace(RecogniserRecipe.settings, batch_size=8, held_out=16, held_out_often=8, warmup_steps=1)
    width = 8
    tune_count = 16


@pytest.fixture
def source() -> LabelledPictures:
    recipe = Narrow()
    return recipe.source(
        recipe.build(seed=0, start=None, checkpoints=Path()),
        split="tune",
        seed=5,
        folder=Path(),
        checkpoints=Path(),
        start=None,
        device="cpu",
    )


def test_a_sample_depends_on_its_number_alone(source: LabelledPictures) -> None:
    rows = list(range(12))
    whole = source.batch(rows, BatchRng(0, 0, range(12), 12), augment=True)
    part = source.batch(rows[6:], BatchRng(1, 3, range(6), 6), augment=False)
    assert all(torch.allclose(whole[name][6:].float(), part[name].float(), atol=1e-6) for name in whole)
    assert float(whole["pixels"].min()) >= 0
    assert float(whole["pixels"].max()) <= 1


def test_targets_mark_the_objects_that_are_whole(source: LabelledPictures) -> None:
    batch = source.batch(range(64), BatchRng(0, 0, range(64), 64), augment=False)
    centres = (batch["heat"] == 1).flatten(1).sum(1)
    assert 0.5 < float((centres > 0).float().mean()) < 0.8
    assert set(centres.tolist()) == {0, 1, 2}
    # Where a centre is, its colour and place are learnt; where none is, they aren't.
    near = batch["near"].flatten(1).sum(1)
    assert bool(((near > 0) == (centres > 0)).all())
    assert abs(sum(KINDS.values()) - 1) < 1e-9
    plain = source._target(sample_scene("small", split="tune", seed=5, index=0), "whole", False, 0.0)
    assert int((plain["heat"] == 1).sum()) == len(sample_scene("small", split="tune", seed=5, index=0).objects)
    assert not source._target(sample_scene("small", split="tune", seed=5, index=0), "crossfade", True, 0.0)["heat"].any()


def test_training_ends_in_a_folder_that_reads_pictures_and_goes_on_from_it(tmp_path: Path) -> None:
    home = tmp_path / "checkpoints"
    first = train("recogniser", budget="2steps", out=tmp_path / "a", checkpoints=home, recipe=Narrow(), device="cpu")
    assert first.exported
    second = train("recogniser", budget="8steps", out=tmp_path / "b", checkpoints=home, recipe=Narrow(), device="cpu")
    assert second.held_out < first.held_out
    assert second.exported
    assert read_gates(home)["recogniser"]["earlier"] == {"steps": 2}
    figures = Narrow().validate(home / "recogniser", seed=1, count=8, device="cpu", events=SILENT)
    assert figures["count"] == 8
    assert 0 <= figures["scene"] <= 1
    assert "scene_reconstructed" not in figures
    assert "calotype train recogniser" in (home / "recogniser" / "README.md").read_text()
