"""Trainings with two optimisers and with stages: small real networks on points in the plane."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from calotype.core.events import Events
from calotype.errors import Cancelled, InputError
from calotype.train.budget import Budget
from calotype.train.loop import Fitted, Trainer, accelerator_for
from calotype.train.optimizers import Group, Optimizers, Stage
from calotype.train.recipe import Settings
from calotype.train.rng import BatchRng
from calotype.train.state import read_counters
from tests.recorder import Recorder
from tests.train.test_loop import same, tensors

SETTINGS = Settings(batch_size=16, learning_rate=5e-3, held_out=32, held_out_often=16, warmup_steps=2, ema_decay=0.9, weight_decay=0.0)
ADVERSARIAL = Stage(groups={"generator": Group(modules=("generator",)), "critic": Group(modules=("critic",), rate=2.0, betas=(0.5, 0.9))})


def layers(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for first, second in itertools.pairwise(widths):
        parts += [nn.Linear(first, second), nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts[:-1])


class Ring:
    """Points near the unit circle, with noise to make others from."""

    count = 500

    def batch(self, rows: Sequence[int], rng: BatchRng, *, augment: bool) -> dict[str, Tensor]:
        angle = 6.2832 * rng.uniform()
        points = torch.stack([angle.cos(), angle.sin()], 1)
        return {"points": points + 0.02 * rng.normal((2,)), "noise": rng.normal((2,))}


class PointGAN(nn.Module):
    """A generator and a critic; the held-out loss is how far made points lie from the circle."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.generator, self.critic = layers(2, 32, 32, 2), layers(2, 32, 32, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.generator(batch["noise"]).norm(dim=1) - 1).square()

    def training_step(self, batch: dict[str, Tensor], optimizers: Optimizers) -> None:
        for _ in range(2):
            optimizers.update("critic", batch, self.critic_loss)
        optimizers.update("generator", batch, lambda part: nn.functional.softplus(-self.critic(self.generator(part["noise"])))[:, 0])

    def critic_loss(self, batch: dict[str, Tensor]) -> Tensor:
        real, made = self.critic(batch["points"]), self.critic(self.generator(batch["noise"]))
        return (nn.functional.softplus(-real) + nn.functional.softplus(made))[:, 0]


class BiLevel(PointGAN):
    """One loss, of which every third step moves the one network and the others the other."""

    def training_step(self, batch: dict[str, Tensor], optimizers: Optimizers) -> None:
        optimizers.update("critic" if optimizers.step % 3 == 0 else "generator", batch, self.critic_loss)


class TwoStages(nn.Module):
    """An autoencoder, then a network on what its encoder gives, which is frozen by then."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.encoder, self.decoder, self.prior = layers(2, 8, 1), layers(1, 8, 2), layers(1, 8, 1)
        self.stage = ""

    def enter(self, stage: str) -> None:
        self.stage = stage

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        code = self.encoder(batch["points"])
        if self.stage == "codes":
            return (self.decoder(code) - batch["points"]).square().mean(1)
        return (self.prior(code + batch["noise"][:, :1]) - code.detach()).square().mean(1)


STAGES = (
    Stage(name="codes", share=2.0, groups={"main": Group(modules=("encoder", "decoder"))}),
    Stage(name="prior", share=1.0, groups={"main": Group(modules=("prior",), optimizer="muon")}),
)


def fit(trainee: nn.Module, folder: Path, settings: Settings, budget: str = "12steps", events: Events | None = None) -> Fitted:
    return trainer(trainee, folder, settings, budget, events).fit()


def trainer(trainee: nn.Module, folder: Path, settings: Settings, budget: str, events: Events | None = None) -> Trainer:
    return Trainer(
        "points", trainee, source=Ring(), held_out=Ring(), folder=folder, budget=Budget.parse(budget), seed=0,
        accelerator=accelerator_for("cpu"), settings=settings, events=events or Recorder(), save_every=1e9, report_every=1e9,
    )  # fmt: skip


class StopAt(Recorder):
    """Stops a training once, after that many of its steps."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def check(self) -> None:
        if self.stages[-1][0].startswith("train"):
            self.left -= 1
            if not self.left:
                raise Cancelled("stopped by the test")


@pytest.mark.parametrize(
    ("make", "settings", "stops"),
    [
        (PointGAN, replace(SETTINGS, stages=(ADVERSARIAL,)), (1, 5, 3)),
        (BiLevel, replace(SETTINGS, stages=(ADVERSARIAL,)), (2, 2)),
        (TwoStages, replace(SETTINGS, stages=STAGES), (5,)),
        (TwoStages, replace(SETTINGS, stages=STAGES), (8,)),
        (TwoStages, replace(SETTINGS, stages=STAGES), (3, 7)),
    ],
)
def test_stopped_in_the_middle_it_goes_on_to_the_same_bits(
    make: type[nn.Module], settings: Settings, stops: tuple[int, ...], tmp_path: Path
) -> None:
    straight = fit(make(), tmp_path / "straight", settings)
    for stop in stops:
        with pytest.raises(Cancelled):
            fit(make(), tmp_path / "broken", settings, events=StopAt(stop))
    assert (read_counters(tmp_path / "broken") or {})["step"] == sum(stops)
    again = fit(make(), tmp_path / "broken", settings)
    assert same(tmp_path / "straight", tmp_path / "broken")
    assert again.held_out == straight.held_out
    assert again.steps == 12


def test_a_gan_learns_the_circle(tmp_path: Path) -> None:
    settings = replace(SETTINGS, stages=(ADVERSARIAL,), batch_size=64)
    before = fit(PointGAN(), tmp_path / "short", settings, "1steps").held_out
    after = fit(PointGAN(), tmp_path / "long", settings, "400steps")
    assert after.held_out < 0.2 * before
    log = (tmp_path / "long" / "progress.jsonl").read_text()
    assert '"loss_critic"' in log


def test_an_optimiser_moves_its_own_parameters_alone(tmp_path: Path) -> None:
    class Critical(PointGAN):
        def training_step(self, batch: dict[str, Tensor], optimizers: Optimizers) -> None:
            kept = {name: value.clone() for name, value in self.generator.state_dict().items()}
            optimizers.update("critic", batch, self.critic_loss)
            assert all(parameter.grad is None for parameter in self.parameters())
            assert all(torch.equal(value, kept[name]) for name, value in self.generator.state_dict().items())
            assert all(parameter.requires_grad for parameter in self.parameters())

    fitted = fit(Critical(), tmp_path, replace(SETTINGS, stages=(ADVERSARIAL,)), "2steps")
    assert all(torch.equal(value, PointGAN().state_dict()[name]) for name, value in fitted.trainee.state_dict().items() if "gen" in name)
    assert any(name.startswith("optimizer.critic.0.") for name in tensors(tmp_path))


def test_a_stage_freezes_what_it_does_not_train_and_begins_with_the_moving_average(tmp_path: Path) -> None:
    settings = replace(SETTINGS, stages=STAGES)
    made = trainer(TwoStages(), tmp_path, settings, "12steps", StopAt(9))
    with pytest.raises(Cancelled):
        made.fit()
    live, average = made.trainee.state_dict(), made.average.module.state_dict()
    for name, value in live.items():
        trained = name.startswith("prior")
        assert torch.equal(value, average[name]) is not trained, name
        assert torch.equal(value, TwoStages().state_dict()[name]) is False
    assert [name for name, value in made.trainee.named_parameters() if value.requires_grad] == [
        f"prior.{i}.{j}" for i in (0, 2) for j in ("weight", "bias")
    ]
    assert (read_counters(tmp_path) or {})["stage_step"] == 8


def test_parts_of_a_batch_add_up_to_the_whole(tmp_path: Path) -> None:
    whole = fit(TwoStages(), tmp_path / "whole", SETTINGS, "5steps").trainee.state_dict()
    parts = fit(TwoStages(), tmp_path / "parts", replace(SETTINGS, micro_batch_size=5), "5steps").trainee.state_dict()
    assert all(torch.allclose(value, parts[name], atol=2e-3) for name, value in whole.items())
    gan = replace(SETTINGS, stages=(ADVERSARIAL,), micro_batch_size=7)
    assert fit(PointGAN(), tmp_path / "gan", gan, "3steps").steps == 3


def test_a_group_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the optimiser main has nothing to train in decodr"):
        fit(TwoStages(), tmp_path, replace(SETTINGS, stages=(Stage(groups={"main": Group(modules=("decodr",))}),)))


def test_after_a_minute_it_says_what_the_whole_will_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

    monkeypatch.setattr("calotype.train.loop.time", Clock())
    heard = Recorder()
    fit(TwoStages(), tmp_path, SETTINGS, "200steps", events=heard)
    told = [note for note in heard.notes if "in the first minute" in note]
    assert len(told) == 1
    assert "of 16 samples in the first minute, the other " in told[0]
