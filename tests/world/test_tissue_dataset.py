"""Data sets of stained tissue on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from calotype.cli import app
from calotype.data.segmentation_folder import SegmentationFolder
from calotype.errors import Cancelled, InputError
from calotype.world.tissue import paint_tissue, sample_tissue
from calotype.world.tissue.dataset import write_tissue
from tests.recorder import Recorder


def test_a_folder_can_be_trained_on_and_holds_the_truth(tmp_path: Path) -> None:
    folder = write_tissue(tmp_path / "tissue", count=12, patients=6, size=40, seed=2, hues=(0.0, 0.4))
    data = SegmentationFolder.open(folder)
    assert (len(data), data.num_classes, data.channels, data.class_values) == (12, 3, 3, (0, 127, 255))
    assert len(set(data.patients)) == 6
    assert [data.patients.count(name) for name in sorted(set(data.patients))] == [2] * 6
    train, held_out = data.split(0.2, seed=0)
    assert (len(train), len(held_out)) == (10, 2)
    scene = sample_tissue(split="train", seed=2, index=7, hues=(0.0, 0.4), pictures_per_patient=2)
    made = paint_tissue([scene], 40)
    row = data.rows([7])
    assert float((row["image"] - made.image).abs().max()) <= 0.5 / 255 + 1e-6
    assert np.array_equal(row["mask"][0].numpy(), made.mask[0].numpy())
    assert float(data.columns("hue")[7]) == scene.style.hue
    coverage = np.load(folder / "coverage" / "000007.npy")
    assert np.abs(coverage - made.coverage[0].numpy()).max() < 1e-3
    second = np.asarray(PILImage.open(folder / "annotators" / "000007_2.png"))
    assert np.array_equal(second, np.array([0, 127, 255], dtype=np.uint8)[made.annotators[0, 1].numpy()])
    assert json.loads((folder / "dataset.json").read_text())["hues"] == [0.0, 0.4]


def test_each_split_of_the_world_is_called_by_its_use(tmp_path: Path) -> None:
    for split, called in (("tune", {"validation"}), ("eval", {"test"}), ("train", {"train", "validation"})):
        folder = write_tissue(tmp_path / split, variant="small", split=split, count=3, patients=3, size=16)
        lines = (folder / "table.csv").read_text().splitlines()[1:]
        assert {line.split(",")[2] for line in lines} == called
        assert sorted({int(value) for value in np.asarray(PILImage.open(folder / "masks" / "000000.png")).ravel()}) == [0, 255]
    alone = write_tissue(tmp_path / "one", count=2, patients=1, size=16)
    assert "validation" not in (alone / "table.csv").read_text()


def test_a_cancelled_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        write_tissue(tmp_path / "tissue", count=20, size=16, events=Recorder(stop_after=3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--variant", "huge"], "there is no variant 'huge' of the tissue world"),
        (["--patients", "200"], "200 patients can't share 100 pictures"),
        (["--hues", "0.4"], "--hues 0.4 isn't a range; give two numbers from 0 to 1, such as 0,0.4"),
        (["--hues", "0.4,0.2"], "hues are 0.4 to 0.2"),
        (["--noise", "3"], "the noise is 3"),
        (["--size", "8"], "size 8 (16 to 2048 px)"),
        (["--frames", "8"], "the preset tissue has no --frames; leave it out"),
        (["--preset", "small", "--hues", "0,1", "--smooth"], "the preset small has no --smooth; leave it out"),
        (["--preset", "brain", "--size", "32", "--noise", "0.1"], "the preset brain has no --size, --noise; leave them out"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str) -> None:
    assert app.run(["world", str(tmp_path / "out"), "--preset", "tissue", *flags]) == 2
    err = capsys.readouterr().err
    assert said in err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "slides"
    flags = [
        "--preset",
        "tissue",
        "--variant",
        "big",
        "--count",
        "3",
        "--patients",
        "3",
        "--size",
        "32",
        "--smooth",
        "--noise",
        "0.02",
        "--json",
    ]
    assert app.run(["world", str(out), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["variant"] == "big"
    assert (out / "images" / "000002.png").is_file()


def test_nothing_of_the_user_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError):
        write_tissue(tmp_path, count=1, overwrite=True)
