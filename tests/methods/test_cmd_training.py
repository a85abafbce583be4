"""The training of CMD: three stages from a folder of clips, each resumed to the same bits and replaceable, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype.core.events import Events
from calotype.errors import Cancelled, InputError
from calotype.methods.cmd import CMD
from calotype.methods.cmd.training import CMDTraining, TraineeCMD
from calotype.train.rng import BatchRng
from calotype.world.clips import write_clips
from tests.tiny import cached

SMALL: dict[str, Any] = {
    "width": 16, "depth": 1, "heads": 2, "motion_channels": 3, "motion_width": 16, "motion_depth": 1, "motion_heads": 2, "batch_size": 4,
    "held_out_samples": 4, "held_out_share": 0.25,
}  # fmt: skip


class StopAt(Events):
    """Cancels after so many steps."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.training = False

    def stage(self, name: str, steps: int | None = None) -> None:
        self.training = name.startswith("train ")

    def step(self, count: int = 1) -> None:
        self.left -= count if self.training else 0

    def check(self) -> None:
        if self.training and self.left <= 0:
            raise Cancelled("stopped")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALOTYPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "clips", preset="moving", count=4, num_frames=8)


def training(**more: Any) -> CMDTraining:
    return CMDTraining(image_model=str(cached("toy-t2i")), **{**SMALL, **more})


def weights(folder: Path, *parts: str) -> dict[str, str]:
    found = {part: sorted((folder / part).glob("*.safetensors")) for part in parts or ("autoencoder", "unet", "motion_network")}
    return {part: hashlib.sha256(paths[0].read_bytes()).hexdigest() for part, paths in found.items()}


@pytest.fixture(scope="module")
def straight(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training()(clips, tmp_path_factory.mktemp("straight") / "model", budget="6steps", device="cpu")


def test_it_trains_all_networks_and_loads(straight: Path) -> None:
    model = calotype.load(str(straight), device="cpu")
    assert model.role == "ContentMotionVideo"
    assert model.facts.trained == ("autoencoder", "content", "motion")
    assert model.facts.fps == pytest.approx(8.0)
    assert all(0.01 < value < 10 for value in model.facts.motion_std)
    latents = model.encode_clips(torch.rand(1, 8, 3, 64, 64))
    encoded = model.split(latents)
    assert model.join(encoded.content, encoded.motion).shape == latents.shape


@pytest.mark.parametrize("step", [1, 4])
def test_a_training_that_was_stopped_in_a_stage_ends_with_the_same_bits(straight: Path, clips: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Cancelled):
        training()(clips, tmp_path / "model", budget="6steps", device="cpu", events=StopAt(step), save_every=0.0)
    training()(clips, tmp_path / "model", budget="6steps", device="cpu")
    assert weights(tmp_path / "model") == weights(straight)


def test_one_stage_alone_leaves_the_others_as_they_are(straight: Path, clips: Path, tmp_path: Path) -> None:
    for stage, part in (("motion", "motion_network"), ("content", "unet")):
        made = training(stage=stage)(clips, tmp_path / stage, model=straight, budget="2steps", device="cpu")
        before, after = weights(straight), weights(made)
        assert {name for name in before if before[name] != after[name]} == {part}


def test_an_autoencoder_alone_says_what_it_lacks(clips: Path, tmp_path: Path) -> None:
    made = training(stage="autoencoder")(clips, tmp_path / "model", budget="2steps", device="cpu")
    model = calotype.load(str(made), device="cpu")
    assert model.facts.trained == ("autoencoder",)
    with pytest.raises(InputError, match="content and motion was never trained"):
        CMD(num_inference_steps=1, num_motion_steps=1)(model, "a red ball")


def test_the_loss_of_a_stage_moves_its_network_alone(clips: Path) -> None:
    asked = training()
    data = asked.data_set(clips, clips.parent / "kept")
    trainee = asked.build(data, seed=0)
    source = asked.source(trainee, data, "cpu")
    batch = source.batch(range(4), BatchRng(0, 0, range(4), 4), augment=True)
    moved = {"autoencoder": "autoencoder.", "content": "unet.", "motion": "motion_network."}
    for stage, prefix in moved.items():
        trainee.train()
        trainee.enter(stage)
        trainee.zero_grad(set_to_none=True)
        trainee(batch).mean().backward()
        touched = {name.partition(".")[0] + "." for name, value in trainee.named_parameters() if value.grad is not None}
        assert touched == {prefix}


def test_moments_of_the_motion_are_measured_while_the_autoencoder_learns(clips: Path) -> None:
    asked = training()
    trainee: TraineeCMD = asked.build(asked.data_set(clips, clips.parent / "kept"), seed=0)
    trainee.train()
    latents = torch.randn(4, 8, 4, 16, 16)
    with torch.no_grad():
        trainee({"latents": latents})
        motion = trainee.autoencoder.encode(latents).motion
    values = torch.cat(list(motion), -1)
    torch.testing.assert_close(trainee.motion_mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(trainee.motion_variance, values.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-6)


def test_what_cant_be_trained_is_refused(straight: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="begins with a checkpoint that has the autoencoder"):
        training(stage="motion")(clips, tmp_path / "a", budget="1steps", device="cpu")
    with pytest.raises(InputError, match="role TextToImage; begin with a ContentMotionVideo"):
        training(stage="motion")(clips, tmp_path / "b", model=cached("toy-t2i"), budget="1steps", device="cpu")
    with pytest.raises(InputError, match="has width 16, and 32 was asked for"):
        training(stage="motion", width=32)(clips, tmp_path / "c", model=straight, budget="1steps", device="cpu")
    with pytest.raises(InputError, match="image_model: .* is of the role Autoencoder"):
        CMDTraining(**{**SMALL, "image_model": "toy-vae"})(clips, tmp_path / "d", budget="1steps", device="cpu")
    with pytest.raises(InputError, match="8 frames, 16 are needed"):
        training(num_frames=16)(clips, tmp_path / "e", budget="1steps", device="cpu")
    with pytest.raises(InputError, match=r"its sides must be multiples of 16"):
        training(size=(72, 64))(clips, tmp_path / "f", budget="1steps", device="cpu")
    assert not any((tmp_path / name / "model_index.json").exists() for name in "abcdef")
