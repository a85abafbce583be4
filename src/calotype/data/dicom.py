"""A folder with one DICOM series, a file a slice, as a `Volume`. pydicom is imported when it is needed.

Slices are put in order by where they lie, not by name or number. The affine is that of DICOM (part 3, C.7.6.2.1.1), turned from its
axes to those of NIfTI: DICOM's x runs to the patient's left and y to the back.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calotype.core.errors import InputError
from calotype.core.events import SILENT, Events
from calotype.core.grids import check_affine
from calotype.core.nifti import medical
from calotype.core.types import Volume
from calotype.data.volumes import check_shape, refuse_nan

_PLACED = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
"""What says where a slice lies, and how many numbers each is."""
_DISTINGUISHING = {
    "EchoTime": "echo times",
    "ImageType": "image types",
    "TemporalPositionIdentifier": "times",
    "AcquisitionNumber": "acquisitions",
}
_UNEVEN = 0.02
_BESIDE = 0.05
"""By what share of their distance slices may differ from even steps, and lie beside the line through the first and the last."""
_ALONE = "put the slices that you mean into a folder of their own"


def read_series(folder: Path, *, name: str = "volume", events: Events = SILENT) -> Volume:
    """Read the one series that lies in a folder.

    Returns:
        The values, [columns, rows, slices], after rescaling by each slice's slope and intercept.

    Raises:
        InputError: no DICOM files, several series, several pictures of one place, missing slices, an enhanced or multi-frame file,
            colours, or a slice that can't be decoded.
        MissingError: pydicom is not installed.
    """
    with warnings.catch_warnings(), medical("pydicom").config.disable_value_validation():
        warnings.simplefilter("ignore")
        slices = _in_order(_headers(folder, name, events), folder, name)
        affine = _affine([dataset for _, dataset in slices], folder, name)
        first = slices[0][1]
        check_shape((int(first.Columns), int(first.Rows), len(slices)), f"{name}: {folder}")
        values = np.stack([_values(path, name) for path, _ in slices], axis=-1)
    refuse_nan(values, name)
    events.note(f"{name}: {len(slices)} DICOM slices read from {folder}, in the order of their places")
    unit = "HU" if all(str(dataset.get("RescaleType", "")).upper() == "HU" for _, dataset in slices) else ""
    return Volume(torch.from_numpy(values), torch.from_numpy(affine), unit)


def _headers(folder: Path, name: str, events: Events) -> list[tuple[Path, Any]]:
    """Every DICOM file of a folder without its pixels, once it is clear that they are one series of plain slices."""
    pydicom = medical("pydicom")
    files = sorted(item for item in folder.iterdir() if item.is_file() and not item.name.startswith(".") and item.name != "DICOMDIR")
    found, others = [], 0
    for path in files:
        try:
            found.append((path, pydicom.dcmread(path, stop_before_pixels=True)))
        except pydicom.errors.InvalidDicomError:
            others += 1
        except Exception as error:  # A damaged file can fail anywhere in the parser.
            raise InputError(f"{name}: {path} can't be read as DICOM ({type(error).__name__}); copy or export it again") from None
    if not found:
        inside = [item.name for item in folder.iterdir() if item.is_dir()]
        told = "is empty" if not files and not inside else f"holds no DICOM files{f', but folders such as {inside[0]}' if inside else ''}"
        raise InputError(f"{name}: {folder} {told}; give a folder with the files of one DICOM series, or a NIfTI file")
    if others:
        events.note(f"{name}: {others} files in {folder} are no DICOM and were left out")
    for path, dataset in found:
        if int(dataset.get("NumberOfFrames", 1) or 1) > 1 or "PerFrameFunctionalGroupsSequence" in dataset or "MOSAIC" in _kinds(dataset):
            raise InputError(f"{name}: {path} holds several slices (enhanced, multi-frame or mosaic DICOM); convert it with dcm2niix")
    series = {str(dataset.get("SeriesInstanceUID", "")) for _, dataset in found}
    if len(series) > 1:
        raise InputError(
            f"{name}: {folder} holds {len(series)} series in {len(found)} files; put the one that you mean into a folder of its own"
        )
    for path, dataset in found:
        missing = [field for field, count in _PLACED.items() if dataset.get(field) is None or np.size(dataset[field].value) != count]
        if missing:
            raise InputError(f"{name}: {path} has no {missing[0]}, so it is not known where the slice lies; convert the series to NIfTI")
        if int(dataset.get("SamplesPerPixel", 1)) != 1:
            raise InputError(f"{name}: {path} holds colours; a volume has one number per voxel")
    return found


def _in_order(found: Sequence[tuple[Path, Any]], folder: Path, name: str) -> list[tuple[Path, Any]]:
    """The slices along their normal, which must be parallel, alike, one for each place and evenly spaced."""
    first = found[0][1]
    across, down = _axes(first, found[0][0], name)
    for path, dataset in found[1:]:
        alike = (
            (int(dataset.Rows), int(dataset.Columns)) == (int(first.Rows), int(first.Columns))
            and np.allclose(_numbers(dataset.PixelSpacing), _numbers(first.PixelSpacing), rtol=1e-4)
            and np.allclose(_numbers(dataset.ImageOrientationPatient), (*across, *down), atol=1e-3)
        )
        if not alike:
            raise InputError(f"{name}: {path.name} differs from {found[0][0].name} in size, pixel spacing or orientation; {_ALONE}")
    if len(found) < 2:
        raise InputError(f"{name}: {folder} holds 1 slice; a volume needs at least 2")
    normal = np.cross(across, down)
    heights = [float(_numbers(dataset.ImagePositionPatient) @ normal) for _, dataset in found]
    order = np.argsort(heights, kind="stable")
    steps = np.diff(np.array(heights)[order])
    if steps.min() <= 1e-3:
        same = int(np.count_nonzero(steps <= 1e-3)) + 1
        differ = [told for field, told in _DISTINGUISHING.items() if len({str(dataset.get(field)) for _, dataset in found}) > 1]
        told = f" (they differ in their {' and '.join(differ)})" if differ else ""
        raise InputError(f"{name}: {folder} holds several slices at the same place{told}, {same - 1} too many; {_ALONE}")
    usual = float(np.median(steps))
    wide = np.flatnonzero(np.abs(steps - usual) > max(_UNEVEN * usual, 1e-2))
    if wide.size:
        place = int(wide[0])
        before, after = (found[int(order[place + side])][0].name for side in (0, 1))
        missing = (
            f"{round(steps[place] / usual) - 1} slices are missing" if steps[place] > 1.5 * usual else "the slices are not evenly spaced"
        )
        raise InputError(
            f"{name}: {missing}: {before} and {after} lie {steps[place]:.4g} mm apart, others {usual:.4g} mm; export the whole series again"
        )
    ordered = [found[int(index)] for index in order]
    places = np.stack([_numbers(dataset.ImagePositionPatient) for _, dataset in ordered])
    line = places[0] + np.linspace(0, 1, len(places))[:, None] * (places[-1] - places[0])
    beside = np.linalg.norm(places - line, axis=1)
    if beside.max() > max(_BESIDE * usual, 1e-2):
        worst = ordered[int(beside.argmax())][0].name
        raise InputError(f"{name}: {worst} lies {beside.max():.4g} mm beside the line of the other slices; {_ALONE}")
    return ordered


def _axes(dataset: Any, path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    directions = _numbers(dataset.ImageOrientationPatient)
    if directions.size != 6 or not np.allclose([directions[:3] @ directions[:3], directions[3:] @ directions[3:]], 1, atol=1e-2):
        raise InputError(f"{name}: {path} has an ImageOrientationPatient that is no pair of directions; convert the series to NIfTI")
    return directions[:3], directions[3:]


def _affine(datasets: Sequence[Any], folder: Path, name: str) -> np.ndarray:
    """Column, row and slice number to millimetres; a tilted gantry shows as a sheared slice axis."""
    first, last = datasets[0], datasets[-1]
    down, across = _numbers(first.PixelSpacing)
    directions = _numbers(first.ImageOrientationPatient)
    origin = _numbers(first.ImagePositionPatient)
    affine = np.eye(4)
    affine[:3, 0] = directions[:3] * across
    affine[:3, 1] = directions[3:] * down
    affine[:3, 2] = (_numbers(last.ImagePositionPatient) - origin) / (len(datasets) - 1)
    affine[:3, 3] = origin
    return check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, f"{name}: the affine of {folder.name}")


def _values(path: Path, name: str) -> np.ndarray:
    """A slice's values, [columns, rows] float32."""
    pydicom = medical("pydicom")
    try:
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
    except Exception as error:  # Decoders of many formats, each with its own errors.
        raise InputError(f"{name}: the pixels of {path} can't be decoded ({_told(error)}); convert the series with dcm2niix") from None
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    return np.ascontiguousarray((pixels.astype(np.float64) * slope + intercept).T, dtype=np.float32)


def _kinds(dataset: Any) -> list[str]:
    kinds = dataset.get("ImageType") or []
    return [str(kinds)] if isinstance(kinds, str) else [str(kind) for kind in kinds]


def _numbers(value: Any) -> np.ndarray:
    return np.array([float(number) for number in value], dtype=np.float64)


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
