"""Pictures with masks: every kind of file, every fault in one go, windows by number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from calotype.data.raw import Intensity, read_labels, read_raw
from calotype.data.segmentation_folder import (
    Pair,
    SegmentationFolder,
    SegmentationTensors,
    UnlabelledFolder,
    write_segmentation,
)
from calotype.data.windows import SegmentationWindows
from calotype.errors import DataError, InputError
from tests.recorder import Recorder


def save(path: Path, array: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.asarray(array)).save(path)
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def label(*sides: int, value: int = 255) -> np.ndarray:
    mask = np.zeros(sides, dtype=np.uint8)
    mask[4:12, 4:12] = value
    return mask


def folder(home: Path, count: int = 4, sides: tuple[int, int] = (24, 20)) -> Path:
    for number in range(count):
        save(home / "images" / f"p{number}.png", noise(number, *sides))
        save(home / "masks" / f"p{number}.png", label(*sides))
    return home


def test_pairs_are_read_with_their_classes_and_patients(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "table.csv").write_text(
        "stem,patient,split,stain\np0,anna,train,blue\np1,anna,train,red\np2,ben,val,blue\np3,cem,test,red\n"
    )
    recorder = Recorder()
    data = SegmentationFolder.open(tmp_path, events=recorder)
    assert (data.num_classes, data.channels, data.spatial_dims, data.class_values) == (2, 1, 2, (0, 255))
    assert data.columns("stain") == ["blue", "red", "blue", "red"]
    assert any("values are 0, 255; 0 is the background" in note for note in recorder.notes)
    rows = data.rows([1])
    assert torch.equal(rows["image"][0, 0], torch.from_numpy(noise(1, 24, 20) / np.float32(255)))
    assert torch.equal(rows["mask"][0], torch.from_numpy((label(24, 20) > 0).astype(np.int64)))
    train, held_out = data.split(0.1)
    assert (train.patients, held_out.patients) == (("anna", "anna"), ("ben",))


def test_ten_faults_give_ten_lines(tmp_path: Path) -> None:
    folder(tmp_path, 13)
    images, masks = tmp_path / "images", tmp_path / "masks"
    (masks / "p1.png").unlink()
    save(masks / "p2.png", label(24, 24))
    save(masks / "p3.png", np.zeros((24, 20), dtype=np.uint8))
    save(masks / "p4.png", noise(4, 24, 20))
    (images / "p5.png").write_bytes((images / "p5.png").read_bytes()[:200])
    save(images / "p6.png", noise(6, 24, 20, 3))
    (masks / "p7.png").unlink()
    save(masks / "p7.jpg", label(24, 20))
    save(images / "p8.png", noise(0, 24, 20))
    save(images / "p9.png", noise(9, 18, 20))
    save(masks / "p9.png", label(18, 20))
    save(masks / "p10.png", np.dstack([label(24, 20), label(24, 20) * 0, label(24, 20)]))
    (tmp_path / "table.csv").write_text("stem,patient,split\np11,anna,train\np12,anna,val\n")
    with pytest.raises(DataError) as caught:
        SegmentationFolder.open(tmp_path, size_at_least=(20, 20))
    lines = caught.value.problems
    expected = [
        "p1: no mask", "p2.png: 24x24, its image has 20x24", "p3.png: no foreground", "p4.png: 2.. different values",
        "p5.png: .*(truncated|damaged)", "p6.png: 3 channels, the others have 1", "p7.jpg: .*JPEG",
        "p8.png: the same content as images/p0.png",
        "p9.png: 20x18, smaller than the window of 20x20", "p10.png: .*colours", "group anna: it is in 2 splits",
    ]  # fmt: skip
    for pattern in expected:
        assert sum(re.search(pattern, line) is not None for line in lines) == 1, (pattern, lines)
    assert len(lines) == len(expected)


@pytest.mark.parametrize(
    ("values", "classes", "words"),
    [
        ([0, 1, 254, 255], None, "look like a lossy file"),
        ([0, 7], (0, 1), "the values 7 are no class"),
    ],
)
def test_values_that_are_no_classes_are_told(tmp_path: Path, values: list[int], classes: Any, words: str) -> None:
    folder(tmp_path)
    mask = label(24, 20, value=values[-1])
    mask[0, : len(values)] = values
    save(tmp_path / "masks" / "p1.png", mask)
    with pytest.raises(DataError, match=words):
        SegmentationFolder.open(tmp_path, classes=classes)


def test_classes_may_be_named_ordered_and_merged(tmp_path: Path) -> None:
    folder(tmp_path, 3)
    mask = label(24, 20, value=7)
    mask[20:, :] = 3
    save(tmp_path / "masks" / "p0.png", mask)
    ordered = SegmentationFolder.open(tmp_path, classes=(0, 7, 3, 255))
    assert set(ordered.rows([0])["mask"].unique().tolist()) == {0, 1, 2}
    assert int(ordered.rows([0])["mask"][0, 5, 5]) == 1
    merged = SegmentationFolder.open(tmp_path, merge=True)
    assert (merged.num_classes, merged.rows([0])["mask"].unique().tolist()) == (2, [0, 1])
    assert ordered.fingerprint != merged.fingerprint


def test_sixteen_bits_and_units_keep_their_depth(tmp_path: Path) -> None:
    deep = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20) * 100
    assert np.array_equal(read_raw(save(tmp_path / "a.png", deep)).values[0], deep)
    assert np.array_equal(read_raw(save(tmp_path / "a.tif", deep)).values[0], deep)
    assert read_raw(tmp_path / "a.tif").depth == 16
    save(tmp_path / "b.png", noise(0, 24, 20))
    with pytest.raises(InputError, match="8 bits a sample, and the intensities 0 to 4095 are those of 16 bits"):
        Intensity(16, 0, 4095).to_unit(read_raw(tmp_path / "b.png"))


def test_slices_and_volumes_of_nifti(tmp_path: Path) -> None:
    for home, sides in (("flat", (24, 20, 1)), ("whole", (24, 20, 18))):
        for number in range(3):
            values = np.random.default_rng(number).normal(100, 30, sides).astype(np.float32)
            for part, array in (("images", values), ("masks", (values > 110).astype(np.uint8))):
                (tmp_path / home / part).mkdir(parents=True, exist_ok=True)
                nibabel.Nifti1Image(array, np.diag([1, 1, 2, 1])).to_filename(tmp_path / home / part / f"s{number}.nii.gz")
    recorder = Recorder()
    flat, whole = (SegmentationFolder.open(tmp_path / home, events=recorder) for home in ("flat", "whole"))
    assert (flat.spatial_dims, whole.spatial_dims, whole.class_values) == (2, 3, (0, 1))
    assert any("become 0 to 1" in note for note in recorder.notes)
    assert flat.rows([0])["image"].shape == (1, 1, 24, 20)
    assert whole.rows([0, 1])["mask"].shape == (2, 24, 20, 18)
    windows = SegmentationWindows(whole, (8, 8, 8))
    assert windows.rows([3])["mask"].shape == (1, 8, 8, 8)


def test_a_slice_beside_a_picture_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, 3, (20, 20))
    (tmp_path / "masks" / "p0.png").unlink()
    nibabel.Nifti1Image(label(20, 20), np.eye(4)).to_filename(tmp_path / "masks" / "p0.nii")
    with pytest.raises(DataError, match="order their axes in two ways"):
        SegmentationFolder.open(tmp_path)


def test_fractions_and_negative_numbers_are_no_labels(tmp_path: Path) -> None:
    for name, array, words in (("a", np.full((20, 20), 0.5), "fractions"), ("b", np.full((20, 20), -1.0), "holds -1")):
        nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)).to_filename(tmp_path / f"{name}.nii")
        with pytest.raises(InputError, match=words):
            read_labels(tmp_path / f"{name}.nii")


def test_a_palette_keeps_its_numbers(tmp_path: Path) -> None:
    picture = Pillow.fromarray(label(20, 20, value=2), mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    assert np.unique(read_labels(tmp_path / "a.png")).tolist() == [0, 2]


def test_pictures_alone_have_patients_too(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"s{number}.png", noise(number, 24, 20, 3))
    (tmp_path / "table.csv").write_text("file_name,patient\ns0.png,anna\ns1.png,anna\n")
    data = UnlabelledFolder.open(tmp_path)
    assert (data.channels, data.patients) == (3, ("anna", "anna", "s2"))
    assert SegmentationWindows(data, (16, 16)).rows([0, 1])["image"].shape == (2, 3, 16, 16)


@settings(max_examples=15, deadline=None)
@given(depth=st.sampled_from([8, 16]), classes=st.integers(2, 5), seed=st.integers(0, 99))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, depth: int, classes: int, seed: int) -> None:
    home = tmp_path_factory.mktemp("written") / "data"
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 1, 16, 18, generator=generator)
    masks = torch.randint(classes, (3, 16, 18), generator=generator)
    values = tuple(range(0, 40 * classes, 40))
    rows = [Pair(f"deep/r{i}", images[i], masks[i], {"patient": f"p{i}", "hue": 0.25 * i}) for i in range(3)]
    write_segmentation(home, rows, class_values=values, depth=depth)
    data = SegmentationFolder.open(home, classes=values, intensity=(0, 2**depth - 1), empty_masks=True)
    read = data.rows([0, 1, 2])
    assert torch.equal(read["mask"], masks)
    assert float((read["image"] - images).abs().max()) <= 0.51 / (2**depth - 1)
    assert data.columns("hue") == ["0.0", "0.25", "0.5"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    row = Pair("a", torch.rand(1, 16, 16), torch.zeros(16, 16, dtype=torch.int64))
    with pytest.raises(InputError, match="a is there twice"):
        write_segmentation(tmp_path / "made", [row, row])
    assert list(tmp_path.iterdir()) == []


def test_windows_are_a_function_of_their_number_and_favour_the_foreground() -> None:
    images = torch.rand(3, 1, 40, 40)
    masks = torch.zeros(3, 40, 40, dtype=torch.int64)
    masks[:, 5:8, 30:33] = 1
    data = SegmentationTensors(images, masks, ("a", "b", "c"))
    even, drawn = (SegmentationWindows(data, (10, 10), foreground=share).rows(range(60)) for share in (0.0, 1.0))
    again = SegmentationWindows(data, (10, 10), foreground=1.0).rows([59])
    assert torch.equal(again["image"][0], drawn["image"][59])
    assert drawn["mask"].flatten(1).amax(1).float().mean() == 1.0
    assert even["mask"].flatten(1).amax(1).float().mean() < 0.4
    train, held_out = SegmentationWindows(data, (10, 10)).split(0.3)
    assert set(train.pictures.patients).isdisjoint(held_out.pictures.patients)
    with pytest.raises(InputError, match="has no window"):
        SegmentationWindows(data, (41, 10))


def test_tensors_are_split_by_patient() -> None:
    data = SegmentationTensors(torch.rand(6, 1, 16, 16), torch.zeros(6, 16, 16, dtype=torch.int64), ("a", "a", "b", "b", "c", "c"))
    train, held_out = data.split(0.3)
    assert len(train) + len(held_out) == 6
    assert set(train.patients).isdisjoint(held_out.patients)
