"""NIfTI files: the geometry in their headers, volumes written with it, and what made them in a comment. nibabel is imported when needed."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from calotype.errors import InputError, MissingError
from calotype.imaging.files import atomic_path
from calotype.imaging.grids import divided

SUFFIXES = (".nii", ".nii.gz")
_COMMENT = 6
"""The code of header extensions that hold a comment."""
_MILLIMETRES = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""By the code of the unit of length: unknown (taken as mm), metre, millimetre, micrometre."""
_UNITS = {
    "ppm": "ppm", "ppb": "ppb", "hz": "hz", "hertz": "hz", "rad": "radians", "rads": "radians", "radian": "radians", "radians": "radians",
    "rad/s": "rad/s", "tesla": "tesla",
}  # fmt: skip
"""Words of a description that name a unit."""
_PER_SECOND = re.compile(r"rad(?:ian)?s?(?:\s*/\s*|\s+per\s+|[\s*.]*(?=s(?:ec)?\s*\^?\s*-))s(?:ec(?:ond)?s?)?(?:\s*\^?\s*-\s*1)?\b")
"""Radians per second, as descriptions write it."""
MOST_EXTENSIONS = 1 << 24
"""Bytes between a header and its voxels that are read at the most."""
SCANNER = 1
"""The code of a placement in the scanner's own frame."""
_FRAMES = {1: "the scanner's", 2: "aligned to another scan", 3: "Talairach", 4: "MNI", 5: "a template's"}
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

    A header may hold two placements, sform and qform, each with a code: 1 is the scanner's frame, in which the main field runs along z; 2
    is another scan's frame, 3 to 5 a template's. The scanner's counts if there is one, then the sform, the qform, the voxel sizes.

    Args:
        header: nibabel's `Nifti1Header` or `Nifti2Header`.

    Returns:
        The affine, and what is doubtful about it ("" if nothing).
    """
    found = header_placements(header)
    if not found:
        affine = np.diag([*(float(size) for size in header["pixdim"][1:4]), 1.0])
        affine[:3] *= _scale(header)
        return affine, "its header doesn't say how it lies in the patient; the axes are taken as left-right, back-front, feet-head"
    form, (code, affine) = next(((form, each) for form, each in found.items() if each[0] == SCANNER), next(iter(found.items())))
    doubt = ""
    if len(found) == 2:
        (other, (other_code, there)) = next((name, each) for name, each in found.items() if name != form)
        if not _agree(affine, there, header.get_data_shape()):
            doubt = (
                f"its {form} ({_FRAMES.get(code, code)}) and {other} ({_FRAMES.get(other_code, other_code)}) place the voxels differently; "
                f"the {form} is used"
            )
    return affine, doubt


def header_placements(header: Any) -> dict[str, tuple[int, Float64[np.ndarray, "4 4"]]]:
    """The placements that a header has, sform first: their codes and affines in mm."""
    forms = {"sform": np.array(header.get_sform(), dtype=np.float64), "qform": _qform(header)}
    found = {form: (int(header[f"{form}_code"]), affine) for form, affine in forms.items() if int(header[f"{form}_code"]) > 0}
    if len(found) == 2 and not np.isfinite(found["qform"][1]).all():
        del found["qform"]
    for _, affine in found.values():
        affine[:3] *= _scale(header)
    return found


def kept_affine(block: bytes) -> Float64[np.ndarray, "4 4"]:
    """What a kept header (`Volume.header`) says of the voxels' places, as `header_affine` reads it."""
    return header_affine(_from_bytes(block))[0]


def placements(block: bytes) -> list[Float64[np.ndarray, "4 4"]]:
    """Every affine that a kept header (`Volume.header`) holds."""
    return [affine for _, affine in header_placements(_from_bytes(block)).values()]


def divided_header(block: bytes, factor: Sequence[int]) -> bytes:
    """A kept header for the grid that cuts every voxel into `factor` finer ones: both placements are divided and keep their codes.

    Raises:
        InputError: it is no NIfTI header.
    """
    header = _from_bytes(block)
    forms = ("sform", header.get_sform(), header.set_sform), ("qform", _qform(header), header.set_qform)
    header["pixdim"][1:4] = np.array(header["pixdim"][1:4], dtype=np.float64) / factor
    for form, affine, place in forms:
        code = int(header[f"{form}_code"])
        if code > 0 and np.isfinite(affine).all():
            place(divided(np.array(affine, dtype=np.float64), factor), SCANNER)
            header[f"{form}_code"] = code
    shape = [side * times for side, times in zip(header.get_data_shape()[:3], factor, strict=True)]
    if max(shape) <= _LONGEST:
        header.set_data_shape(shape)
    return header_bytes(header)


def in_scanner_frame(block: bytes) -> bool:
    """Whether one of a kept header's placements is the scanner's, so that the main field's direction can be read off it."""
    return any(code == SCANNER for code, _ in header_placements(_from_bytes(block)).values())


def _scale(header: Any) -> float:
    return _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)


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
    try:
        return kind(block, check=False)
    except nibabel.wrapstruct.WrapStructError:
        raise InputError(f"a volume keeps {len(block)} bytes that are no NIfTI header; read it again from its file") from None


def save_volume(
    values: Float32[np.ndarray, "x y z"] | Int32[np.ndarray, "x y z"] | UInt8[np.ndarray, "x y z"],
    affine: Float64[np.ndarray, "4 4"],
    unit: str,
    header: bytes,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    overwrite: bool = False,
) -> None:
    """Write NIfTI in the values' own type, compressed if the name ends in .gz; the same volume gives the same bytes.

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
    made.set_data_dtype(values.dtype)
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
    """The unit of the values by the description: what `save_volume` noted there, or the one unit that it names; "" if there is none.

    Example:
        >>> nibabel = medical("nibabel")
        >>> header = nibabel.Nifti1Header()
        >>> header["descrip"] = b"B0 field map [Hz]"
        >>> header_unit(header)
        'hz'
    """
    text = bytes(header["descrip"].item()).rstrip(b"\0").decode("utf-8", "replace")
    noted = re.fullmatch(r"unit: (.+)", text)
    return noted[1] if noted else named_unit(text)


def named_unit(text: str) -> str:
    """The one unit of a field that a text names; "" if it names none, or several.

    Example:
        >>> named_unit("fieldmap (rad/s), FSL"), named_unit("PPM"), named_unit("Hz to ppm")
        ('rad/s', 'ppm', '')
    """
    words = re.findall(r"[a-z]+(?:/[a-z]+)*", _PER_SECOND.sub(" rad/s ", text.lower()))
    named = {_UNITS[word] for word in words if word in _UNITS}
    return named.pop() if len(named) == 1 else ""


@contextmanager
def unpacked(path: Path, name: str = "file") -> Iterator[BufferedIOBase]:
    """A file, unpacked while it is read if it is compressed.

    Raises:
        InputError: what is read of the compressed file is damaged or ends early.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw) as file:
                yield file
        except EOFError:
            raise InputError(f"{name}: {path} is truncated (its gzip stream ends early); copy or save it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{name}: {path} is damaged ({error}); copy or save it again") from None


def read_header(file: BufferedIOBase) -> Any | None:
    """The header at the beginning of a single-file NIfTI, nibabel's `Nifti1Header` or `Nifti2Header`; None if there is none.

    The file is left behind the header's block.
    """
    nibabel = medical("nibabel")
    kinds = {348: (nibabel.Nifti1Header, slice(344, 347), b"n+1"), 540: (nibabel.Nifti2Header, slice(4, 7), b"n+2")}
    block = file.read(348)
    for order, sign in (("little", "<"), ("big", ">")):
        size = int.from_bytes(block[:4], order)  # type: ignore[arg-type]
        if size in kinds:
            kind, place, magic = kinds[size]
            block += file.read(size - len(block))
            if len(block) == size and block[place] == magic:
                return kind(block, endianness=sign, check=False)
    return None


def read_comment(path: str | os.PathLike[str]) -> str:
    """The text of a NIfTI file's first comment; "" if it has none. The voxels are not read, nor a comment of more than 16 MB.

    Raises:
        InputError: it is no NIfTI file, or may not be read.
        MissingError: nibabel is not installed.
    """
    try:
        return _comment(path)
    except OSError as error:
        raise InputError(f"{os.fspath(path)} can't be read ({error.strerror}); check its permissions") from None


def _comment(path: str | os.PathLike[str]) -> str:
    with unpacked(Path(path)) as file:
        header = read_header(file)
        if header is None:
            raise InputError(f"{os.fspath(path)} can't be read as NIfTI; give a volume that calotype wrote")
        order = "<" if header.endianness == "<" else ">"
        left = MOST_EXTENSIONS
        if file.read(4)[:1] in (b"", b"\0"):
            return ""
        while left > 8:
            head = file.read(8)
            if len(head) < 8:
                break
            size, code = struct.unpack(f"{order}ii", head)
            if not 8 <= size <= left or size % 16:
                break
            content = file.read(size - 8)
            if code == _COMMENT:
                return content.rstrip(b"\0").decode("utf-8", "replace")
            left -= size
    return ""
