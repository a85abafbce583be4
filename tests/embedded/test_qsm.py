"""The recipe of toy-qsm: which patches it sees, that its loss is that of v, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import calotype
from calotype.core.schedule import VPSchedule
from calotype.embedded.export import read_gates
from calotype.embedded.qsm import Patches, QSMRecipe
from calotype.methods.qsmdiff.training import SCHEDULE, TraineeQSM, denoise
from calotype.train.rng import BatchRng
from calotype.world.brains.anatomy import sample_brain
from tests.train import narrow

NAME = "toy-qsm"
WINDOW, SCALE, LIMIT = QSMRecipe.training.window[0], QSMRecipe.training.scale, QSMRecipe.training.limit


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("brains")


def patches(folder: Path, split: str = "train", brains: int = 2, seed: int = 0) -> Patches:
    return Patches(split=split, seed=seed, device="cpu", brains=brains, folder=folder / f"{split}-{seed}")


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory) -> TraineeQSM:
    """The narrow network with all weights random, also those that MONAI begins with zeros."""
    made = narrow.NarrowQSM().build(seed=3, start=None, checkpoints=tmp_path_factory.mktemp("none"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.network.parameters():
            if not bool(parameter.any()):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def test_a_patch_is_its_number(brains: Path) -> None:
    source = patches(brains)
    rows = [0, 5, 3, 999_999]
    first = source.maps(rows)
    assert first.shape == (4, 1, WINDOW, WINDOW, WINDOW)
    assert torch.equal(first, patches(brains).maps(rows))
    assert torch.equal(first[[2, 0]], source.maps([3, 0]))
    assert len({float(part.double().sum()) for part in first}) == 4


def test_patches_are_cut_out_of_the_splits_own_brains_about_a_voxel_of_the_brain(brains: Path) -> None:
    """Each is found again, by its lowest value, in the brain or in its mirror image."""
    whole = sample_brain(split="tune", seed=0, index=0).susceptibility.half().float()
    half = WINDOW // 2
    sides = []
    for patch in patches(brains, "tune", brains=1).maps(range(12))[:, 0] * SCALE:
        assert float(patch.abs().max()) <= LIMIT
        for side, kept in (("as it is", patch), ("mirrored", patch.flip(0))):
            peak = torch.nonzero(kept == kept.min())[0]
            for place in torch.nonzero((whole - kept.min()).abs() < 1e-6):
                corner = (place - peak).tolist()
                box = tuple(slice(first, first + WINDOW) for first in corner)
                if min(corner) >= 0 and whole[box].shape == kept.shape and torch.allclose(whole[box], kept, atol=1e-6):
                    assert float(kept[half, half, half]) != 0
                    sides.append(side)
    assert len(sides) == 12
    assert set(sides) == {"as it is", "mirrored"}


def test_splits_and_seeds_have_other_brains(brains: Path) -> None:
    one, other, third = (patches(brains, *key).maps([0, 1]) for key in (("train",), ("tune", 1), ("train", 2, 4)))
    assert not torch.equal(one, other)
    assert not torch.equal(one, third)


def test_a_batch_has_its_noise_and_favours_low_levels(brains: Path) -> None:
    source = patches(brains)
    found = [source.batch([0, 1], BatchRng(0, step, range(2), 2), augment=True) for step in range(200)]
    again = source.batch([0, 1], BatchRng(0, 7, range(2), 2), augment=True)
    assert all(torch.equal(again[name], found[7][name]) for name in again)
    assert not torch.equal(found[7]["noise"], found[8]["noise"])
    times = torch.cat([batch["timesteps"] for batch in found]).double()
    assert times.min() >= 0
    assert times.max() <= 999
    # The mean of 1000 u^1.5 is 400, its median 354.
    assert abs(times.mean() - 400) < 20
    assert found[0]["noise"].std() == pytest.approx(1.0, abs=0.02)


def test_the_loss_is_nought_for_the_true_v(trainee: TraineeQSM) -> None:
    class Oracle(torch.nn.Module):
        """Knows the noise that is added, and finds v by x0 and x at each level."""

        def __init__(self, maps: torch.Tensor) -> None:
            super().__init__()
            self.maps = maps

        def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            alpha = VPSchedule.of(**SCHEDULE).alphas_cumprod[timesteps.long()].float().view(-1, 1, 1, 1, 1)
            return (alpha.sqrt() * x - self.maps) / (1 - alpha).sqrt()

    maps = torch.randn(3, 1, 4, 4, 4)
    batch = {"maps": maps, "noise": torch.randn(maps.shape), "timesteps": torch.tensor([40, 500, 990])}
    knowing = TraineeQSM(Oracle(maps))  # type: ignore[arg-type]
    assert float(knowing(batch).max()) < 1e-6
    x = batch["maps"] + 2.0 * batch["noise"]

    class AtLevel(torch.nn.Module):
        def forward(self, z: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return (z - (1 + 4.0) ** 0.5 * maps) / 2.0

    knowing.network = AtLevel()  # type: ignore[assignment]
    assert torch.allclose(denoise(knowing, x, 2.0), maps, atol=1e-5)


def test_what_is_exported_is_what_was_trained(trainee: TraineeQSM, brains: Path, tmp_path: Path) -> None:
    """8 bits a weight are all that is between the two; from the folder, training goes on from those."""
    recipe = narrow.NarrowQSM()
    source = patches(brains)
    recipe.export(trainee, source, tmp_path / NAME)
    model = calotype.load(tmp_path / NAME, device="cpu")
    assert (model.role, model.window, model.scale, model.limit, model.unit) == ("VolumePrior", (WINDOW,) * 3, SCALE, LIMIT, "ppm")
    maps = source.maps([0, 1])
    for sigma in (0.3, 3.0):
        x = maps + sigma * torch.randn(maps.shape, generator=torch.Generator().manual_seed(1))
        expected, found = denoise(trainee, x, sigma), model.denoiser()(x, sigma)
        share = float((expected - found).norm() / (expected - x / (1 + sigma**2)).norm())
        assert 0 < share < 0.03, (sigma, share)
    again = recipe.build(seed=0, start=tmp_path / NAME, checkpoints=tmp_path)
    state = again.network.state_dict()
    assert all(torch.equal(value, model.network.state_dict()[name]) for name, value in state.items())
    assert all(parameter.requires_grad for parameter in again.network.parameters())
    index = json.loads((tmp_path / NAME / "model_index.json").read_text())
    assert index["_class_name"] == "VolumePriorPipeline"


def test_it_trains_ships_and_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "checkpoints"
    first = narrow.run(NAME, tmp_path / "one", home, "2steps")
    assert first.exported  # type: ignore[attr-defined]
    assert read_gates(home)[NAME]["steps"] == 2
    model = calotype.load(home / NAME, device="cpu")
    assert model.role == "VolumePrior"
    assert (home / NAME / "README.md").is_file()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    again = narrow.run(NAME, tmp_path / "two", home, "1steps")
    assert again.held_out_before is not None  # type: ignore[attr-defined]
    started = narrow.NarrowQSM().build(seed=9, start=home / NAME, checkpoints=home)
    if not again.exported:  # type: ignore[attr-defined]
        assert all(torch.equal(value, before[name]) for name, value in started.network.state_dict().items())
    assert list((tmp_path / "one" / "sheets").glob("*.png"))
