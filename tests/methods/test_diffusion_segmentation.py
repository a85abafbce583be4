"""Diffusion segmentation from a folder of pictures and masks to a mask of a new file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import calotype
from calotype.backbones.diffusion_segmenter_network import Architecture
from calotype.backbones.segmenter_network import Architecture as FeedForwardArchitecture
from calotype.cli import app
from calotype.data.raw import Intensity
from calotype.data.segmentation_folder import Pair, write_segmentation
from calotype.errors import InputError
from calotype.imaging.types import Image, Volume
from calotype.methods.diffusion_segmentation import DiffusionSegmentation
from calotype.methods.diffusion_segmentation.files import LabelPicture, LabelVolume, _read_scan, _write_scan, as_scan, coloured
from calotype.methods.diffusion_segmentation.training import AnyArchitecture, DiffusionSegmentationTraining
from tests.data.test_dicom import series, turn
from tests.recorder import Recorder
from tests.train.test_segmenter import discs

SMALL: dict[str, Any] = {
    "channels": (8, 16), "norm_num_groups": 4, "window": (16, 16), "batch_size": 8, "held_out_windows": 8, "learning_rate": 5e-3,
    "ema_decay": 0.95,
}  # fmt: skip
FEW = DiffusionSegmentation(num_samples=3, num_inference_steps=6)


def folder(path: Path, *, depth: int = 8, values: tuple[int, int] = (0, 7)) -> Path:
    images, masks = discs(8, 0, side=20)
    rows = [Pair(f"{number}", images[number], masks[number], {"patient": f"p{number // 2}"}) for number in range(len(images))]
    return write_segmentation(path, rows, class_values=values, depth=depth)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 16-bit pictures and a model that was trained on them for a moment."""
    home = tmp_path_factory.mktemp("deep")
    data = folder(home / "data", depth=16)
    return data, DiffusionSegmentationTraining(**SMALL)(data, home / "model", budget="150steps", device="cpu")


def test_it_finds_discs_and_says_where_it_is_sure(deep: tuple[Path, Path]) -> None:
    data, trained = deep
    model = calotype.load(trained, device="cpu")
    overlaps, shares = [], []
    for name in range(8):
        recorder = Recorder()
        found = FEW(model, data / "images" / f"{name}.png", seed=1, events=recorder)
        truth = torch.from_numpy(np.asarray(Pillow.open(data / "masks" / f"{name}.png")).astype(np.int64))
        assert isinstance(found.mask, LabelPicture)
        assert set(found.mask.labels.unique().tolist()) <= {0, 7}
        assert found.mask.labels.shape == truth.shape
        overlaps.append(float(((found.mask.labels == 7) & (truth == 7)).sum() / ((found.mask.labels == 7) | (truth == 7)).sum()))
        shares.append(float((truth == 7).float().mean()))  # the overlap of a mask of everything
        assert isinstance(found.probability, Image)
        assert torch.equal(found.probability.pixels[0] > 0.5, found.mask.labels == 7)
        assert found.spread is not None
        assert 0 <= float(found.spread.pixels.min()) <= float(found.spread.pixels.max()) <= 1
        assert recorder.metrics["model_calls"] == 3 * 6 * 4
    assert sum(overlaps) > 2 * sum(shares)


def test_the_same_seed_gives_the_same_mask_and_other_fusions_others(deep: tuple[Path, Path]) -> None:
    data, trained = deep
    model, picture = calotype.load(trained, device="cpu"), data / "images" / "3.png"
    first, again = (FEW(model, picture, seed=4).probabilities for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, FEW(model, picture, seed=5).probabilities)
    vote = DiffusionSegmentation(num_samples=3, num_inference_steps=6, fuse="vote")(model, picture, seed=4).probabilities
    assert torch.allclose(vote * 3, (vote * 3).round(), atol=1e-5)
    staple = DiffusionSegmentation(num_samples=3, num_inference_steps=6, fuse="staple")(model, picture, seed=4).probabilities
    assert torch.allclose(staple.sum(0), torch.ones(20, 20), atol=1e-5)
    assert FEW.paper().num_inference_steps == 1000
    alone = DiffusionSegmentation(num_samples=1, num_inference_steps=3)(model, picture)
    assert alone.spread is None


def test_a_picture_of_another_kind_is_refused(deep: tuple[Path, Path], tmp_path: Path) -> None:
    model = calotype.load(deep[1], device="cpu")
    Pillow.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "eight.png")
    with pytest.raises(InputError, match="16 bits"):
        FEW(model, tmp_path / "eight.png")
    with pytest.raises(InputError, match="3 channels"):
        FEW(model, Image(torch.rand(3, 20, 20)))
    with pytest.raises(InputError, match="a volume and the model"):
        FEW(model, Volume(torch.zeros(20, 20, 3), torch.eye(4, dtype=torch.float64)))
    with pytest.raises(InputError, match="needs a segmenter"):
        FEW(object(), tmp_path / "eight.png")  # type: ignore[arg-type]


def test_without_diffusion_the_same_command_gives_one_mask(deep: tuple[Path, Path], tmp_path: Path) -> None:
    for number, changes in enumerate(({"architecture": "ensemdiff"}, {"architecture": "unet", "channels": (4, 8, 8)})):
        training = DiffusionSegmentationTraining(**{**SMALL, **changes, "objective": "feed-forward"})  # type: ignore[arg-type]
        model = calotype.load(training(deep[0], tmp_path / str(number), budget="5steps", device="cpu"), device="cpu")
        recorder = Recorder()
        found = FEW(model, deep[0] / "images" / "1.png", events=recorder)
        assert found.spread is None
        assert any("without diffusion" in note for note in recorder.notes)
        assert set(found.mask.class_values) == {0, 7}


def test_a_volume_keeps_its_grid_and_its_values(tmp_path: Path) -> None:
    affine = np.array([[0.0, 2.0, 0.1, 4], [-1.0, 0, 0, 7], [0, 0.2, 3.0, -2], [0, 0, 0, 1]])
    rng = np.random.default_rng(0)
    for number in range(4):
        for part in ("images", "masks"):
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
        labels = np.zeros((10, 12, 8), np.int16)
        labels[2:6, 3:9, 2:6], labels[6:9, 4:8, 2:5] = 3, 40
        values = (labels * 10 + rng.normal(0, 5, labels.shape)).astype(np.float32)
        nibabel.Nifti1Image(values, affine).to_filename(tmp_path / "data" / "images" / f"{number}.nii.gz")
        nibabel.Nifti1Image(labels, affine).to_filename(tmp_path / "data" / "masks" / f"{number}.nii.gz")
    training = DiffusionSegmentationTraining(**{**SMALL, "window": (8, 8, 8), "patch_size": 1, "batch_size": 2, "held_out_windows": 2})
    out = training(tmp_path / "data", tmp_path / "model", budget="2steps", device="cpu")
    model = calotype.load(out, device="cpu")
    assert (model.window, model.class_values) == ((8, 8, 8), (0, 3, 40))
    run = app.run([
        "run", "diffusion-segmentation", "--model", str(out), "--image", str(tmp_path / "data" / "images" / "1.nii.gz"),
        "--num-samples", "2", "--num-inference-steps", "2", "--out", str(tmp_path / "run"), "--quiet",
    ])  # fmt: skip
    assert run == 0
    made = nibabel.load(tmp_path / "run" / "mask.nii.gz")
    assert made.shape == (10, 12, 8)
    assert np.array_equal(made.affine, nibabel.load(tmp_path / "data" / "images" / "1.nii.gz").affine)
    assert np.issubdtype(made.get_data_dtype(), np.integer)
    assert set(np.unique(made.dataobj).tolist()) <= {0, 3, 40}
    assert nibabel.load(tmp_path / "run" / "probability.nii.gz").shape == (10, 12, 8)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["outputs"]["mask"]["kind"] == "label-volume"


def test_a_training_says_what_does_not_go_together(deep: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--objective feed-forward"):
        DiffusionSegmentationTraining(architecture="unetr")
    with pytest.raises(InputError, match="multiples of"):
        DiffusionSegmentationTraining(window=(30, 30))
    with pytest.raises(InputError, match="must divide"):
        DiffusionSegmentationTraining(channels=(12, 20))
    with pytest.raises(InputError, match="has prediction sample, and epsilon"):
        DiffusionSegmentationTraining(**SMALL, prediction="epsilon")(
            deep[0], tmp_path / "out", model=deep[1], budget="1steps", device="cpu"
        )
    assert not (tmp_path / "out" / "training.json").exists()


def test_a_training_goes_on_from_a_checkpoint(deep: tuple[Path, Path], tmp_path: Path) -> None:
    out = DiffusionSegmentationTraining(**SMALL)(deep[0], tmp_path / "out", model=deep[1], budget="1steps", device="cpu")
    first, second = (json.loads((one / "training.json").read_text())["held_out_loss"] for one in (deep[1], out))
    assert second < 1.3 * first


def test_all_architectures_can_be_asked_for() -> None:
    assert {*get_args(Architecture), *get_args(FeedForwardArchitecture)} == set(get_args(AnyArchitecture))


def test_scans_are_kept_to_the_bit(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    for value in (Image(torch.rand(3, 6, 5)), Volume(torch.randn(4, 5, 6), affine), Volume(torch.randn(4, 5, 1), affine)):
        scan = as_scan(value)
        _write_scan(scan, tmp_path / "scan.safetensors", {})
        again = _read_scan(tmp_path / "scan.safetensors")
        assert np.array_equal(again.raw.values, scan.raw.values)
        assert again.raw.depth == scan.raw.depth
        assert (again.raw.volume is None) == (scan.raw.volume is None)
        (tmp_path / "scan.safetensors").unlink()
    assert as_scan(scan) is scan
    (tmp_path / "no.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="no picture"):
        _read_scan(tmp_path / "no.safetensors")


def test_classes_can_be_told_apart_at_a_glance() -> None:
    shown = coloured(LabelPicture(torch.tensor([[0, 1], [2, 3]]), (0, 1, 2, 3)))
    assert len({tuple(shown.pixels[:, y, x].tolist()) for y in range(2) for x in range(2)}) == 4
    volume = LabelVolume(torch.zeros(2, 2, 2, dtype=torch.int64), (0, 1), torch.eye(4, dtype=torch.float64))
    assert volume.header == b""
    assert Intensity(8, 0, 255).to_json()["high"] == 255


def test_a_dicom_slice_lies_on_its_grid(tmp_path: Path) -> None:
    file = sorted(series(tmp_path / "series", turn(10, 20, 30)).iterdir())[0]
    scan = as_scan(file)
    assert scan.rows_first
    assert scan.raw.volume is not None
    assert torch.equal(scan.on_grid(torch.from_numpy(scan.raw.values[0])), scan.raw.volume.values)
    _write_scan(scan, tmp_path / "scan.safetensors", {})
    assert _read_scan(tmp_path / "scan.safetensors").rows_first
