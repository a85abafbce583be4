"""The recipe of toy-critters: what its networks see in each stage, what it writes, and how its gates are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import calotype
from calotype.core.events import SILENT
from calotype.embedded import train
from calotype.embedded.api import CHECKPOINTS
from calotype.embedded.critters import (
    EMPTY_POINTS,
    POINTS,
    CritterBatches,
    CrittersRecipe,
    TraineeCritters,
    correspondence_loss,
)
from calotype.embedded.validation_critters import TURN, left_right
from calotype.imaging.types import Image
from calotype.train.rng import BatchRng
from calotype.world.critters.anatomy import PARTS
from calotype.world.critters.cameras import TableCamera
from calotype.world.critters.raycasting import render_pictures
from calotype.world.critters.sampling import sample_critter_picture


class NarrowCritters(CrittersRecipe):
    settings = replace(CrittersRecipe.settings, batch_size=4, held_out=8, held_out_often=4, warmup_steps=4)
    train_count, tune_count, sheet_count = 8, 8, 1
    unet = {  # noqa: RUF012
        "block_out_channels": (32, 32), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}  # noqa: RUF012
    mixer = {"out_channels": 32}  # noqa: RUF012


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("toy-t2i", "toy-vae-wide"):
        (folder / name).symlink_to(CHECKPOINTS / name)
    return folder


@pytest.fixture(scope="module")
def made(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TraineeCritters, CritterBatches]:
    recipe = NarrowCritters()
    trainee = recipe.build(seed=0, start=None, checkpoints=home)
    folder = tmp_path_factory.mktemp("data")
    return trainee, recipe.source(trainee, split="train", seed=0, folder=folder, checkpoints=home, start=None, device="cpu")


def _batch(source: CritterBatches, step: int = 0) -> dict[str, Tensor]:
    return source.batch([0, 1, 2, 3], BatchRng(0, step, range(4), 4), augment=True)


def test_points_are_on_the_first_critter_and_then_beside_all(made: tuple[TraineeCritters, CritterBatches]) -> None:
    batch = _batch(made[1])
    part = batch["part"].flatten(1).gather(1, batch["points"])
    assert part.shape[1] == POINTS + EMPTY_POINTS
    assert bool((part[:, POINTS:] < 0).all())
    shown = [set(row[row >= 0].tolist()) for row in batch["part"].flatten(1)]
    for row, parts in zip(part[:, :POINTS], shown, strict=True):
        # Every part of some size is among the points, however much smaller than the body it is.
        assert len(set(row[row >= 0].tolist())) >= min(5, len(parts))


def test_each_stage_has_a_loss_and_gradients_of_its_own_network_alone(made: tuple[TraineeCritters, CritterBatches]) -> None:
    trainee, source = made
    networks: dict[str, nn.Module] = {"diffusion": trainee.denoiser.unet, "transformer": trainee.vit, "mixer": trainee.mixer}
    for stage, own in networks.items():
        trainee.enter(stage)
        trainee.zero_grad()
        losses = trainee(_batch(source))
        assert losses.shape == (4,)
        losses.mean().backward()
        for other in networks.values():
            assert any(parameter.grad is not None for parameter in other.parameters()) == (other is own)


def test_the_transformer_sees_mirrored_pictures_with_the_parts_where_they_were(made: tuple[TraineeCritters, CritterBatches]) -> None:
    trainee, source = made
    trainee.enter("transformer")
    batch = _batch(source)
    with torch.no_grad():
        one = trainee(batch | {"mirrored": torch.zeros(4)})
        turned = {name: batch[name].flip(-1) for name in ("pixels", "part", "place")}
        side = batch["part"].shape[-1]
        points = batch["points"] - batch["points"] % side + (side - 1 - batch["points"] % side)
        other = trainee(batch | turned | {"points": points, "mirrored": torch.ones(4)})
    # A picture that is mirrored twice is itself: the loss is that of the picture as it was.
    assert torch.allclose(one, other, atol=1e-4)


def test_the_loss_is_least_for_descriptors_of_the_places(made: tuple[TraineeCritters, CritterBatches]) -> None:
    batch = _batch(made[1])
    one_hot = functional.one_hot(batch["part"] + 1, len(PARTS) + 1).permute(0, 3, 1, 2).float()
    blind = one_hot.clone()
    for limb in ("arm", "leg", "eye"):
        left, right = (1 + PARTS.index(f"{limb}_{side}") for side in ("left", "right"))
        blind[:, left] += blind[:, right]
        blind[:, right] = blind[:, left]
    noise = torch.randn(one_hot.shape, generator=torch.Generator().manual_seed(0))
    known, mixed, nothing = (correspondence_loss(maps, batch).mean() for maps in (one_hot, blind, noise))
    assert known < mixed < nothing


class _Oracle:
    """Descriptors that are the parts themselves; the transformer's with left and right as one."""

    def __init__(self, count: int) -> None:
        self.known: list[tuple[Tensor, Tensor]] = []
        for options in ({"turn": TURN, "crowded": 0.0}, {}):
            pictures = [sample_critter_picture(split="tune", seed=5, index=index, **options) for index in range(2 * count)]
            seen = render_pictures([scene for scene, _ in pictures], [camera for _, camera in pictures], 128)
            self.known += list(zip(seen.image, seen.part[:, 2::4, 2::4], strict=True))

    def maps(self, image: Image) -> dict[str, Tensor]:
        part = next(part for pixels, part in self.known if torch.equal(pixels, image.pixels))
        known = functional.one_hot(part + 1, len(PARTS) + 1).permute(2, 0, 1).float()
        both = known.clone()
        for limb in ("arm", "leg"):
            left, right = (1 + PARTS.index(f"{limb}_{side}") for side in ("left", "right"))
            both[left] = both[right] = known[left] + known[right]
        return {"diffusion": known, "vit": both}


def test_parts_as_descriptors_are_always_right_and_merged_sides_are_not() -> None:
    figures = left_right(_Oracle(5), split="tune", seed=5, count=5, events=SILENT)
    assert figures["left_right"] == figures["arm_hit"] == figures["left_right_any_view"] == 1.0
    assert figures["arm_hit_transformer"] == 1.0
    assert 0.2 < figures["left_right_transformer"] < 0.8
    assert figures["clicks_on_arms"] >= 6


def test_it_trains_ships_and_goes_on(home: Path, tmp_path: Path) -> None:
    first = train("toy-critters", budget="6steps", out=tmp_path / "one", checkpoints=home, recipe=NarrowCritters(), device="cpu")
    assert first.exported
    assert not any((home / "toy-critters" / name).exists() for name in ("vae", "text_encoder", "tokenizer"))
    model = calotype.load(str(home / "toy-critters"), device="cpu")
    assert model.role == "DescriptorModel"
    maps = model.maps(Image(torch.rand(3, 128, 128)))
    assert maps["diffusion"].shape == (32, 32, 32)
    assert maps["vit"].shape == (16, 16, 16)
    again = train("toy-critters", budget="3steps", out=tmp_path / "one", checkpoints=home, recipe=NarrowCritters(), device="cpu")
    assert again.held_out_before is not None


def test_a_camera_of_another_shape_gives_another_picture() -> None:
    scene, camera = sample_critter_picture(split="tune", seed=5, index=0)
    wide = TableCamera(eye=camera.eye, target=camera.target, focal=camera.focal, across=1.5)
    narrow, broad = (render_pictures([scene], [one], 64, samples=1) for one in (camera, wide))
    assert torch.equal(narrow.part[0], broad.part[0, :, 16:-16])
