"""A folder with one DICOM series, a file a slice, as a `Volume`. pydicom is imported when it is needed.

Slices are put in order by where they lie, not by name or number. The affine is that of DICOM (part 3, C.7.6.2.1.1), turned from its
axes to those of NIfTI: DICOM's x runs to the patient's left and y to the back.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64

from calotype.core.events import SILENT, Events
from calotype.data.voxels import check_shape, refuse_nan
from calotype.errors import InputError
from calotype.imaging.grids import check_affine
from calotype.imaging.nifti import medical
from calotype.imaging.types import Volume

_PLACED = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
"""What says where a slice lies, and how many numbers each is."""
_DISTINGUISHING = {
    "EchoTime": "echo times",
    "ImageType": "image types",
    "TemporalPositionIdentifier": "times",
    "AcquisitionNumber": "acquisitions",
}
_FARTHEST = 1e6
"""Of the numbers that place a slice, the largest: a kilometre."""
_UNEVEN = 0.02
_BESIDE = 0.05
"""By what share of their distance slices may differ from even steps, and lie beside the line through the first and the last."""
_ALONE = "put the slices that you mean into a folder of their own"


@dataclass(frozen=True)
class _Slice:
    """What one file says of its slice, without the pixels."""

    path: Path
    series: str
    several: bool
    """Whether the file holds more than one slice."""
    colours: bool
    numbers: Mapping[str, Float64[np.ndarray, n]]
    """The fields of `_PLACED` that it has, whole and finite."""
    labels: Mapping[str, str]
    unit: str
    mirror: int | None = None
    """Where low numbers are bright (MONOCHROME1): what a stored number and its opposite sum to."""

    @property
    def missing(self) -> str:
        """A field that it needs and doesn't have."""
        return next((field for field in _PLACED if field not in self.numbers), "")

    @property
    def position(self) -> Float64[np.ndarray, 3]:
        """Of the first pixel's centre, in mm to the left, back, top."""
        return self.numbers["ImagePositionPatient"]

    @property
    def across(self) -> Float64[np.ndarray, 3]:
        """Direction in which the column number grows."""
        return self.numbers["ImageOrientationPatient"][:3]

    @property
    def down(self) -> Float64[np.ndarray, 3]:
        """Direction in which the row number grows."""
        return self.numbers["ImageOrientationPatient"][3:]

    @property
    def shape(self) -> tuple[int, int]:
        """(columns, rows)."""
        return int(self.numbers["Columns"][0]), int(self.numbers["Rows"][0])

    def alike(self, other: _Slice) -> bool:
        """Whether they are cut alike: same size, pixels and directions."""
        return (
            self.shape == other.shape
            and np.allclose(self.numbers["PixelSpacing"], other.numbers["PixelSpacing"], rtol=1e-4, atol=0)
            and np.allclose(self.numbers["ImageOrientationPatient"], other.numbers["ImageOrientationPatient"], atol=1e-3)
        )


def read_series(folder: Path, *, name: str = "volume", finite: bool = True, events: Events = SILENT) -> Volume:
    """Read the one series that lies in a folder.

    Args:
        folder: holds the files, one a slice.
        name: what messages call the volume.
        finite: as in `calotype.data.volumes.read_volume`.
        events: hears notes.

    Returns:
        The values, [columns, rows, slices], after rescaling by each slice's slope and intercept.

    Raises:
        InputError: no DICOM files, several series, several pictures of one place, missing slices, an enhanced or multi-frame file,
            colours, a file that is compressed as a whole, or a slice that can't be decoded.
        MissingError: pydicom is not installed.
    """
    with warnings.catch_warnings(), medical("pydicom").config.disable_value_validation():
        warnings.simplefilter("ignore")
        slices = _in_order(_headers(folder, name, events), folder, name)
        affine = _affine(slices, f"{name}: the affine of {folder.name}")
        check_shape((*slices[0].shape, len(slices)), f"{name}: {folder}")
        values = np.empty((*slices[0].shape, len(slices)), dtype=np.float32)
        for number, item in enumerate(slices):
            values[..., number] = _values(item, name)
    if finite:
        refuse_nan(values, name)
    events.note(f"{name}: {len(slices)} DICOM slices read from {folder}, in the order of their places")
    units = {item.unit for item in slices}
    return Volume(torch.from_numpy(values), torch.from_numpy(affine), units.pop() if len(units) == 1 else "")


def read_slice(path: Path, *, name: str = "image") -> tuple[Float32[np.ndarray, "rows columns"], Volume | None]:
    """Read one DICOM file of one slice or one X-ray picture, after rescaling.

    Numbers of a MONOCHROME1 file, whose low ones are bright, are turned round.

    Returns:
        Its values, and the same on its grid, [columns, rows, 1]; no grid where the file doesn't say where it lies, as X-ray pictures don't.

    Raises:
        InputError: it holds several slices or colours, or can't be decoded.
        MissingError: pydicom is not installed.
    """
    with warnings.catch_warnings(), medical("pydicom").config.disable_value_validation():
        warnings.simplefilter("ignore")
        item = _header(path, name)
        if item is None:
            raise InputError(f"{name}: {path} is no DICOM file; copy or export it again")
        _refuse_other(item, name, placed=False)
        values = _values(item, name, upright=True)
    check_shape((*values.shape, 1), f"{name}: {path}", flat=True)
    refuse_nan(values, name)
    rows = np.ascontiguousarray(values.T)
    if item.missing:
        return rows, None
    between_rows, between_columns = item.numbers["PixelSpacing"]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = item.across * between_columns, item.down * between_rows
    affine[:3, 2], affine[:3, 3] = np.cross(item.across, item.down), item.position
    affine = check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, f"{name}: the affine of {path.name}")
    return rows, Volume(torch.from_numpy(values[..., None]), torch.from_numpy(affine), item.unit)


def _refuse_other(item: _Slice, name: str, *, placed: bool = True) -> None:
    """Refuse a file that isn't one slice of numbers, and where it must be `placed`, one that doesn't say where it lies."""
    if item.several:
        raise InputError(f"{name}: {item.path} holds several slices (enhanced, multi-frame or mosaic DICOM); convert it with dcm2niix")
    if item.missing and placed:
        raise InputError(
            f"{name}: {item.path} has no {item.missing} (or a damaged one), which places the slice; convert the series to NIfTI"
        )
    if item.colours:
        raise InputError(f"{name}: {item.path} holds colours; a volume has one number per voxel")


def _headers(folder: Path, name: str, events: Events) -> list[_Slice]:
    """Every DICOM file of a folder, once it is clear that they are one series of plain slices."""
    files = sorted(item for item in folder.iterdir() if item.is_file() and not item.name.startswith(".") and item.name != "DICOMDIR")
    read = [_header(path, name) for path in files]
    found = [item for item in read if item is not None]
    if not found:
        inside = [item.name for item in folder.iterdir() if item.is_dir()]
        told = "is empty" if not files and not inside else f"holds no DICOM files{f', but folders such as {inside[0]}' if inside else ''}"
        raise InputError(f"{name}: {folder} {told}; give a folder with the files of one DICOM series, or a NIfTI file")
    if len(found) < len(files):
        events.note(f"{name}: {len(files) - len(found)} files in {folder} are no DICOM and were left out")
    several = next((item for item in found if item.several), None)
    if several is not None:
        _refuse_other(several, name)
    series = {item.series for item in found}
    if len(series) > 1:
        raise InputError(
            f"{name}: {folder} holds {len(series)} series in {len(found)} files; put the one that you mean into a folder of its own"
        )
    for item in found:
        _refuse_other(item, name)
    return found


def _header(path: Path, name: str) -> _Slice | None:
    """One file's header; None if it is no DICOM."""
    pydicom = medical("pydicom")
    try:
        # pydicom unpacks such a file in one go, whatever it grows to.
        packed = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian
        if packed:
            raise InputError(
                f"{name}: {path} is compressed as a whole (deflated DICOM), which is not read; convert the series with dcm2niix"
            )
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        kinds = dataset.get("ImageType") or []
        several = int(dataset.get("NumberOfFrames", 1) or 1) > 1 or "PerFrameFunctionalGroupsSequence" in dataset or "MOSAIC" in kinds
        numbers = {}
        for field, count in _PLACED.items():
            value = dataset.get(field)
            found = np.atleast_1d(np.array([] if value is None else value, dtype=np.float64))
            if found.size == count and bool((np.abs(found) <= _FARTHEST).all()) and not (field == "PixelSpacing" and found.min() <= 0):
                numbers[field] = found
        turned = str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"
        stored = -1 if int(dataset.get("PixelRepresentation", 0) or 0) else 2 ** int(dataset.get("BitsStored", 16)) - 1
        return _Slice(
            path,
            str(dataset.get("SeriesInstanceUID", "")),
            several,
            int(dataset.get("SamplesPerPixel", 1)) != 1,
            numbers,
            {field: str(dataset.get(field)) for field in _DISTINGUISHING},
            "HU" if str(dataset.get("RescaleType", "")).upper() == "HU" else "",
            stored if turned else None,
        )
    except pydicom.errors.InvalidDicomError:
        return None
    except InputError:
        raise
    except Exception as error:  # A damaged file can fail anywhere in the parser.
        raise InputError(f"{name}: {path} can't be read as DICOM ({_told(error)}); copy or export it again") from None


def _in_order(found: Sequence[_Slice], folder: Path, name: str) -> list[_Slice]:
    """The slices along their normal, which must be parallel, alike, one for each place and evenly spaced."""
    first = found[0]
    if not np.allclose([first.across @ first.across, first.down @ first.down], 1, atol=1e-2) or abs(first.across @ first.down) > 1e-2:
        raise InputError(f"{name}: {first.path} has an ImageOrientationPatient that is no pair of directions; convert the series to NIfTI")
    for item in found[1:]:
        if not item.alike(first):
            raise InputError(f"{name}: {item.path.name} differs from {first.path.name} in size, pixel spacing or orientation; {_ALONE}")
    if len(found) < 2:
        raise InputError(f"{name}: {folder} holds 1 slice; a volume needs at least 2")
    normal = np.cross(first.across, first.down)
    ordered = sorted(found, key=lambda item: float(item.position @ normal))
    places = np.stack([item.position for item in ordered])
    steps = np.diff(places @ normal)
    if steps.min() <= 1e-3:
        same = int(np.count_nonzero(steps <= 1e-3))
        differ = [told for field, told in _DISTINGUISHING.items() if len({item.labels[field] for item in found}) > 1]
        told = f" (they differ in their {' and '.join(differ)})" if differ else ""
        raise InputError(f"{name}: {folder} holds several slices at the same place{told}, {same} too many; {_ALONE}")
    usual = float(np.median(steps))
    wide = np.flatnonzero(np.abs(steps - usual) > max(_UNEVEN * usual, 1e-2))
    if wide.size:
        place = int(wide[0])
        before, after = (ordered[place + side].path.name for side in (0, 1))
        missing = (
            f"{round(steps[place] / usual) - 1} slices are missing" if steps[place] > 1.5 * usual else "the slices are not evenly spaced"
        )
        raise InputError(
            f"{name}: {missing}: {before} and {after} lie {steps[place]:.4g} mm apart, others {usual:.4g} mm; export the whole series again"
        )
    line = places[0] + np.linspace(0, 1, len(places))[:, None] * (places[-1] - places[0])
    beside = np.linalg.norm(places - line, axis=1)
    if beside.max() > max(_BESIDE * usual, 1e-2):
        worst = ordered[int(beside.argmax())].path.name
        raise InputError(f"{name}: {worst} lies {beside.max():.4g} mm beside the line of the other slices; {_ALONE}")
    return ordered


def _affine(slices: Sequence[_Slice], subject: str) -> Float64[np.ndarray, "4 4"]:
    """Column, row and slice number to millimetres; a tilted gantry shows as a sheared slice axis."""
    first, last = slices[0], slices[-1]
    between_rows, between_columns = first.numbers["PixelSpacing"]
    affine = np.eye(4)
    affine[:3, 0] = first.across * between_columns
    affine[:3, 1] = first.down * between_rows
    affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)
    affine[:3, 3] = first.position
    return check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, subject)


def _values(item: _Slice, name: str, *, upright: bool = False) -> Float32[np.ndarray, "columns rows"]:
    pydicom = medical("pydicom")
    try:
        dataset = pydicom.dcmread(item.path)
        pixels = dataset.pixel_array.astype(np.float64)
        if pixels.shape != item.shape[::-1]:
            raise ValueError(f"{'x'.join(map(str, pixels.shape))} pixels")
        if upright and item.mirror is not None:
            pixels = item.mirror - pixels
        values = pixels * float(_given(dataset, "RescaleSlope", 1.0)) + float(_given(dataset, "RescaleIntercept", 0.0))
    except Exception as error:  # Decoders of many formats, each with its own errors.
        raise InputError(f"{name}: the pixels of {item.path} can't be decoded ({_told(error)}); convert the series with dcm2niix") from None
    return np.ascontiguousarray(values.T, dtype=np.float32)


def _given(dataset: Any, field: str, default: float) -> Any:
    value = dataset.get(field)
    return default if value is None else value


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
