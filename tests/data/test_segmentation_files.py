"""What a folder of pairs is told about: hints in one line, grids that are apart, X-ray files, and what is remembered of a check."""

from __future__ import annotations

import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from calotype.data import segmentation_files
from calotype.data.raw import Intensity, labels_on_grid, read_raw
from calotype.data.segmentation_folder import SegmentationFolder, UnlabelledFolder
from calotype.errors import DataError
from tests.data.test_segmentation_folder import folder, label, noise, save
from tests.recorder import Recorder


def lines(home: Path, **more: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        SegmentationFolder.open(home, **more)
    return caught.value.problems


def notes(home: Path, **more: Any) -> str:
    recorder = Recorder()
    SegmentationFolder.open(home, events=recorder, **more)
    return "\n".join(recorder.notes)


def xray(path: Path, stored: np.ndarray, *, inverted: bool = False, placed: bool = False) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PixelRepresentation = *stored.shape, 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    if placed:
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 2, 3], [1, 0, 0, 0, 1, 0], [0.5, 0.25]
    dataset.PixelData = stored.astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def test_names_that_never_match_are_one_line(tmp_path: Path) -> None:
    folder(tmp_path)
    for path in sorted((tmp_path / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert lines(tmp_path) == ("no image and mask have the same name (images/p0.png, masks/p0_mask.png, ...); rename them alike",)
    shutil.rmtree(tmp_path / "masks")
    (found,) = lines(tmp_path)
    assert found.startswith("there are no masks in masks/")


def test_foreground_that_is_1_in_some_files_and_255_in_others(tmp_path: Path) -> None:
    folder(tmp_path)
    save(tmp_path / "masks" / "p2.png", label(24, 20, value=1))
    assert lines(tmp_path) == ("masks/p2.png: its foreground is 1, the others' 255; save all alike, merge them, or name the classes",)
    assert SegmentationFolder.open(tmp_path, merge=True).rows([0, 2])["mask"].amax((1, 2)).tolist() == [1, 1]
    assert SegmentationFolder.open(tmp_path, classes=(0, 1, 255)).num_classes == 3


def test_a_fault_of_all_files_is_one_line(tmp_path: Path) -> None:
    folder(tmp_path)
    assert lines(tmp_path, size_at_least=(64, 64)) == (
        "all 4 pictures are smaller than the window of 64x64, such as 20x24; take a smaller window",
    )
    assert lines(tmp_path, classes=(0, 7)) == ("all 4 masks have values that are no class (255); the classes are 0, 7",)


def test_smoothed_edges_are_told_from_many_classes(tmp_path: Path) -> None:
    folder(tmp_path)
    large = Pillow.fromarray(label(24, 20)).resize((200, 240), Pillow.Resampling.BILINEAR).resize((20, 24), Pillow.Resampling.BICUBIC)
    save(tmp_path / "masks" / "p1.png", large)
    (found,) = lines(tmp_path)
    assert "only along edges" in found
    steps = np.repeat(np.repeat(np.arange(30, dtype=np.uint8).reshape(6, 5) * 8, 4, 0), 4, 1)
    save(tmp_path / "masks" / "p1.png", steps)
    assert SegmentationFolder.open(tmp_path).num_classes == 31


def test_numbered_objects_become_one_class(tmp_path: Path) -> None:
    sides = (60, 60)
    for number in range(3):
        objects = np.kron(np.arange(400).reshape(20, 20) % 101, np.ones((3, 3), dtype=int)).astype(np.uint16)
        save(tmp_path / "images" / f"p{number}.png", noise(number, *sides))
        save(tmp_path / "masks" / f"p{number}.png", objects)
    assert all("merge makes one class" in line for line in lines(tmp_path))
    data = SegmentationFolder.open(tmp_path, merge=True)
    assert (data.num_classes, data.rows([0])["mask"].unique().tolist()) == (2, [0, 1])
    assert abs(float(data.rows([0])["mask"].float().mean()) - (1 - 4 / 400)) < 1e-3


@pytest.mark.parametrize(("shift", "refused"), [(0.0, False), (0.05, False), (3.0, True)])
def test_a_mask_beside_its_image_is_refused(tmp_path: Path, shift: float, refused: bool) -> None:
    for number in range(2):
        values = np.random.default_rng(number).normal(100, 30, (18, 17, 16)).astype(np.float32)
        for part, array in (("images", values), ("masks", (values > 110).astype(np.uint8))):
            affine = np.diag([1.0, 1.0, 2.0, 1.0])
            affine[:3, 3] = [-90, 40, -20 + (shift if part == "masks" and number else 0)]
            (tmp_path / part).mkdir(exist_ok=True)
            nibabel.Nifti1Image(array, affine).to_filename(tmp_path / part / f"s{number}.nii.gz")
    if refused:
        assert lines(tmp_path) == (
            "masks/s1.nii.gz: it lies up to 3 mm beside its image (their affines differ); resample it onto the image's grid",
        )
    else:
        assert SegmentationFolder.open(tmp_path).spatial_dims == 3


def test_an_x_ray_without_a_place_is_a_picture_and_bright_is_dense(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (24, 20))
    xray(tmp_path / "images" / "a.dcm", stored)
    xray(tmp_path / "images" / "b.dcm", 4095 - stored[::-1], inverted=True)
    xray(tmp_path / "images" / "c.dcm", stored.T[:20].T, placed=True)
    plain, turned, placed = (read_raw(tmp_path / "images" / f"{name}.dcm") for name in "abc")
    assert plain.volume is None
    assert np.array_equal(plain.values[0], stored)
    assert np.array_equal(turned.values[0], stored[::-1])
    assert placed.volume is not None
    assert placed.volume.spacing == pytest.approx((0.25, 0.5, 1.0))
    assert np.array_equal(placed.volume.to_numpy()[..., 0].T, placed.values[0])
    for name in "abc":
        save(tmp_path / "masks" / f"{name}.png", label(24, 20))
    (tmp_path / "images" / "c.dcm").unlink()
    (tmp_path / "masks" / "c.png").unlink()
    data = SegmentationFolder.open(tmp_path, intensity=(0, 4095))
    assert data.rows([0])["image"][0, 0, 0, 0] == np.float32(stored[0, 0] / 4095)


def test_a_dicom_mask_lies_as_a_picture_does(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), dtype=np.uint8)
    mask[2:6, 10:18] = 1
    for number in range(2):
        (tmp_path / "images").mkdir(exist_ok=True)
        nibabel.Nifti1Image(noise(number, 20, 20).astype(np.float32), np.eye(4)).to_filename(tmp_path / "images" / f"{number}.nii")
        xray(tmp_path / "masks" / f"{number}.dcm", mask)
    assert all("two ways" in line for line in lines(tmp_path))
    shutil.rmtree(tmp_path / "images")
    for number in range(2):
        save(tmp_path / "images" / f"{number}.png", noise(number, 20, 20))
    assert np.array_equal(SegmentationFolder.open(tmp_path).rows([0])["mask"][0].numpy(), mask)


def test_what_is_converted_or_left_aside_is_noted(tmp_path: Path) -> None:
    folder(tmp_path)
    clear = np.dstack([noise(1, 24, 20, 3), np.full((24, 20), 255, dtype=np.uint8)])
    for number in range(4):
        clear[0, 0, 3] = 100 if number == 1 else 255
        clear[0, 1, 0] = number
        save(tmp_path / "images" / f"p{number}.png", clear)
    (tmp_path / "images" / "scan.mha").write_bytes(b"x")
    (tmp_path / "masks" / "notes.txt").write_text("x")
    told = notes(tmp_path)
    assert "images/p1.png: its transparency was laid over white" in told
    assert "images/scan.mha left aside" in told
    assert "notes.txt" not in told
    assert "no table.csv says which pictures are of one patient" in told
    (tmp_path / "table.csv").write_text("stem,patient\np0,anna\np1,anna\n")
    assert "2 of 4 pictures have no patient" in notes(tmp_path)


def test_a_second_check_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "data")
    manifest = tmp_path / "manifest.jsonl"
    first = SegmentationFolder.open(tmp_path / "data", manifest=manifest)
    monkeypatch.setattr(segmentation_files, "labels_on_grid", None)
    monkeypatch.setattr(segmentation_files, "read_raw", None)
    assert SegmentationFolder.open(tmp_path / "data", manifest=manifest).fingerprint == first.fingerprint


def test_accents_are_one_letter_however_they_are_spelled(tmp_path: Path) -> None:
    name = "Präparat für é"
    for number in range(2):
        save(tmp_path / "images" / "tief" / unicodedata.normalize("NFD", f"{name}{number}.png"), noise(number, 20, 20))
        save(tmp_path / "masks" / "tief" / unicodedata.normalize("NFC", f"{name}{number}.png"), label(20, 20))
    (tmp_path / "table.csv").write_text(
        f"file_name,patient\n{unicodedata.normalize('NFC', f'images/tief/{name}0.png')},Zoë\ntief/{name}1,Zoë\n", encoding="utf-8"
    )
    data = SegmentationFolder.open(tmp_path)
    assert data.patients == ("Zoë", "Zoë")
    assert data.rows([0, 1])["image"].shape == (2, 1, 20, 20)


def test_pictures_without_a_range_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        flat = np.zeros((50, 60), dtype=np.float32)
        flat[0, 0] = 1 + number
        save(tmp_path / "images" / f"{number}.tif", flat)
    with pytest.raises(DataError, match="they have no range"):
        UnlabelledFolder.open(tmp_path)
    assert UnlabelledFolder.open(tmp_path, intensity=(0, 2)).intensity == Intensity(0, 0, 2)


FAULTS = {
    "no mask": lambda image, mask: mask.unlink(),
    "no image": lambda image, mask: image.unlink(),
    "truncated": lambda image, mask: image.write_bytes(image.read_bytes()[:150]),
    "no picture": lambda image, mask: mask.write_bytes(b"hello"),
    "empty file": lambda image, mask: image.write_bytes(b""),
    "other size": lambda image, mask: save(mask, label(24, 22)),
    "nothing in it": lambda image, mask: save(mask, label(24, 20, value=0)),
    "colours": lambda image, mask: save(mask, noise(3, 24, 20, 3)),
    "in colour": lambda image, mask: save(image, noise(int(image.stem[1:]), 24, 20, 3)),
    "deep": lambda image, mask: save(image, noise(int(image.stem[1:]), 24, 20).astype(np.uint16) * 200),
    "value": lambda image, mask: save(mask, label(24, 20, value=7)),
    "a folder": lambda image, mask: (image.unlink(), image.mkdir(), (image / "x.txt").write_text("x")),
}


@settings(max_examples=25, deadline=None)
@given(faults=st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_exactly_the_faulty_rows_are_named(tmp_path_factory: pytest.TempPathFactory, faults: list[str], seed: int) -> None:
    home = folder(tmp_path_factory.mktemp("faults"), 10)
    rows = np.random.default_rng(seed).permutation(10)[: len(faults)]
    for number, fault in zip(rows, faults, strict=True):
        FAULTS[fault](home / "images" / f"p{number}.png", home / "masks" / f"p{number}.png")
    found = lines(home, classes=(0, 255))
    assert {int(re.findall(r"p(\d+)", line)[0]) for line in found} == set(rows.tolist())
    assert len(found) == len(faults)


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(-2000, 2000), span=st.floats(1, 5000), seed=st.integers(0, 999), depth=st.sampled_from([8, 16, 0]),
)  # fmt: skip
def test_intensities_come_back(low: float, span: float, seed: int, depth: Any) -> None:
    rule = Intensity(depth, low, low + span)
    values = np.random.default_rng(seed).uniform(low, low + span, (1, 4, 5)).astype(np.float32)
    values = np.rint(values).clip(np.ceil(low), np.floor(low + span)) if depth else values
    unit = rule.apply(values)
    assert float(unit.min()) >= 0
    assert float(unit.max()) <= 1
    assert np.abs(rule.restore(unit) - values).max() <= (0 if depth else 1e-3 * span)
    assert Intensity.of_json(rule.to_json()) == rule


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 65535), min_size=1, max_size=6, unique=True), seed=st.integers(0, 99), deep=st.booleans())
def test_any_labels_are_read_as_they_are(tmp_path_factory: pytest.TempPathFactory, values: list[int], seed: int, deep: bool) -> None:
    kept = values if deep else [value % 256 for value in values]
    labels = np.random.default_rng(seed).choice(kept, (17, 19)).astype(np.uint16 if deep else np.uint8)
    path = save(tmp_path_factory.mktemp("labels") / f"m.{'tif' if seed % 2 else 'png'}", labels)
    read, grid = labels_on_grid(path)
    assert np.array_equal(read, labels)
    assert grid is None
