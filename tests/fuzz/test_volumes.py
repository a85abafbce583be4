"""Damaged NIfTI files, arrays and DICOM slices, and small files that claim to be large."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from calotype.data import read_volume
from calotype.errors import InputError
from calotype.imaging.media import read_metadata
from calotype.imaging.nifti import read_comment
from calotype.imaging.types import Volume
from tests.fuzz.mutations import bounded, damaged, fuzzed, reads_or_refuses

VALUES = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
AFFINE = np.diag([1.0, 1, 2, 1])


@cache
def niftis() -> tuple[bytes, ...]:
    """Float, scaled whole numbers, NIfTI-2, and one with a comment, none compressed."""
    scaled = nibabel.Nifti1Image((VALUES * 100).astype(np.int16), AFFINE)
    scaled.header.set_slope_inter(0.01, 3)
    made = [nibabel.Nifti1Image(VALUES, AFFINE), scaled, nibabel.Nifti2Image(VALUES.astype(np.float64), AFFINE)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii"
        Volume.from_numpy(VALUES, AFFINE, "ppm").save(path, metadata={"calotype": "{}"})
        return (*(image.to_bytes() for image in made), path.read_bytes())


@cache
def arrays() -> tuple[bytes, ...]:
    """Several types and orders of .npy."""
    kinds: list[Any] = [VALUES, (VALUES * 9).astype("i2"), VALUES.astype(">f8"), VALUES > 0, np.asfortranarray(VALUES), VALUES.astype("c8")]
    kinds += [np.zeros((3, 3, 3), [("a", "f4"), ("b", "i2")]), np.zeros((3, 3, 3), "M8[s]"), VALUES.astype("f2"), VALUES[None]]
    return tuple(_npy(array) for array in kinds)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@cache
def slices() -> tuple[bytes, ...]:
    """Three slices of one DICOM series."""
    made = []
    for number in range(3):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{number + 1}"
        data.SeriesInstanceUID, data.Modality, data.ImageType = "1.2.3", "MR", ["ORIGINAL", "PRIMARY"]
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.Rows, data.Columns, data.SamplesPerPixel = [1, 1], 8, 10, 1
        data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored, data.HighBit = "MONOCHROME2", 16, 16, 15
        data.PixelRepresentation, data.RescaleSlope, data.RescaleIntercept = 1, 2, -3
        data.PixelData = np.arange(80, dtype=np.int16).tobytes()
        file = io.BytesIO()
        data.save_as(file, enforce_file_format=True)
        made.append(file.getvalue())
    return tuple(made)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to write damaged files to, over and over."""
    return tmp_path_factory.mktemp("damaged")


def both(path: Path) -> None:
    """The voxels and the metadata of a file."""
    reads_or_refuses(lambda: read_volume(path))
    reads_or_refuses(lambda: read_metadata(path))


@fuzzed
@given(damaged(niftis()))
def test_damaged_nifti(place: Path, data: bytes) -> None:
    (place / "a.nii").write_bytes(data)
    both(place / "a.nii")


@fuzzed
@given(damaged(niftis()))
def test_damaged_nifti_in_a_whole_stream(place: Path, data: bytes) -> None:
    (place / "a.nii.gz").write_bytes(gzip.compress(data, 1))
    both(place / "a.nii.gz")


@fuzzed
@given(damaged(tuple(gzip.compress(data, 1) for data in niftis())))
def test_damaged_stream(place: Path, data: bytes) -> None:
    (place / "b.nii.gz").write_bytes(data)
    both(place / "b.nii.gz")


@fuzzed
@given(damaged(arrays()))
def test_damaged_arrays(place: Path, data: bytes) -> None:
    (place / "a.npy").write_bytes(data)
    reads_or_refuses(lambda: read_volume(place / "a.npy"))


@fuzzed
@given(damaged(slices()))
def test_damaged_slices(place: Path, data: bytes) -> None:
    folder = place / "series"
    folder.mkdir(exist_ok=True)
    for number, good in enumerate((data, *slices()[1:])):
        (folder / f"{number}.dcm").write_bytes(good)
    reads_or_refuses(lambda: read_volume(folder))


def header(**fields: object) -> bytes:
    """A NIfTI-1 header and the four bytes behind it."""
    made = nibabel.Nifti1Header()
    made.set_data_shape(fields.pop("shape", (8, 8, 8)))
    made.set_data_dtype(fields.pop("dtype", np.float32))
    made.set_qform(np.eye(4), 1)
    made["magic"], made["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        made[name] = value
    return made.binaryblock + bytes(4)


BOMBS: dict[str, Callable[[Any], None]] = {
    "voxels that begin at 8 GB": lambda file: (file.write(header(vox_offset=8e9)), zeros(file, 256)),
    "a comment of 2 GB": lambda file: (
        file.write(header(vox_offset=float(2**31 + 2384))[:348] + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6)),
        zeros(file, 256),
    ),
    "135 million double numbers": lambda file: (file.write(header(shape=(512, 512, 513), dtype=np.float64)), zeros(file, 16)),
    "a hundred volumes": lambda file: (file.write(header(shape=(64, 64, 64, 100))), zeros(file, 100)),
    "sides of two voxels, cut short": lambda file: (file.write(thin(1 << 24)), zeros(file, 60)),
}
"""What is written through a compressor, in MB of zeros."""


def thin(length: int) -> bytes:
    """The NIfTI-2 header of 2 x 2 x `length` bytes."""
    made = nibabel.Nifti2Header()
    made.set_data_shape((2, 2, length))
    made.set_data_dtype(np.uint8)
    made.set_qform(np.eye(4), 1)
    made["vox_offset"] = 544
    return made.binaryblock + bytes(4)


def zeros(file: Any, megabytes: int) -> None:
    for _ in range(megabytes):
        file.write(bytes(1 << 20))


@pytest.mark.parametrize("kind", BOMBS)
def test_small_files_that_claim_to_be_large(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        BOMBS[kind](file)
    with bounded(), pytest.raises(InputError):
        read_volume(path)
    with bounded():
        reads_or_refuses(lambda: read_metadata(path))


def test_scaled_whole_numbers_are_read_without_a_double_copy(tmp_path: Path) -> None:
    """A tenth of the largest volume: the double numbers that scaling makes are held for one plane."""
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(header(shape=(256, 256, 200), dtype=np.int16, scl_slope=0.5, scl_inter=1.0))
        file.write(bytes(256 * 256 * 200 * 2))
    found = read_volume(path)
    assert found.size == (256, 256, 200)
    assert float(found.values.min()) == float(found.values.max()) == 1.0


def test_many_small_planes_take_no_longer_than_few_large_ones(tmp_path: Path) -> None:
    """Each plane has four voxels: what a loop over planes would need minutes for."""
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(thin(1 << 23))
        zeros(file, 32)
    with bounded():
        assert read_volume(path).size == (2, 2, 1 << 23)


def test_a_slice_that_is_compressed_as_a_whole_is_not_unpacked(tmp_path: Path) -> None:
    """Half a megabyte that unpacks to 500."""
    for number, data in enumerate(slices()):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    made = dcmread(io.BytesIO(slices()[0]))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    made.save_as(tmp_path / "0.dcm", enforce_file_format=True)
    whole = (tmp_path / "0.dcm").read_bytes()
    # Preamble, mark, and the group of the file's facts, whose length is its first element.
    head = whole[: 144 + int.from_bytes(whole[140:144], "little")]
    packer = zlib.compressobj(9, wbits=-15)
    with (tmp_path / "0.dcm").open("wb") as file:
        file.write(head)
        for _ in range(500):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    with bounded(), pytest.raises(InputError, match=r"compressed as a whole .*dcm2niix"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ImagePositionPatient", [0, 0, 1e300]),
        ("ImagePositionPatient", [1e308, -1e308, 1e308]),
        ("ImageOrientationPatient", [1e200, 0, 0, 0, 1e200, 0]),
        ("PixelSpacing", [1e300, 1e300]),
        ("PixelSpacing", [0, 1]),
        ("PixelSpacing", [-1, 1]),
        ("RescaleSlope", 1e300),
        ("RescaleIntercept", "1e308"),
        ("Rows", 65535),
        ("Columns", 0),
        ("BitsAllocated", 1),
        ("SamplesPerPixel", 2),
        ("NumberOfFrames", -3),
    ],
)
def test_numbers_that_no_scanner_writes(tmp_path: Path, field: str, value: Any) -> None:
    for number, data in enumerate(slices()):
        made = dcmread(io.BytesIO(data))
        setattr(made, field, value)
        if field == "ImagePositionPatient":
            made.ImagePositionPatient = [*value[:2], value[2] * number]
        made.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    assert reads_or_refuses(lambda: read_volume(tmp_path)) is None or field == "NumberOfFrames"


def test_a_comment_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(niftis()[3])
    assert read_metadata(path) == {"calotype": "{}"}
    with pytest.raises(InputError, match="can't be read"):
        read_comment(tmp_path)
