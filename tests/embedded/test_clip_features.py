"""The recipe of the clip features: its answers, one loss a sample, and the way from training to a folder that answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from calotype.core.events import SILENT
from calotype.embedded import train
from calotype.embedded.clip_features import ANSWERS, VARIANTS, ClipFeaturesRecipe, accuracy, answers_of, spoilings
from calotype.train.rng import BatchRng
from calotype.world import paint
from calotype.world.moving import sample_moving


class Narrow(ClipFeaturesRecipe):
    settings = dataclasses.replace(
        ClipFeaturesRecipe.settings, batch_size=8, held_out=16, held_out_often=8, warmup_steps=1, warm_learning_rate=6e-3, ema_decay=0.9
    )
    width, features, tune_count = 6, 12, 16


def test_answers_are_those_that_the_captions_give() -> None:
    for variant in dict.fromkeys(VARIANTS):
        for index in range(40):
            scene = sample_moving(split="tune", seed=1, index=index, variant=variant)
            answers = answers_of(scene)
            assert all(answers[question] in ANSWERS[question] for question in ANSWERS)
            assert scene.caption.endswith("moving " + answers["direction"].replace("-", " and "))
            assert answers["colour"] in scene.caption
            assert answers["category"] in scene.caption
    paths = {answers_of(sample_moving(split="tune", seed=1, index=index))["speed"] for index in range(20)}
    assert paths == {"slow", "fast"}


def test_a_sample_depends_on_its_number_alone() -> None:
    recipe = Narrow()
    trainee = recipe.build(seed=0, start=None, checkpoints=Path()).eval()
    source = recipe.source(trainee, split="tune", seed=5, folder=Path(), checkpoints=Path(), start=None, device="cpu")
    whole = source.batch(range(8), BatchRng(0, 0, range(8), 8), augment=True)
    part = source.batch(range(5, 8), BatchRng(1, 3, range(3), 3), augment=False)
    assert all(torch.allclose(whole[name][5:].float(), part[name].float(), atol=1e-6) for name in whole)
    with torch.no_grad():
        assert trainee(whole).shape == (8,)


def test_spoilt_clips_differ_in_one_thing() -> None:
    scenes = [sample_moving(split="tune", seed=1, index=index) for index in range(3)]
    clips = paint(scenes, num_frames=8)
    made = {name: spoilt() for name, spoilt in spoilings(scenes, clips, 0).items()}
    assert torch.equal(made["same"], clips)
    assert not torch.equal(made["shuffled"], clips)
    assert torch.allclose(made["shuffled"].mean(1), clips.mean(1), atol=1e-6)
    assert torch.allclose(made["blurred"].mean((3, 4)), clips.mean((3, 4)), atol=0.02)
    assert torch.allclose(made["recoloured"][..., 0, 0], clips[..., 0, 0], atol=1e-5)


def test_training_ends_in_a_folder_that_answers_and_goes_on_from_it(tmp_path: Path) -> None:
    home = tmp_path / "checkpoints"
    first = train("toy-clip-features", budget="2steps", out=tmp_path / "a", checkpoints=home, recipe=Narrow(), device="cpu")
    second = train("toy-clip-features", budget="60steps", out=tmp_path / "b", checkpoints=home, recipe=Narrow(), device="cpu")
    assert second.held_out < first.held_out
    assert second.exported
    figures = Narrow().validate(home / "toy-clip-features", seed=1, count=20, device="cpu", events=SILENT)
    assert figures["count"] == 20
    assert {"direction", "words", "distance_same", "distance_shuffled_corrected"} < set(figures)
    assert "is no FVD" in (home / "toy-clip-features" / "README.md").read_text()


def test_the_shipped_network_answers_and_its_distance_orders_spoilt_clips() -> None:
    from calotype.backbones.clip_features import load_clip_features
    from calotype.metrics import frechet_distance, kernel_distance

    features = load_clip_features()
    scenes = [sample_moving(split="tune", seed=9, index=index) for index in range(96)]
    clips = paint(scenes, num_frames=8)
    figures = accuracy(features, scenes, clips)
    assert figures["direction"] >= 0.95
    assert figures["words"] >= 0.93
    first = features(clips[:48])
    assert first.shape == (48, 64)
    found = {name: features(spoilt()) for name, spoilt in spoilings(scenes[48:], clips[48:], 0).items()}
    same = frechet_distance(first, found["same"])
    for name in ("shuffled", "blurred", "recoloured"):
        assert frechet_distance(first, found[name]) > 1.3 * same
        assert kernel_distance(first, found[name]) > max(0.0, kernel_distance(first, found["same"]))
    # Any number of frames and any size.
    assert features(clips[:2, :4, :, ::2, ::2]).shape == (2, 64)


def test_other_shapes_are_refused() -> None:
    from calotype.backbones.clip_features import ClipFeatureNetwork, ClipFeatures
    from calotype.errors import ShapeError

    features = ClipFeatures(ClipFeatureNetwork(ANSWERS, width=6, features=8).eval(), 1.0)
    for shape in ((8, 3, 64, 64), (1, 1, 3, 64, 64), (1, 8, 1, 64, 64)):
        with pytest.raises(ShapeError, match="two or more frames"):
            features(torch.zeros(shape))
