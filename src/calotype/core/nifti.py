"""NIfTI files: the geometry in their headers, volumes written with it, and what made them in a comment. nibabel is imported when needed."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from calotype.core.errors import InputError, MissingError
from calotype.core.files import atomic_path

SUFFIXES = (".nii", ".nii.gz")
_COMMENT = 6
"""The code of header extensions that hold a comment."""
_MILLIMETRES = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""By the code of the unit of length: unknown (taken as mm), metre, millimetre, micrometre."""
_GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_LONGEST = 32767
"""The longest side that a NIfTI-1 header can hold."""


def medical(package: str) -> ModuleType:
    """A package of the extra `medical`.

    Raises:
        MissingError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise MissingError(f'{package} is needed to read and write medical volumes; pip install "calotype[medical]"') from None


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as those of NIfTI files do."""
    return Path(path).name.lower().endswith(SUFFIXES)


def header_affine(header: Any) -> tuple[Float64[np.ndarray, "4 4"], str]:
    """Where a header places the voxels, in mm.

    The sform counts if it has a code, else the qform, else the voxel sizes alone.

    Args:
        header: nibabel's `Nifti1Header` or `Nifti2Header`.

    Returns:
        The affine, and what is doubtful about it ("" if nothing).
    """
    scale = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    doubt = ""
    if sform:
        affine = np.array(header.get_sform(), dtype=np.float64)
        if qform and not _agree(affine, _qform(header), header.get_data_shape()):
            doubt = "its sform and qform place the voxels differently; the sform is used"
    elif qform:
        affine = _qform(header)
    else:
        affine = np.diag([*(float(size) for size in header["pixdim"][1:4]), 1.0])
        doubt = "its header doesn't say how it lies in the patient; the axes are taken as left-right, back-front, feet-head"
    affine[:3] *= scale
    return affine, doubt


def _qform(header: Any) -> Float64[np.ndarray, "4 4"]:
    try:
        return np.array(header.get_qform(), dtype=np.float64)
    except (ValueError, medical("nibabel").spatialimages.HeaderDataError):
        return np.full((4, 4), np.nan)


def _agree(left: Float64[np.ndarray, "4 4"], right: Float64[np.ndarray, "4 4"], shape: tuple[int, ...]) -> bool:
    """Whether two affines place every voxel within a hundredth of a voxel's shortest side of each other."""
    reach = np.array([max(side, 1) for side in shape[:3]], dtype=np.float64)
    apart = (np.abs(left - right)[:3, :3] * reach).sum(axis=1) + np.abs(left - right)[:3, 3]
    return bool(apart.max() <= 0.01 * np.linalg.norm(left[:3, :3], axis=0).min())


def header_bytes(header: Any) -> bytes:
    """The header without its extensions: what `Volume.header` keeps."""
    return bytes(header.binaryblock)


def _from_bytes(block: bytes) -> Any:
    nibabel = medical("nibabel")
    kind = nibabel.Nifti2Header if len(block) > nibabel.Nifti1Header.sizeof_hdr else nibabel.Nifti1Header
    return kind(block, check=False)


def save_volume(
    values: Float32[np.ndarray, "x y z"],
    affine: Float64[np.ndarray, "4 4"],
    unit: str,
    header: bytes,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    overwrite: bool = False,
) -> None:
    """Write float32 NIfTI, compressed if the name ends in .gz; the same volume gives the same bytes.

    Args:
        unit: of the values; kept in the header's description.
        header: of the file that the affine came from. Its sform and qform are repeated, whatever their codes, so that every viewer lays the
            two files over each other; it is left aside if the affine is another one.
        metadata: kept as JSON in a header extension of the comment type.

    Raises:
        InputError: another suffix, or the file exists and `overwrite` is false.
        MissingError: nibabel is not installed.
    """
    if not is_nifti(path):
        suffix = Path(path).suffix.lower()
        raise InputError(
            f"{os.fspath(path)} has {f'the suffix {suffix}' if suffix else 'no suffix'}; a volume is written as .nii.gz or .nii"
        )
    nibabel = medical("nibabel")
    source = _from_bytes(header) if header else None
    if source is not None and not np.array_equal(header_affine(source)[0], affine):
        source = None
    second = max(values.shape) > _LONGEST or isinstance(source, nibabel.Nifti2Header)
    made = nibabel.Nifti2Header() if second else nibabel.Nifti1Header()
    made.set_data_dtype(np.float32)
    made.set_data_shape(values.shape)
    if source is None:
        _place(made, affine)
    else:
        for field in _GEOMETRY:
            made[field] = source[field]
        made["pixdim"][:4] = source["pixdim"][:4]
        made["xyzt_units"] = int(source["xyzt_units"]) & 7
    if unit:
        made["descrip"] = f"unit: {unit}".encode()[:79]
    if metadata:
        text = json.dumps(dict(metadata), ensure_ascii=True).encode("ascii")
        made.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, text))
    image = (nibabel.Nifti2Image if second else nibabel.Nifti1Image)(values, None, made)
    with atomic_path(path, overwrite) as temporary, temporary.open("wb") as raw:
        if Path(path).suffix.lower() == ".gz":
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(raw)


def _place(header: Any, affine: Float64[np.ndarray, "4 4"]) -> None:
    """Write an affine as the sform, and as the qform if that can hold it: it has no shears."""
    header.set_xyzt_units("mm")
    header.set_qform(affine, code="scanner")
    if not _agree(affine, _qform(header), header.get_data_shape()):
        header["qform_code"] = 0
    header.set_sform(affine, code="scanner")


def header_unit(header: Any) -> str:
    """The unit of the values that `save_volume` noted in the description; "" if there is none."""
    found = re.fullmatch(r"unit: (.+)", bytes(header["descrip"].item()).rstrip(b"\0").decode("utf-8", "replace"))
    return found[1] if found else ""


def read_comment(path: str | os.PathLike[str]) -> str:
    """The text of a NIfTI file's first comment; "" if it has none. The voxels are not read.

    Raises:
        InputError: it is no NIfTI file.
        MissingError: nibabel is not installed.
    """
    nibabel = medical("nibabel")
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{os.fspath(path)} can't be read as NIfTI ({_first_line(error)}); give a volume that calotype wrote") from None
    for extension in getattr(image.header, "extensions", ()):
        if extension.get_code() == _COMMENT:
            return str(extension.content.rstrip(b"\0").decode("utf-8", "replace"))
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
