"""The training of CAGE on a folder of clips: what it gives, that a kill changes nothing, which parts fit together, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype.core.events import Events
from calotype.data.clip_folder import ClipFolder
from calotype.errors import Cancelled, DataError, InputError
from calotype.methods.cage import CAGE
from calotype.methods.cage.contrast import contrast
from calotype.methods.cage.crops import Crops
from calotype.methods.cage.training import FEATURES as FIRST_STAGE
from calotype.methods.cage.training import CAGETraining
from calotype.train.rng import BatchRng
from tests.recorder import Recorder
from tests.tiny import cached
from tests.tiny_cage import FEATURES, SIDE, cached_cage_model, clips_folder, tiny_dinov2, tiny_encoder, tiny_vq


def training(**changes: Any) -> CAGETraining:
    numbers = {
        "size": (SIDE, SIDE), "num_frames": 6, "autoencoder": str(cached("toy-vae")), "width": 16, "depth": 1, "heads": 2, "batch_size": 2,
        "held_out_samples": 4,
    }  # fmt: skip
    return CAGETraining(**{**numbers, **changes})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips_folder(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def straight(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training()(clips, tmp_path_factory.mktemp("trained") / "model", budget="4steps", device="cpu")


def test_it_trains_on_frames_and_its_checkpoint_makes_clips(straight: Path) -> None:
    facts = json.loads((straight / "training.json").read_text())
    assert facts["status"] == "finished"
    assert list((straight / "training").glob("sheets/*.png"))
    model = calotype.load(str(straight), device="cpu")
    assert (model.role, model.size, model.grid, model.targets) == ("ComposableVideo", (SIDE, SIDE), (4, 4), 3)
    made = CAGE(num_inference_steps=2)(model, torch.rand(3, SIDE, SIDE), move=["1,1:2,2@1-2"], num_frames=3)
    assert bool(made.video.frames.isfinite().all())


def test_stopped_in_either_stage_it_goes_on_to_the_same_bits(straight: Path, clips: Path, tmp_path: Path) -> None:
    class Stops(Events):
        left = 1

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cancelled("stop")

    for _ in range(3):
        with pytest.raises(Cancelled):
            training()(clips, tmp_path / "model", budget="4steps", device="cpu", events=Stops(), save_every=0.0)
    training()(clips, tmp_path / "model", budget="4steps", device="cpu")
    for part in ("transformer", "control_encoder"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "model" / name).read_bytes() == (straight / name).read_bytes()


def test_it_goes_on_from_a_checkpoint_with_the_parts_that_it_knows(straight: Path, clips: Path, tmp_path: Path) -> None:
    out = training(features=str(straight))(clips, tmp_path / "more", model=straight, budget="1steps", device="cpu")
    first, more = (calotype.load(str(each), device="cpu") for each in (straight, out))
    pictures = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(first.features(pictures), more.features(pictures))
    changed = [not torch.equal(a, b) for a, b in zip(first.transformer.parameters(), more.transformer.parameters(), strict=True)]
    assert any(changed)


def test_features_of_dinov2_and_latents_of_a_vq_model(clips: Path, tmp_path: Path) -> None:
    asked = training(features=str(tiny_dinov2(tmp_path / "dino")), feature_layers=2, autoencoder=str(tiny_vq(tmp_path / "vq")))
    out = asked(clips, tmp_path / "model", budget="1steps", device="cpu")
    model = calotype.load(str(out), device="cpu")
    assert model.transformer.config.feature_width == 16
    assert model.features(torch.rand(1, 3, SIDE, SIDE)).shape == (1, 16, 4, 4)
    pictures = torch.rand(1, 3, SIDE, SIDE)
    close = model.encode(pictures) - model.modules["vae"].encode(pictures * 2 - 1).latents
    assert float(close.detach().abs().max()) < 1e-5  # before they are rounded to codes


def test_dinov2_features_are_of_its_last_layers_after_the_norm_without_the_class_token(tmp_path: Path) -> None:
    from transformers import Dinov2Model

    from calotype.backbones.control_features import control_features

    dino = Dinov2Model.from_pretrained(tiny_dinov2(tmp_path / "dino")).eval()
    pixels = torch.rand(2, 3, 56, 56) * 2 - 1
    with torch.no_grad():
        found = control_features(dino, pixels, (4, 4), 2)
        told = dino(pixel_values=pixels, output_hidden_states=True)
    last = told.last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(found[:, 8:], last)
    earlier = dino.layernorm(told.hidden_states[-2])[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(found[:, :8], earlier)


def batches(clips: Path, **changes: Any) -> Any:
    asked = training(**changes)
    data = ClipFolder.open(clips, size=(SIDE, SIDE), num_frames=6, captions=False)
    trainee = asked.build(data, seed=0)
    return trainee, asked.source(trainee, data, "cpu")


def test_a_window_is_an_earlier_frame_the_reference_and_the_three_after_it(clips: Path) -> None:
    trainee, source = batches(clips)
    batch = source.batch(range(64), BatchRng(0, 0, range(64), 64), augment=True)
    offsets = batch["offsets"]
    assert bool((offsets[:, 1:] == torch.arange(4)).all())
    assert bool((offsets[:, 0] < 0).all())
    data = ClipFolder.open(clips, size=(SIDE, SIDE), num_frames=6, captions=False).rows([3])["clip"][0]
    found = [(batch["pixels"][3, 2] - frame).abs().max().item() for frame in data]
    number = found.index(min(found))
    assert min(found) < 1e-6
    with torch.no_grad():
        close = trainee.latent_space.encode(data[number][None])[0] - batch["latents"][3, 4]
    assert float(close.abs().max()) < 0.01
    times = batch["times"]
    assert bool(((times >= 0) & (times <= 1)).all())
    assert float((times[:, 0] - times[:, 1]).abs().mean()) > 0.1  # each frame has its own
    seen = {int(source.batch(range(2), BatchRng(0, step, range(2), 2), augment=True)["known"][0]) for step in range(40)}
    assert seen == {0, 1, 2}
    kept = {source.batch(range(2), BatchRng(0, step, range(2), 2), augment=True)["kept"].shape[1] for step in range(40)}
    assert kept == {10, 16}


def test_only_cells_that_a_view_shows_are_given_and_their_share_varies(clips: Path) -> None:
    trainee, source = batches(clips)
    trainee.eval()
    seen = []

    def watching(latents: Any, offsets: Any, times: Any, features: Any, given: Any, kept: Any) -> Any:
        seen.append((features, given))
        return torch.zeros(len(latents), 3, kept.shape[1], 16)

    trainee.transformer.forward = watching
    batch = source.batch(range(64), BatchRng(0, 0, range(64), 64), augment=False)
    losses = trainee(batch)
    assert losses.shape == (64,)
    ((features, given),) = seen
    views = Crops.drawn(batch["view"].flatten(0, 1)).whole_where(batch["whole"].flatten() > 0)
    covered = views.covered((4, 4)).view(64, 3, 4, 4)
    assert bool((given <= covered).all())
    assert bool((features.abs().sum(2)[covered == 0] == 0).all())
    shares = given.flatten(2).mean(2) / covered.flatten(2).mean(2)
    assert 0.2 < float(shares.nanmean()) < 0.4
    assert float(shares[~shares.isnan()].std()) > 0.15
    # With no velocity at all the loss is that of noise - data.
    wanted = batch["noise"] - batch["latents"][:, 2:]
    assert abs(float(losses.mean()) - float(wanted.square().mean())) < 1e-4


def test_features_that_follow_the_content_have_a_lower_contrast() -> None:
    torch.manual_seed(0)
    frames = torch.nn.functional.interpolate(torch.rand(8, 3, 8, 8), size=(32, 32), mode="nearest") * 2 - 1
    drawn = [Crops.drawn(torch.rand(8, 4), 0.25) for _ in range(2)]
    choice = torch.rand(8, 4, 4)

    def colours(pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 8)

    follows = contrast(colours, frames, (drawn[0], drawn[1]), choice)
    random = contrast(lambda pixels: torch.randn(len(pixels), 3, 4, 4), frames, (drawn[0], drawn[1]), choice)
    assert float(follows) < float(random) - 0.5


def test_the_encoder_learns_in_the_first_stage_alone(clips: Path) -> None:
    trainee, source = batches(clips)
    batch = source.batch(range(2), BatchRng(0, 0, range(2), 2), augment=True)
    trainee.train()
    for stage, learns in ((FIRST_STAGE, True), ("video", False)):
        trainee.zero_grad()
        trainee.enter(stage)
        trainee(batch).mean().backward()
        assert (trainee.control_encoder.out.weight.grad is not None) is learns
        assert (trainee.transformer.head.out.weight.grad is not None) is not learns


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": (36, 32)}, "must be multiples of 8"),
        ({"num_frames": 4}, "a window has 5 frames"),
        ({"given_share": 0.0}, "given_share"),
        ({"token_dropping": 1.0}, "token_dropping"),
        ({"width": 20}, "must be a multiple of 4 times the heads"),
        ({"features": "nowhere"}, "no model 'nowhere'"),
        ({"features": str(cached("toy-vae"))}, "of the role Autoencoder"),
        ({"autoencoder": "nowhere"}, "no model 'nowhere'"),
    ],
)
def test_numbers_and_parts_that_fit_nothing_are_refused(clips: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        training(**changes)(clips, tmp_path / "model", budget="1steps", device="cpu")
    assert not list(tmp_path.rglob("*.json"))


def test_a_checkpoint_that_doesnt_fit_the_training_is_refused(clips: Path, tmp_path: Path) -> None:
    known = str(cached_cage_model())
    for changes, start, words in (
        ({}, known, "give --features"),
        ({"features": known, "depth": 2}, known, "has depth 1, and 2 was asked for"),
        ({"features": known, "size": (64, 64)}, known, "size is"),
        ({"features": str(tiny_dinov2(tmp_path / "dino"))}, known, "knows other features"),
        ({"features": known, "autoencoder": str(tiny_vq(tmp_path / "vq"))}, known, "knows other autoencoder"),
        ({}, str(cached("toy-vae")), "begin with a ComposableVideo"),
    ):
        with pytest.raises(InputError, match=words):
            training(**changes)(clips, tmp_path / "model", model=start, budget="1steps", device="cpu")
    assert not list(tmp_path.rglob("training.json")) + list((tmp_path).rglob("model/model_index.json"))


def test_folders_without_clips_and_short_clips_are_refused(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        training()(tmp_path / "empty", tmp_path / "model", budget="1steps", device="cpu")
    with pytest.raises(DataError) as caught:
        training(stride=2)(clips, tmp_path / "model", budget="1steps", device="cpu")
    assert len(caught.value.problems) == 4
    assert "6 frames, 11 are needed" in caught.value.problems[0]
    assert not list(tmp_path.rglob("training.json")) + list((tmp_path).rglob("model/model_index.json"))


def test_latents_far_from_the_noises_size_are_told(clips: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    data = ClipFolder.open(clips, size=(SIDE, SIDE), num_frames=6, captions=False)
    training(autoencoder=str(tiny_vq(tmp_path / "vq", scaling_factor=1e-3))).check(data, recorder)
    assert any("standard deviation" in note for note in recorder.notes)


def test_a_given_encoder_stays_as_it_is() -> None:
    asked = training(features=str(cached_cage_model()))
    trainee = asked.build(None, seed=0)
    assert not any(parameter.requires_grad for parameter in (*trainee.control_encoder.parameters(), *trainee.projection.parameters()))
    torch.testing.assert_close(trainee.control_encoder.out.weight, tiny_encoder().out.weight, rtol=1e-3, atol=1e-3)
    assert trainee.transformer.config.feature_width == FEATURES
    assert len(asked.settings().stages) == 1
