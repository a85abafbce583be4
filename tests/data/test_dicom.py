"""DICOM series: where voxels lie, in whatever order the files come, and every folder that is refused."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel.testing
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, generate_uid

from calotype.data import as_volume, read_volume
from calotype.errors import InputError
from calotype.imaging.types import Volume
from tests.recorder import Recorder

COLUMNS, ROWS, SLICES = 9, 6, 5
COUNTS = np.random.default_rng(0).integers(-2000, 2000, (SLICES, ROWS, COLUMNS)).astype(np.int16)
ORIGIN = np.array([-21.5, 13.25, -40.0])
ROW_SPACING, COLUMN_SPACING, STEP = 0.75, 1.25, 2.5


def turn(x: float, y: float, z: float) -> np.ndarray:
    """A rotation by three angles in degrees."""
    made = np.eye(3)
    for axis, angle in enumerate(np.radians([x, y, z])):
        one = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        made = made @ one
    return made


def series(
    folder: Path,
    rotation: np.ndarray | None = None,
    *,
    step: np.ndarray | None = None,
    name: Callable[[int], str] = lambda k: f"IM{k:04d}",
    change: Callable[[int, Any], None] = lambda k, dataset: None,
    uid: str = "1.2.826.0.1.3680043.8.498.1",
    slope: Callable[[int], tuple[float, float]] = lambda k: (1.0, 0.0),
) -> Path:
    """Write one file a slice; `change` edits slice k before it is written."""
    folder.mkdir(exist_ok=True)
    axes = np.eye(3) if rotation is None else rotation
    step = axes[:, 2] * STEP if step is None else step
    for k in range(SLICES):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid, str(k)])
        dataset = FileDataset(str(folder / name(k)), {}, file_meta=meta, preamble=bytes(128))
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.SeriesInstanceUID, dataset.Modality, dataset.InstanceNumber = uid, "MR", 1
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = ROWS, COLUMNS, 1
        dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 1
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelSpacing = [ROW_SPACING, COLUMN_SPACING]
        dataset.ImageOrientationPatient = [f"{value:.12f}" for value in (*axes[:, 0], *axes[:, 1])]
        dataset.ImagePositionPatient = [f"{value:.10f}" for value in ORIGIN + k * step]
        dataset.RescaleSlope, dataset.RescaleIntercept = slope(k)
        dataset.PixelData = COUNTS[k].tobytes()
        change(k, dataset)
        dataset.save_as(folder / name(k), enforce_file_format=True)
    return folder


def read(folder: Path) -> tuple[Volume, list[str]]:
    notes = Recorder()
    return read_volume(folder, name="field", events=notes), notes.notes


def check_places(volume: Volume, rotation: np.ndarray, step: np.ndarray) -> None:
    """Every voxel against DICOM's own formula (part 3, C.7.6.2.1.1), with x and y turned round."""
    assert volume.size == (COLUMNS, ROWS, SLICES)
    affine = volume.affine.numpy()
    for i, j, k in itertools.product((0, COLUMNS - 1), (0, 2, ROWS - 1), range(SLICES)):
        left_back_up = ORIGIN + k * step + rotation[:, 0] * COLUMN_SPACING * i + rotation[:, 1] * ROW_SPACING * j
        place = affine @ [i, j, k, 1]
        assert np.allclose(place[:3], left_back_up * [-1, -1, 1], atol=1e-6)


@pytest.mark.parametrize("angles", [(0, 0, 0), (90, 0, 0), (0, 90, 0), (17, -31, 48), (-3, 2, 179)])
def test_every_voxel_lies_where_dicom_says(tmp_path: Path, angles: tuple[float, float, float]) -> None:
    rotation = turn(*angles)
    volume, notes = read(series(tmp_path / "s", rotation))
    check_places(volume, rotation, rotation[:, 2] * STEP)
    assert np.array_equal(volume.to_numpy(), COUNTS.transpose(2, 1, 0))
    assert notes == [f"field: 5 DICOM slices read from {tmp_path / 's'}, in the order of their places"]


@pytest.mark.parametrize("name", [lambda k: f"IM{9 - k}", lambda k: "cbaed"[k], lambda k: f"{(k * 3) % 5}.dcm"])
def test_the_names_of_the_files_do_not_count(tmp_path: Path, name: Callable[[int], str]) -> None:
    rotation = turn(20, 5, -10)
    volume, _ = read(series(tmp_path / "s", rotation, name=name))
    check_places(volume, rotation, rotation[:, 2] * STEP)
    assert np.array_equal(volume.to_numpy(), COUNTS.transpose(2, 1, 0))


def test_slices_against_the_normal_come_out_along_it(tmp_path: Path) -> None:
    """A series from top to bottom: the first slice of the array is the last one that was taken, and every value keeps its place."""
    volume, _ = read(series(tmp_path / "s", step=np.array([0.0, 0, -STEP])))
    assert np.array_equal(volume.to_numpy(), COUNTS[::-1].transpose(2, 1, 0))
    assert np.allclose(volume.affine.numpy() @ [0, 0, SLICES - 1, 1], [*(ORIGIN * [-1, -1, 1]), 1])


def test_a_tilted_gantry_is_a_sheared_axis(tmp_path: Path) -> None:
    step = np.array([0.0, 0.6, STEP])
    volume, _ = read(series(tmp_path / "s", step=step))
    check_places(volume, np.eye(3), step)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    volume, _ = read(series(tmp_path / "s", slope=lambda k: (0.5 + k, -10.0 * k)))
    expected = COUNTS * (0.5 + np.arange(SLICES))[:, None, None] - 10.0 * np.arange(SLICES)[:, None, None]
    assert np.allclose(volume.to_numpy(), expected.transpose(2, 1, 0))
    hounsfield, _ = read(series(tmp_path / "ct", change=lambda k, dataset: setattr(dataset, "RescaleType", "HU")))
    assert (volume.unit, hounsfield.unit) == ("", "HU")


def test_other_files_in_the_folder_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = series(tmp_path / "s")
    (folder / "notes.txt").write_text("slice 3 moved")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "DICOMDIR").write_bytes(b"x")
    volume, notes = read(folder)
    assert volume.size == (COLUMNS, ROWS, SLICES)
    assert notes[0] == f"field: 1 files in {folder} are no DICOM and were left out"


def test_a_series_becomes_the_nifti_file_that_nibabel_reads(tmp_path: Path) -> None:
    rotation = turn(17, -31, 48)
    volume = as_volume(series(tmp_path / "s", rotation))
    volume.save(tmp_path / "v.nii.gz")
    image = nibabel.load(tmp_path / "v.nii.gz")
    assert np.allclose(image.affine, volume.affine.numpy(), atol=1e-4)
    assert np.allclose(image.header.get_qform(), volume.affine.numpy(), atol=1e-4)
    assert np.array_equal(image.get_fdata(), COUNTS.transpose(2, 1, 0))


def test_files_of_real_scanners(tmp_path: Path) -> None:
    """A CT series and folders that hold several things, which pydicom brings along; Siemens' mosaics, which nibabel does."""
    own = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests"
    volume, _ = read(own / "98892001" / "CT5N")
    assert volume.size == (16, 16, 5)
    assert volume.spacing == pytest.approx((0.488281, 0.488281, 2.5))
    files = sorted((own / "98892001" / "CT5N").iterdir())
    lowest = min((pydicom.dcmread(file) for file in files), key=lambda dataset: dataset.ImagePositionPatient[2])
    assert np.array_equal(volume.to_numpy()[..., 0], (lowest.pixel_array * lowest.RescaleSlope + lowest.RescaleIntercept).T)
    assert np.allclose(volume.affine.numpy()[:3, 3], np.array(lowest.ImagePositionPatient, dtype=float) * [-1, -1, 1])
    for folder, match in (("98892003/MR1", "holds 3 series in 3 files"), ("77654033/CT2", "slices are missing")):
        with pytest.raises(InputError, match=match):
            read(own / folder)
    shutil.copy(Path(nibabel.testing.data_path) / "0.dcm", tmp_path / "0.dcm")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="several slices") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def only(k: int, **values: Any) -> Callable[[int, Any], None]:
    """Change fields of slice k alone (of all, if k is negative); None deletes one."""

    def change(at: int, dataset: Any) -> None:
        for field, value in values.items():
            if k in (at, -1) and value is None:
                delattr(dataset, field)
            elif k in (at, -1):
                setattr(dataset, field, value)

    return change


def echoes(k: int, dataset: Any) -> None:
    dataset.EchoTime = 5 + k
    dataset.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + STEP * (k // 2)]


def compressed(k: int, dataset: Any) -> None:
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4fno codestream"])
    dataset["PixelData"].is_undefined_length = True


CHANGES: dict[str, tuple[Callable[[int, Any], None], str]] = {
    "series": (only(3, SeriesInstanceUID="1.2.3"), "holds 2 series in 5 files"),
    "frames": (only(0, NumberOfFrames=12), "enhanced, multi-frame or mosaic DICOM"),
    "enhanced": (only(0, PerFrameFunctionalGroupsSequence=[pydicom.Dataset()]), "enhanced, multi-frame or mosaic DICOM"),
    "mosaic": (only(-1, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), "enhanced, multi-frame or mosaic DICOM"),
    "no place": (only(2, ImagePositionPatient=None), "has no ImagePositionPatient"),
    "no orientation": (only(2, ImageOrientationPatient=None), "has no ImageOrientationPatient"),
    "no spacing": (only(2, PixelSpacing=None), "has no PixelSpacing"),
    "half a place": (only(2, ImagePositionPatient=[1, 2]), "has no ImagePositionPatient"),
    "colours": (only(1, SamplesPerPixel=3), "holds colours"),
    "turned": (only(4, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "IM0004 differs from IM0000 in size, pixel spacing or orientation"),
    "spacing": (only(4, PixelSpacing=[1, 1]), "IM0004 differs from IM0000"),
    "size": (only(4, Rows=4), "IM0004 differs from IM0000"),
    "no direction": (only(-1, ImageOrientationPatient=[0, 0, 0, 0, 1, 0]), "no pair of directions"),
    "flat": (only(-1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "no pair of directions"),
    "echoes": (echoes, r"several slices at the same place \(they differ in their echo times\)"),
    "uneven": (only(4, ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + 4.3 * STEP]), "not evenly spaced: IM0003 and IM0004"),
    "gap": (only(4, ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + 6 * STEP]), "2 slices are missing: IM0003 and IM0004 lie 7.5 mm apart"),
    "sideways": (only(2, ImagePositionPatient=[ORIGIN[0] + 5, ORIGIN[1], ORIGIN[2] + 2 * STEP]), "IM0002 lies 5 mm beside the line"),
    "no pixels": (only(3, PixelData=None), "the pixels of .*IM0003 can't be decoded"),
    "short pixels": (only(3, PixelData=b"\0\0"), "the pixels of .*IM0003 can't be decoded"),
    "compressed": (compressed, "the pixels of .*IM0000 can't be decoded .*; convert the series with dcm2niix"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_series_that_are_no_volume_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    change, match = CHANGES[case]
    with pytest.raises(InputError, match=match) as caught:
        read(series(tmp_path / "s", change=change))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("field: ")


def test_folders_that_are_no_series_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            read(folder)
        assert "\n" not in str(caught.value)

    folder = series(tmp_path / "s")
    refused(tmp_path, "holds no DICOM files, but folders such as s")
    refused(folder / "IM0000", "a single DICOM file; give the folder")
    for k in range(1, SLICES):
        (folder / f"IM{k:04d}").unlink()
    refused(folder, "holds 1 slice; a volume needs at least 2")
    whole = (folder / "IM0000").read_bytes()
    (folder / "IM0001").write_bytes(whole)
    for length in (200, 800, len(whole) - 20):
        (folder / "IM0000").write_bytes(whole[:length])
        refused(folder, "field: ")
    for file in folder.iterdir():
        file.write_text("hello")
    refused(folder, "holds no DICOM files; give a folder")
    for file in folder.iterdir():
        file.unlink()
    refused(folder, "is empty; give a folder")
