"""Training on a user's data: what is checked, what is refused, what a kill leaves, and that the result runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import calotype
from calotype.cli import app
from calotype.data import manifest
from calotype.errors import DataError, InputError
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff.training import QSMDiffTraining
from calotype.train.state import read_counters
from tests.recorder import Recorder

SMALL: dict[str, Any] = {
    "window": (16, 16, 16), "channels": (8, 8), "norm_num_groups": 4, "batch_size": 2, "held_out_windows": 4, "spacing": (4.0, 4.0, 4.0),
}  # fmt: skip
FLAGS = [
    "--window", "16", "16", "16", "--channels", "8", "8", "--norm-num-groups", "4", "--batch-size", "2", "--held-out-windows", "4",
    "--spacing", "4", "4", "4", "--device", "cpu",
]  # fmt: skip


def write_map(path: Path, seed: int, spacing: float = 4.0, *, mask: bool = True, scale: float = 1.0, unit: str = "ppm") -> None:
    """A ball of smooth noise, as large as a brain's map in ppm."""
    generator = np.random.Generator(np.random.PCG64(seed))
    side = round(64 / spacing)
    places = (np.indices((side,) * 3) - (side - 1) / 2) * spacing
    inside = (places**2).sum(0) < 28.0**2
    waves = sum(np.sin((places * generator.normal(0, 0.15, (3, 1, 1, 1))).sum(0) + generator.uniform(0, 6)) for _ in range(5))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    Volume.from_numpy(0.05 * waves * inside * scale, affine, unit).save(path.with_name(f"{path.name}_Chimap.nii.gz"))
    if mask:
        Volume.from_numpy(inside.astype(np.float32), affine).save(path.with_name(f"{path.name}_mask.nii.gz"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of six subjects of three voxel sizes, half of them with masks."""
    folder = tmp_path_factory.mktemp("maps")
    for number in range(6):
        write_map(folder / f"sub-{number:02d}", number, (4.0, 2.0, 5.0)[number % 3], mask=number % 2 == 0)
    return folder


@pytest.fixture(scope="module")
def straight(maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 steps without a break."""
    return QSMDiffTraining(**SMALL)(maps, tmp_path_factory.mktemp("straight") / "prior", budget="10steps", device="cpu")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = read_counters(folder / "training") or {}
    return {**load_file(folder / "unet" / "model.safetensors"), **load_file(folder / "training" / state["tensors"])}


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_killed_three_times_it_gives_the_same_bits(maps: Path, straight: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.train.killed", str(maps), str(tmp_path / "prior"), "10steps"]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=240)
    assert 7 <= (read_counters(tmp_path / "prior" / "training") or {})["step"] < 10
    QSMDiffTraining(**SMALL)(maps, tmp_path / "prior", budget="10steps", device="cpu")
    assert same(tmp_path / "prior", straight)


def test_the_folder_is_loaded_run_and_says_how_it_was_made(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = calotype.load(straight, device="cpu")
    assert (model.role, model.window, model.spacing) == ("VolumePrior", (16, 16, 16), (4.0, 4.0, 4.0))
    metadata = json.loads((straight / "training.json").read_text())
    assert (metadata["status"], metadata["method"], metadata["steps"], metadata["seed"]) == ("finished", "qsmdiff", 10, 0)
    assert metadata["settings"]["channels"] == [8, 8]
    assert 0 < metadata["held_out_loss"] < 3
    assert metadata["precision"] in ("float32", "bfloat16")
    assert "held-out loss" in (straight / "README.md").read_text()
    write_map(tmp_path / "head", 40)
    command = ["run", "qsmdiff", "--model", str(straight), "--field", str(tmp_path / "head_Chimap.nii.gz"), "--mask"]
    assert app.run([*command, str(tmp_path / "head_mask.nii.gz"), "--num-inference-steps", "2", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "chi.nii.gz").is_file()


def test_the_command_trains_tells_and_goes_on(maps: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prior"
    command = ["train", "qsmdiff", "--data", str(maps), "--out", str(out), "--budget", "10steps", *FLAGS]
    assert app.run([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] == 10
    assert "resampled to voxels of 4 x 4 x 4 mm (4 of 6 files)" in captured.err
    assert "6 maps of 6 subjects" in captured.err
    assert same(out, straight)
    assert app.run(command) == 0
    assert "finished already" in capsys.readouterr().err
    for change, words in (
        (["--seed", "3"], "holds a training with seed 0, not 3"),
        (["--learning-rate", "0.1"], "holds a training with learning_rate 0.001, not 0.1"),
        (["--budget", "11steps"], "holds a finished training of 10steps"),
    ):
        assert app.run([*command, *change]) == 2
        assert words in capsys.readouterr().err.replace("\n", " ")


def test_training_begins_with_a_checkpoint(maps: Path, straight: Path, tmp_path: Path) -> None:
    out = QSMDiffTraining(**SMALL)(maps, tmp_path / "more", model=straight, budget="1steps", seed=5, device="cpu")
    before, after = (load_file(folder / "unet" / "model.safetensors") for folder in (straight, out))
    assert all(torch.allclose(before[name], after[name], atol=0.02) for name in before)
    assert not (out / "training" / "start" / "training").exists()
    with pytest.raises(InputError, match=r"has channels \[8, 8\], and \[16, 16\] was asked for"):
        QSMDiffTraining(**{**SMALL, "channels": (16, 16)})(maps, tmp_path / "other", model=straight, budget="1steps", device="cpu")


def test_a_training_cannot_begin_with_what_means_something_else(maps: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    with pytest.raises(InputError, match="toy-vae is of the role Autoencoder; a prior begins with a VolumePrior"):
        QSMDiffTraining(**SMALL)(maps, out, model="toy-vae", budget="1steps", device="cpu")
    with pytest.raises(InputError, match="has prediction v_prediction, and epsilon was asked for"):
        QSMDiffTraining(**SMALL, prediction="epsilon")(maps, out, model=straight, budget="1steps", device="cpu")
    assert not out.exists()
    heard = Recorder()
    QSMDiffTraining(**SMALL, scale=0.1).check_start(straight, events=heard)
    assert heard.notes == ["the checkpoint to begin with knows scale 0.05, and learns 0.1 from here on"]


def test_every_problem_of_the_data_is_told_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "maps", tmp_path / "prior"
    folder.mkdir()
    for number in range(3):
        write_map(folder / f"sub-{number}", number)
    write_map(folder / "sub-7", 7, scale=1000.0, unit="")
    (folder / "sub-8_Chimap.nii.gz").write_bytes(b"nothing")
    shutil.copy(folder / "sub-2_Chimap.nii.gz", folder / "sub-20_Chimap.nii.gz")
    shutil.copy(folder / "sub-2_mask.nii.gz", folder / "sub-20_mask.nii.gz")
    values = np.full((8, 8, 8), 0.1)
    values[4, 4, 4] = np.nan
    Volume.from_numpy(values, np.eye(4), "ppm").save(folder / "sub-9_Chimap.nii.gz")
    Volume.from_numpy(np.ones((8, 8, 8)), np.eye(4)).save(folder / "sub-9_mask.nii.gz")
    with pytest.raises(DataError, match="4 of 7 files") as caught:
        QSMDiffTraining(**SMALL)(folder, out, budget="1steps", device="cpu")
    assert [line.split("_")[0] for line in caught.value.problems] == ["sub-2", "sub-7", "sub-8", "sub-9"]
    assert "give --map-unit ppb" in caught.value.problems[1]
    assert not out.exists()
    assert app.run(["train", "qsmdiff", "--data", str(folder), "--out", str(out), *FLAGS]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("  sub-") for line in lines) == 4
    assert not out.exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "holds no NIfTI volume"),
        (lambda folder: write_map(folder / "sub-0", 0), "has one subject"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_data_that_are_none_are_refused(make: Any, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    make(folder)
    with pytest.raises(InputError, match=words):
        QSMDiffTraining(**SMALL)(folder, tmp_path / "prior", budget="1steps", device="cpu")


def test_a_folder_with_other_things_is_left_alone(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("one")
    with pytest.raises(InputError, match="holds files that are no training's"):
        QSMDiffTraining(**SMALL)(maps, tmp_path / "thesis", budget="1steps", device="cpu")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize(
    "changes",
    [
        {"window": (17, 16, 16)},
        {"window": (8, 8, 8)},
        {"channels": (9, 8)},
        {"spacing": (0.0, 1.0, 1.0)},
        {"batch_size": 0},
        {"learning_rate": 2.0},
        {"scale": 1.0},
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        QSMDiffTraining(**{**SMALL, **changes})


def test_changed_data_are_another_training(maps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    shutil.copytree(maps, folder)
    training = QSMDiffTraining(**SMALL)
    training(folder, tmp_path / "prior", budget="1steps", device="cpu")
    write_map(folder / "sub-50", 50)
    heard = Recorder()
    with pytest.raises(InputError, match="holds a training with data"):
        training(folder, tmp_path / "prior", budget="1steps", device="cpu", events=heard)


def test_a_second_start_reads_no_map_that_is_as_it_was(maps: Path, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    record = manifest._record
    monkeypatch.setattr(manifest, "_record", lambda root, path, look: (read.append(path), record(root, path, look))[1])
    QSMDiffTraining(**SMALL)(maps, straight, budget="10steps", device="cpu")
    assert read == []
    lines = (straight / "training" / "data" / manifest.NAME).read_text().splitlines()
    assert len(lines) == 1 + 6 + 3
    assert json.loads(lines[1])["group"] == "sub-00"


def test_results_within_the_data_folder_are_refused(maps: Path) -> None:
    with pytest.raises(InputError, match="lies in the data folder"):
        QSMDiffTraining(**SMALL)(maps, maps / "prior", budget="1steps", device="cpu")
    assert not (maps / "prior").exists()


def test_a_map_that_changes_after_the_check_is_noticed(maps: Path, tmp_path: Path) -> None:
    shutil.copytree(maps, tmp_path / "maps")
    data = QSMDiffTraining(**SMALL).data_set(tmp_path / "maps", tmp_path / "kept")
    assert data.fingerprint
    for path in (tmp_path / "maps").glob("*_Chimap.nii.gz"):
        os.utime(path, (5, 5))
    with pytest.raises(InputError, match=r"Chimap\.nii\.gz changed since the training began"):
        data.rows([0])


def test_files_that_are_no_maps_by_their_names_are_left_aside_with_a_note(maps: Path, tmp_path: Path) -> None:
    shutil.copytree(maps, tmp_path / "maps")
    (tmp_path / "maps" / "sub-00_T1w.nii.gz").write_bytes(b"something else")
    training, heard = QSMDiffTraining(**SMALL), Recorder()
    training.check(training.data_set(tmp_path / "maps", tmp_path / "kept"), heard)
    assert [note for note in heard.notes if "left aside" in note] == [
        f"1 other NIfTI files in {tmp_path / 'maps'}, such as sub-00_T1w.nii.gz, are left aside: their names are no map's"
    ]
