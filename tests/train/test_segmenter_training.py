"""The training of a segmenter on a folder: what it makes, what it mixes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import calotype
from calotype.data.mixed import MixedData
from calotype.data.segmentation_folder import Pair, SegmentationTensors, write_segmentation
from calotype.errors import CalotypeError, Cancelled, DataError, InputError
from calotype.train.segmenter_training import SegmenterTraining, coloured, held_out_dice, pictured
from calotype.train.state import read_counters
from tests.recorder import Recorder
from tests.train.test_segmenter import discs

SMALL: dict[str, Any] = {
    "channels": (4, 8, 8), "window": (16, 16), "batch_size": 4, "held_out_windows": 8, "learning_rate": 5e-3, "ema_decay": 0.9,
}  # fmt: skip


def folder(path: Path, *, count: int = 6, side: int = 20, channels: int = 1, values: tuple[int, int] = (0, 255), seed: int = 0) -> Path:
    images, masks = discs(count, seed, side=side, channels=channels)
    rows = [
        Pair(f"{seed}-{number}", images[number], masks[number], {"patient": f"patient-{seed}-{number // 2}"}) for number in range(count)
    ]
    return write_segmentation(path, rows, class_values=values)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("data") / "real")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SegmenterTraining(**SMALL)(data, tmp_path_factory.mktemp("trained") / "model", budget="60steps", device="cpu")


def test_the_folder_is_a_segmenter_that_finds_the_discs(trained: Path) -> None:
    model = calotype.load(trained, device="cpu")
    assert (model.role, model.window, model.channels, model.class_values) == ("Segmenter", (16, 16), 1, (0, 255))
    assert model.intensity == {"depth": 8, "low": 0.0, "high": 255.0}
    images, masks = discs(8, 5, side=24)
    found = model.segment(images).argmax(1)
    assert (found == masks).float().mean() > 0.85
    assert (found[masks == 1]).float().mean() > 0.6
    metadata = json.loads((trained / "training.json").read_text())
    assert metadata["status"] == "finished"
    assert 0 < metadata["held_out_loss"] < 1.4


def test_sheets_show_pictures_and_tell_patients(trained: Path) -> None:
    with Image.open(trained / "training" / "sheets" / "0000060.png") as sheet:
        assert sheet.size == (3 * 2 * 16, 8 * 2 * 16)
    told = json.loads((trained / "training" / "sheets" / "0000060.json").read_text())
    assert told["pictures"] == 2
    ((patient, value),) = told["dice_by_patient"].items()
    assert patient.startswith("patient-0-")
    assert told["dice_by_class"]["255"] == pytest.approx(value, abs=1e-3)


def test_training_begins_with_a_segmenter_of_the_same_kind(data: Path, trained: Path, tmp_path: Path) -> None:
    out = SegmenterTraining(**SMALL)(data, tmp_path / "more", model=trained, budget="1steps", device="cpu")
    first, second = (calotype.load(path, device="cpu").network.state_dict() for path in (trained, out))
    assert all(torch.allclose(first[name], second[name], atol=0.05) for name in first)
    for change, message in (
        ({"channels": (4, 8, 16)}, r"has filters \[4, 8, 8\], and \[4, 8, 16\] is needed here"),
        ({"classes": (255, 0)}, r"has class_values \[0, 255\]"),
        ({"intensity": (0.0, 128.0)}, "has intensity"),
    ):
        with pytest.raises(InputError, match=message):
            SegmenterTraining(**{**SMALL, **change})(data, tmp_path / "other", model=trained, budget="1steps", device="cpu")
    with pytest.raises(InputError, match="toy-vae is of the role Autoencoder"):
        SegmenterTraining(**SMALL)(data, tmp_path / "third", model="toy-vae", budget="1steps", device="cpu")
    assert not any((tmp_path / name / "training.json").exists() for name in ("other", "third"))


def test_synthetic_pictures_are_mixed_in_and_never_held_out(data: Path, tmp_path: Path) -> None:
    made = folder(tmp_path / "made", seed=7)
    training, heard = SegmenterTraining(**SMALL, synthetic=str(made), ratio=(0.25, 0.75)), Recorder()
    mixed = training.data_set(data, tmp_path / "kept")
    assert isinstance(mixed, MixedData)
    parts = [mixed.place(number)[0] for number in range(2000)]
    assert np.mean(parts) == pytest.approx(0.75, abs=0.03)
    train, held_out = mixed.split(0.3)
    assert train.rows([0, 1, 2])["image"].shape == (3, 1, 16, 16)
    assert not set(held_out.pictures.patients) & set(train.parts[0].pictures.patients)
    assert all(patient.startswith("patient-0-") for patient in held_out.pictures.patients)
    assert mixed.fingerprint != SegmenterTraining(**SMALL).data_set(data, tmp_path / "kept").fingerprint
    training.check(mixed, heard)
    assert [note.partition(":")[0] for note in heard.notes] == ["data", "synthetic"]
    assert "6 pictures of 3 patients" in heard.notes[0]
    out = training(data, tmp_path / "out", budget="2steps", device="cpu")
    assert json.loads((out / "training.json").read_text())["synthetic"] == str(made)
    limited = SegmenterTraining(**SMALL, synthetic=str(made), intensity=(10.0, 200.0)).data_set(data, tmp_path / "kept")
    assert [part.pictures.intensity.low for part in limited.parts] == [10.0, 10.0]
    deep = write_segmentation(tmp_path / "deep", [Pair(f"d{i}", torch.rand(1, 20, 20), torch.eye(20).long()) for i in range(2)], depth=16)
    limited = SegmenterTraining(**SMALL, synthetic=str(made), intensity=(10.0, 60000.0)).data_set(deep, tmp_path / "kept-deep")
    assert [(part.pictures.intensity.depth, part.pictures.intensity.high) for part in limited.parts] == [(16, 60000.0), (8, 255.0)]
    coloured_ones = folder(tmp_path / "colour", seed=8, channels=3)
    with pytest.raises(InputError, match="its pictures have 3 channels, and those of data 1"):
        SegmenterTraining(**SMALL, synthetic=str(coloured_ones)).data_set(data, tmp_path / "kept")
    other = folder(tmp_path / "values", seed=9, values=(0, 200))
    with pytest.raises(DataError, match=r"no class \(200\)"):
        SegmenterTraining(**SMALL, synthetic=str(other)).data_set(data, tmp_path / "kept")


def test_an_interrupted_training_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    training = SegmenterTraining(**SMALL, colour=1.0, norm="batch")
    straight = training(data, tmp_path / "straight", budget="9steps", device="cpu")
    with pytest.raises(Cancelled):
        training(data, tmp_path / "broken", budget="9steps", device="cpu", events=Recorder(stop_after=6))
    assert 0 < (read_counters(tmp_path / "broken" / "training") or {})["step"] < 9
    assert not (tmp_path / "broken" / "network").exists()
    training(data, tmp_path / "broken", budget="9steps", device="cpu")
    first, second = (load_file(path / "network" / "model.safetensors") for path in (straight, tmp_path / "broken"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pictures_that_are_smaller_than_the_window_are_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        SegmenterTraining(**{**SMALL, "window": (32, 32)})(data, tmp_path / "out", budget="1steps", device="cpu")
    assert refused.value.problems == ("all 6 pictures are smaller than the window of 32x32, such as 20x20; take a smaller window",)
    with pytest.raises(InputError, match="the pictures of data need two sides, such as 64 64"):
        SegmenterTraining(**{**SMALL, "window": (8, 8, 8)})(data, tmp_path / "out", budget="1steps", device="cpu")
    assert not (tmp_path / "out" / "training.json").exists()


def test_held_out_dice_takes_patients_in_turn_and_skips_what_says_nothing() -> None:
    class Empty(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])], 1)

    trainee = SegmenterTraining(**SMALL).build(tensors(*discs(6, side=20)), seed=0)
    parameter, trainee.network = next(trainee.network.parameters()), Empty()
    trainee.network.register_parameter("weight", parameter)
    images, masks = discs(6, side=20)
    masks[4:] = 0
    told = held_out_dice(trainee, tensors(images, masks), most=3)
    assert told["pictures"] == 3
    assert told["dice_by_patient"] == {"0": 0.0, "1": 0.0, "2": None}
    assert told["dice_by_class"] == {"255": 0.0}


def tensors(images: torch.Tensor, masks: torch.Tensor) -> SegmentationTensors:
    data = SegmentationTensors(images, masks, tuple(str(number // 2) for number in range(len(images))))
    return data


def test_colours_of_a_sheet_tell_the_classes_apart() -> None:
    one_hot = torch.eye(4)[None].movedim(2, 1)[..., None]
    colours = coloured(one_hot)[0, :, :, 0].T
    assert torch.equal(colours[0], torch.zeros(3))
    assert torch.cdist(colours, colours).add(10 * torch.eye(4)).min() > 0.5
    assert coloured(torch.rand(2, 2, 5, 4, 3).softmax(1)).shape == (2, 3, 5, 4)
    assert pictured(torch.rand(2, 1, 5, 4, 3)).shape == (2, 3, 5, 4)


def test_volumes_are_trained_on_too(tmp_path: Path) -> None:
    images = torch.rand((4, 1, 10, 9, 8), generator=torch.Generator().manual_seed(0))
    data = SegmentationTensors(images, (images[:, 0] > 0.5).long(), ("a", "a", "b", "b"))
    training = SegmenterTraining(channels=(4, 4, 8), window=(8, 8, 8), batch_size=2)
    trainee = training.build(data, seed=0)
    source = training.source(trainee, data, "cpu")
    from calotype.train.rng import BatchRng

    batch = source.batch([0, 3], BatchRng(0, 0, range(2), 2), augment=True)
    with pytest.raises(CalotypeError):
        trainee.loss(torch.zeros(2, 2, 8, 8, 8), batch["mask"])
    cut = {"image": batch["image"][..., :8, :8, :8], "mask": batch["mask"][..., :8, :8, :8]}
    assert trainee(cut).shape == (2,)
    training.write(trainee, tmp_path / "model")
    assert calotype.load(tmp_path / "model", device="cpu").segment(images).shape == (4, 2, 10, 9, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": (0.2, 0.2)}, "two shares that sum to 1"),
        ({"intensity": (1.0,)}, "two numbers"),
        ({"lambda_dice": -1.0}, "neither may be below 0"),
        ({"colour": 3.0}, "between 0 and 1"),
        ({"window": (18, 16)}, "a multiple of 4"),
        ({"held_out_windows": 0}, "1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmenterTraining(**{**SMALL, **change})
