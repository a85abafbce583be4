"""The training of CMD: its stages from a folder of clips, one after the other and alone, stopped and gone on with, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import calotype
from calotype.backbones.content_motion_network import Motion
from calotype.core.events import SILENT, Events
from calotype.errors import Cancelled, DataError, InputError
from calotype.methods.cmd import CMD
from calotype.methods.cmd.training import CMDTraining
from calotype.train.rng import BatchRng
from tests.recorder import Recorder
from tests.tiny import cached
from tests.tiny_cmd import clip_folder

METHOD = CMD(num_inference_steps=1, num_motion_steps=1, guidance_scale=1.0)
BUDGET = "6steps"
"""Three of the autoencoder, one of the image model, two of the motion."""
NETWORKS = ("autoencoder", "unet", "motion_network")


def training(**changes: Any) -> CMDTraining:
    """At small width, for clips that are no squares and of another size than the image model's pictures."""
    settings = {
        "image_model": str(cached("toy-t2i")), "size": (32, 64), "width": 16, "depth": 1, "heads": 2, "motion_channels": 3,
        "motion_width": 16, "motion_depth": 1, "motion_heads": 2, "batch_size": 2, "held_out_samples": 2, "learning_rate": 0.1,
    }  # fmt: skip
    return CMDTraining(**{**settings, **changes})


def train(asked: CMDTraining, data: Path, out: Path, *, budget: str = BUDGET, events: Events = SILENT, **others: Any) -> Path:
    return asked(data, out, budget=budget, device="cpu", events=events, save_every=0.0, **others)


def weights(checkpoint: Path, part: str) -> bytes:
    return (checkpoint / part / "diffusion_pytorch_model.safetensors").read_bytes()


def facts(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "model_index.json").read_text())
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clips") / "data")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(training(), data, tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def autoencoder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(training(stage="autoencoder"), data, tmp_path_factory.mktemp("first") / "model", budget="2steps")


def test_a_folder_of_clips_becomes_a_model_that_makes_clips(straight: Path) -> None:
    model = calotype.load(str(straight), device="cpu")
    assert (model.role, model.size, model.facts.num_frames) == ("ContentMotionVideo", (32, 64), 8)
    assert model.facts.trained == ("autoencoder", "content", "motion")
    assert model.facts.fps == 8.0
    assert METHOD(model, "a red ball on grass moving left")["video"].frames.shape == (8, 3, 32, 64)
    lines = [json.loads(line) for line in (straight / "training" / "progress.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in lines if "stage" in line] == [(3, "content"), (4, "motion")]
    assert list((straight / "training").glob("sheets/*.png"))


def test_stopped_after_every_step_it_comes_to_the_same_bits(straight: Path, data: Path, tmp_path: Path) -> None:
    class Stops(Events):
        steps = 0

        def step(self, count: int = 1) -> None:
            self.steps += count

        def check(self) -> None:
            if (tmp_path / "model" / "training" / "state.json").is_file() and self.steps > 0:
                raise Cancelled("stop")

    for _ in range(3):
        with pytest.raises(Cancelled):
            train(training(), data, tmp_path / "model", events=Stops())
    train(training(), data, tmp_path / "model")
    for part in NETWORKS:
        assert weights(tmp_path / "model", part) == weights(straight, part)
    assert facts(tmp_path / "model") == facts(straight)


def test_one_stage_leaves_the_others_as_they_are(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    assert facts(autoencoder)["trained"] == ["autoencoder"]
    content = train(training(stage="content"), data, tmp_path / "content", budget="2steps", model=autoencoder)
    assert facts(content)["trained"] == ["autoencoder", "content"]
    assert [weights(content, part) == weights(autoencoder, part) for part in NETWORKS] == [True, False, True]
    with pytest.raises(InputError, match="motion was never trained"):
        METHOD(calotype.load(str(content), device="cpu"), "a red ball")
    wider = training(stage="motion", motion_width=32, motion_patch=1)
    motion = train(wider, data, tmp_path / "motion", budget="2steps", model=content)
    assert facts(motion)["trained"] == ["autoencoder", "content", "motion"]
    assert [weights(motion, part) == weights(content, part) for part in NETWORKS] == [True, True, False]
    for name in ("motion_mean", "motion_std"):
        assert facts(motion)[name] == pytest.approx(facts(autoencoder)[name], rel=1e-5)
    model = calotype.load(str(motion), device="cpu")
    assert model.motion.network.config.width == 32
    assert len(METHOD(model, "a red ball")["video"].frames) == 8
    again = train(training(stage="autoencoder"), data, tmp_path / "again", budget="1steps", model=motion)
    assert facts(again)["trained"] == ["autoencoder"]  # the other two know another autoencoder
    with pytest.raises(InputError, match="motion_width 32, and 16"):
        train(training(stage="motion", motion_patch=1), data, tmp_path / "other", budget="1steps", model=motion)


def test_of_a_low_rank_the_attention_alone_is_trained(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    asked = training(stage="content", content_rank=2, learning_rate=0.9)
    made = train(asked, data, tmp_path / "model", budget="2steps", model=autoencoder)
    before, after = (load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (autoencoder, made))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.rsplit(".", 1)[0].endswith(("to_q", "to_k", "to_v", "to_out.0")) and name.endswith("weight") for name in changed)
    for name in changed:
        assert torch.linalg.matrix_rank((after[name] - before[name]).float(), rtol=0.05) <= 2


def test_only_what_has_a_stage_can_be_trained(data: Path, tmp_path: Path) -> None:
    asked = training(stage="autoencoder")
    found = asked.data_set(data, tmp_path)
    trainee = asked.build(found, seed=0)
    batch = asked.source(trainee, found, "cpu").batch(range(2), BatchRng(0, 0, range(2), 2), augment=True)
    trainee.train()(batch).mean().backward()
    for name, parameter in trainee.named_parameters():
        assert parameter.requires_grad is name.startswith("autoencoder."), name
        assert (parameter.grad is not None) is parameter.requires_grad, name


def test_moments_of_the_motion_are_those_of_the_batches(data: Path, tmp_path: Path) -> None:
    asked = training()
    trainee = asked.build(asked.data_set(data, tmp_path), seed=0)
    motion = Motion(torch.randn(5, 3, 8, 4) * 3 + 1, torch.randn(5, 3, 8, 8) * 3 + 1)
    for _ in range(4):
        trainee._observe(motion)
    packed = trainee._packed(motion)
    assert packed.mean((0, 2, 3)).abs().max() < 1e-4
    assert (packed.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_a_share_of_captions_is_dropped_and_of_content_frames_has_noise(data: Path, tmp_path: Path) -> None:
    asked = training(caption_dropout=0.5, content_noise=0.5)
    found = asked.data_set(data, tmp_path)
    trainee = asked.build(found, seed=0)
    source = asked.source(trainee, found, "cpu")
    batches = [source.batch(range(4), BatchRng(0, step, range(4), 4), augment=True) for step in range(20)]
    source.ids[:-1], source.mask[:-1] = source.ids[-1], source.mask[-1]
    empty = source.batch([0], BatchRng(0, 0, range(1), 1), augment=False)["feature"]
    dropped = torch.cat([(batch["feature"] - empty).abs().amax(1) < 1e-5 for batch in batches]).float().mean()
    assert 0.3 < float(dropped) < 0.7
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    trainee.motion_network.register_forward_pre_hook(lambda _, given: shown.append((given[2], given[4])))
    trainee.train().enter("motion")
    for batch in batches:
        trainee(batch)
        clean = trainee.autoencoder.encode(batch["latents"]).content
        content, level = shown.pop()
        noisy = (content - clean).abs().amax((1, 2, 3)) > 1e-6
        assert torch.equal(noisy, level > 0)
        assert float(level.max()) <= 401
    noisy_share = sum(float((batch["shown"] < 0.5).float().mean()) for batch in batches) / 20
    assert 0.3 < noisy_share < 0.7
    trainee.eval()(source.batch(range(4), BatchRng(0, 0, range(4), 4), augment=False))
    assert not bool(shown.pop()[1].any())  # the held-out loss is of clean content frames


def test_an_image_model_that_the_start_has_already_is_noted(autoencoder: Path, data: Path, tmp_path: Path) -> None:
    recorder, asked = Recorder(), training(stage="content")
    asked.check_start(autoencoder, asked.data_set(data, tmp_path), recorder)
    assert any("isn't used: the content model of" in note for note in recorder.notes)


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({"stage": "content"}, None, "stage content begins with a checkpoint"),
        ({"stage": "motion"}, "toy-t2i", "is of the role TextToImage"),
        ({"stage": "content", "width": 32}, "own", "width 16, and 32"),
        ({"stage": "content", "size": (64, 64)}, "own", r"size \(32, 64\), and \(64, 64\)"),
        ({"stage": "motion", "num_frames": 4}, "own", "num_frames 8, and 4"),
        ({"image_model": "nowhere"}, None, "no model 'nowhere'"),
        ({"image_model": "tiny-vae"}, None, "is of the role Autoencoder"),
        ({"size": (40, 64)}, None, "sides must be multiples of 16"),
    ],
)
def test_what_cannot_begin_is_refused_before_anything_is_written(
    autoencoder: Path, data: Path, tmp_path: Path, changes: dict[str, Any], model: str | None, words: str
) -> None:
    if changes.get("image_model") == "tiny-vae":
        changes = {"image_model": str(cached("toy-vae"))}
    start = {"own": autoencoder, "toy-t2i": cached("toy-t2i"), None: None}[model]
    with pytest.raises(InputError, match=words):
        train(training(**changes), data, tmp_path / "model", budget="1steps", model=start)
    assert not list(tmp_path.rglob("*.json"))


def test_clips_that_are_too_short_and_folders_without_any_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 frames, 16 are needed"):
        train(training(num_frames=16), data, tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        train(training(), tmp_path / "empty", tmp_path / "model")
    assert not list(tmp_path.rglob("*.json"))


def test_settings_have_ranges() -> None:
    for wrong in (
        {"caption_dropout": 1.5}, {"content_noise": -0.1}, {"depth": 0}, {"num_frames": 7}, {"width": 18}, {"content_rate": 0.0},
        {"content_rank": -1}, {"autoencoder_rate": 20.0}, {"diffusion_betas": (0.9, 1.0)},
    ):  # fmt: skip
        with pytest.raises(InputError):
            training(**wrong)
    paper = CMDTraining.paper()
    stages = {stage.name: stage.groups["main"] for stage in paper.settings().stages}
    assert stages["autoencoder"].rate * paper.learning_rate == pytest.approx(1e-5)
    assert (stages["autoencoder"].betas, stages["content"].betas) == ((0.5, 0.9), (0.9, 0.999))
