"""Volumes of the user: NIfTI files, DICOM series and arrays become a `Volume` whose voxels lie where the file says.

Refused with one line: not a regular file, empty, damaged or truncated, not three-dimensional, several volumes in one file, complex or
colour values, NaN (unless the caller has a mask that leaves it out), a side below 2 voxels, more than 134 million voxels by the header, an
affine that places no voxels. Reading takes at most 12 bytes a voxel and 200 MB, beside a .npy file's own pages.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.files import mapped_array, plain_file, seems_to_be
from calotype.data.voxels import check_shape, refuse_nan
from calotype.errors import InputError, ShapeError
from calotype.imaging.grids import check_affine, check_same_grid
from calotype.imaging.nifti import (
    MOST_EXTENSIONS,
    header_affine,
    header_bytes,
    header_unit,
    in_scanner_frame,
    is_nifti,
    medical,
    placements,
    read_header,
    unpacked,
)
from calotype.imaging.types import Volume

VolumeLike: TypeAlias = Volume | str | os.PathLike[str] | np.ndarray | Tensor
"""What every call takes for a volume."""
_COMPLEX, _COLOUR = {32, 1792, 2048}, {128, 2304}
_UNPLACED = "has no voxel size; 1 x 1 x 1 mm and axes that run right, front, up are assumed"
_CHUNK = 1 << 20
"""Voxels that are unpacked and scaled at once."""
_ROUNDING = 1e-3
"""Distance of voxels, as a share of the shortest side, that the rounding of headers explains."""


def read_volume(
    path: str | os.PathLike[str], *, name: str = "volume", finite: bool = True, flat: bool = False, events: Events = SILENT
) -> Volume:
    """Read one volume.

    Args:
        path: a NIfTI-1 or NIfTI-2 file (.nii, .nii.gz), a folder with one DICOM series, or a .npy array [X, Y, Z].
        name: what messages call it, such as "field".
        finite: refuse NaN and infinite values; a caller that has a mask may take them (see `masked_values`).
        flat: take a NIfTI file of one slice too (two axes, or a third of one voxel), as [X, Y, 1].
        events: hears a note for what is doubtful or was converted.

    Returns:
        The values in the file's own order and scale, with the affine of its header.

    Raises:
        InputError: the file is refused (the module's first lines say when).
        MissingError: the package that reads it is not installed.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        from calotype.data.dicom import read_series

        return read_series(source, name=name, finite=finite, events=events)
    source = plain_file(source, name)
    with source.open("rb") as file:
        head = file.read(132)
    if head.startswith(b"\x93NUMPY"):
        return _read_npy(source, name, finite, events)
    if head[128:] == b"DICM":
        raise InputError(f"{name}: {source} is a single DICOM file; give the folder that holds its series, one file a slice")
    return _read_nifti(source, name, finite, flat, events)


def as_volume(value: VolumeLike, *, name: str = "volume", finite: bool = True, events: Events = SILENT) -> Volume:
    """Whatever a caller has for a volume, as a `Volume`.

    Args:
        value: a `Volume`, a path, or a real array or tensor [X, Y, Z], whose voxels are taken to be 1 mm wide.
        name: what messages call it.
        finite: as in `read_volume`.
        events: hears a note for what is doubtful or was converted.

    Raises:
        InputError: a file that is refused, or NaN among the values.
        ShapeError: an array or tensor of another shape or type.

    Example:
        >>> as_volume(np.zeros((8, 8, 6))).spacing
        (1.0, 1.0, 1.0)
    """
    if isinstance(value, str | os.PathLike):
        return read_volume(value, name=name, finite=finite, events=events)
    if isinstance(value, Volume):
        check_shape(value.size, name)
        if finite:
            refuse_nan(value.to_numpy(), name)
        return value
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        events.note(f"{name}: an array {_UNPLACED}")
        return _unplaced(array, f"{name}: the {'tensor' if isinstance(value, Tensor) else 'array'}", ShapeError, name, finite, events)
    raise InputError(f"{name}: a {type(value).__name__} was given; a volume is a path, a Volume, an array or a tensor [x, y, z]")


def volume_mask(
    value: VolumeLike, reference: Volume, *, name: str = "mask", reference_name: str = "field", events: Events = SILENT
) -> Bool[Tensor, "x y z"]:
    """The voxels of `reference` that a mask marks.

    Of whole numbers, everything but 0 belongs to it; of fractions, what is at least half the largest. An array or tensor takes the place of
    `reference`; a file must lie where it lies.

    Raises:
        InputError: a file that is refused, another grid, negative values, or nothing marked.

    Example:
        >>> field = Volume.from_numpy(np.zeros((4, 4, 4)), np.eye(4))
        >>> int(volume_mask(np.ones((4, 4, 4)), field).sum())
        64
    """
    if isinstance(value, Tensor | np.ndarray):
        mask = Volume(as_volume(value, name=name).values, reference.affine)
    else:
        mask = laid_on(as_volume(value, name=name, events=events), reference, name=name, reference_name=reference_name, events=events)
    if not _shares_a_placement(mask, reference):
        apart = check_same_grid(mask, reference, name=name, reference_name=reference_name)
        if apart > _ROUNDING * min(reference.spacing):
            events.note(f"{name}: its voxels lie up to {apart:.2g} mm beside those of {reference_name}; they are taken as the same")
    values = mask.values
    if bool((values < 0).any()):
        raise InputError(f"{name}: it has values down to {float(values.min()):g}; a mask is 0 outside and positive inside")
    whole = bool(((values - values.round()).abs() <= 1e-4 * values.clamp(min=1)).all())
    marked = values > 0.5 if whole else values >= float(values.max()) / 2
    if not bool(marked.any()):
        raise InputError(f"{name}: it marks no voxel; a mask is 0 outside and positive inside")
    return marked


def laid_on(volume: Volume, reference: Volume, *, name: str = "mask", reference_name: str = "field", events: Events = SILENT) -> Volume:
    """The volume on the grid of another of the same size, if it doesn't say where it lies itself and the other one does; else as it is.

    An array has no voxel size; a header that has one must have that of the other volume.
    """
    if volume.placed or not reference.placed or volume.size != reference.size:
        return volume
    if volume.header and not np.allclose(volume.spacing, reference.spacing, rtol=_ROUNDING, atol=0):
        return volume
    what = "its header" if volume.header else "an array"
    events.note(f"{name}: {what} doesn't say where it lies; it is laid on {reference_name}'s grid")
    return replace(reference, values=volume.values, unit=volume.unit)


def _shares_a_placement(mask: Volume, reference: Volume) -> bool:
    """Whether some placement in the mask's header is one of the reference's: a tool may copy the template's alone.

    Where both are in the scanner's frame, those placements alone count.
    """
    if mask.size != reference.size or not mask.header or not reference.header:
        return False
    if in_scanner_frame(mask.header) and in_scanner_frame(reference.header):
        return False
    corner = np.array([*mask.size, 1.0])
    pairs = itertools.product(placements(mask.header), placements(reference.header))
    return any(float(np.abs((left - right) * corner).max()) <= _ROUNDING * min(reference.spacing) for left, right in pairs)


def masked_values(volume: Volume, inside: Bool[Tensor, "x y z"], *, name: str = "field", events: Events = SILENT) -> Volume:
    """The volume with 0 where it is NaN or infinite outside a mask.

    Raises:
        InputError: some values inside the mask are NaN or infinite; the message says how many.
    """
    broken = ~torch.isfinite(volume.values)
    if not bool(broken.any()):
        return volume
    count, within = int(broken.sum()), int((broken & inside).sum())
    if within:
        raise InputError(
            f"{name}: {within} of the {int(inside.sum())} voxels in the mask are NaN or infinite; mask them out, or set them to 0 "
            "(numpy.nan_to_num, fslmaths -nan)"
        )
    events.note(f"{name}: {count} voxels outside the mask are NaN or infinite; they are taken as 0")
    return volume.with_values(torch.where(broken, torch.zeros(()), volume.values))


def _unplaced(array: np.ndarray, subject: str, kind: type[InputError], name: str, finite: bool, events: Events) -> Volume:
    if array.dtype.kind == "c":
        raise kind(f"{subject} is complex ({array.dtype}); take its magnitude or its phase first")
    if array.dtype.kind not in "fiub":
        raise kind(f"{subject} has values of type {array.dtype}; a volume has real numbers")
    return Volume(torch.from_numpy(_single(array, subject, name, kind, finite, events)), torch.eye(4, dtype=torch.float64))


def _single(
    array: np.ndarray, subject: str, name: str, kind: type[InputError], finite: bool, events: Events, flat: bool = False
) -> np.ndarray:
    """A copy of the one volume of an array, as float32."""
    check_shape(array.shape, subject, kind, flat=flat)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim > 3:
        events.note(f"{name}: {array.ndim}-D with one volume, which is taken")
    with np.errstate(over="ignore"):
        values = np.array(array.reshape(array.shape[:3]), dtype=np.float32, order="C")
    if finite:
        refuse_nan(values, name)
    return values


def _read_npy(path: Path, name: str, finite: bool, events: Events) -> Volume:
    array = mapped_array(path, name)
    events.note(f"{name}: {path.name} {_UNPLACED}")
    return _unplaced(array, f"{name}: {path}", InputError, name, finite, events)


def _read_nifti(path: Path, name: str, finite: bool, flat: bool, events: Events) -> Volume:
    nibabel = medical("nibabel")
    with unpacked(path, name) as file:
        header = read_header(file)
        if header is None:
            raise InputError(f"{name}: {path} {_no_volume(path)}")
        code = int(header["datatype"])
        if code in _COMPLEX:
            raise InputError(f"{name}: {path} is complex; take its magnitude or its phase first")
        if code in _COLOUR:
            raise InputError(f"{name}: {path} holds colours (RGB); a volume has one number per voxel")
        if not 1 <= int(header["dim"][0]) <= 7:
            raise InputError(f"{name}: {path} has a header that makes no sense ({int(header['dim'][0])} axes); save it again")
        check_shape(header.get_data_shape(), f"{name}: {path}", flat=flat)
        try:
            values = _voxels(header, file)
        except (nibabel.spatialimages.HeaderDataError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise InputError(f"{name}: {path} has a header that makes no sense ({_told(error)}); save it again") from None
        if values is None:
            raise InputError(f"{name}: {path} is truncated: its header tells of more voxels than it holds; copy or save it again")
    values = _single(values, f"{name}: {path}", name, InputError, finite, events, flat)
    affine, doubt = header_affine(header)
    check_affine(affine, f"{name}: the affine of {path.name}")
    if doubt:
        events.note(f"{name}: {doubt}")
    if not is_nifti(path):
        events.note(f"{name}: {path.name} is a NIfTI file")
    return Volume(torch.from_numpy(values), torch.from_numpy(affine), header_unit(header), header_bytes(header))


def _voxels(header: Any, file: BufferedIOBase) -> np.ndarray | None:
    """The scaled voxels as float32, read in chunks, so that little more than the result is held; None if the file ends early."""
    kind, shape = header.get_data_dtype(), header.get_data_shape()
    if kind.kind not in "fiu":
        raise TypeError(f"the data type {int(header['datatype'])}")
    start = int(header.get_data_offset())
    gap = start - file.tell()
    if not 0 <= gap <= MOST_EXTENSIONS:
        raise ValueError(f"voxels that begin at byte {start}")
    file.read(gap)
    slope, intercept = header.get_slope_inter()
    values = np.empty(math.prod(shape), dtype=np.float32)
    for first in range(0, values.size, _CHUNK):
        part = values[first : first + _CHUNK]
        raw = file.read(part.size * kind.itemsize)
        if len(raw) < part.size * kind.itemsize:
            return None
        numbers = np.frombuffer(raw, dtype=kind)
        with np.errstate(all="ignore"):
            part[:] = numbers if slope is None else numbers.astype(np.float64) * slope + intercept
    # At the end of a gzip stream its checksum is compared.
    file.read(1)
    return values.reshape(shape, order="F")


def _no_volume(path: Path) -> str:
    what = seems_to_be(path)
    with unpacked(path) as file:
        head = file.read(348)
    if len(head) == 348 and {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")} & {348, 540}:
        return "is a header of a pair of files (.hdr, .img); convert it to one NIfTI file, .nii.gz"
    told = f"is {what}, no volume that can be read" if what and what != "a gzip file" else "is no NIfTI file (damaged, or another format)"
    return f"{told}; give .nii.gz, .nii, .npy or a folder with a DICOM series"


def _told(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
