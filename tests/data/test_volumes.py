"""Volumes from files: NIfTI of both versions, arrays, and everything that is refused."""

from __future__ import annotations

import gzip
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nibabel.testing
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calotype.data import as_volume, read_volume, volume_mask
from calotype.data.voxels import MAX_VOXELS
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Volume
from tests.recorder import Recorder

SHAPE = (7, 5, 6)
RNG = np.random.default_rng(0)
VALUES = RNG.standard_normal(SHAPE).astype(np.float32)
OBLIQUE = np.array([[0.7, -0.3, 0.1, -31.4], [0.2, 0.75, -0.5, 12.6], [0.05, 0.3, 1.9, 70.25], [0, 0, 0, 1]])
LOOKS = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]
OWN = Path(nibabel.testing.data_path)  # type: ignore[attr-defined]
"""Real files of scanners and of other programs, which nibabel brings along."""


def read(path: Path) -> tuple[Volume, list[str]]:
    notes = Recorder()
    return read_volume(path, name="field", events=notes), notes.notes


def geometry(path: Path) -> dict[str, Any]:
    """Everything of a header that says where voxels lie."""
    header = nibabel.load(path).header
    fields = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    told = {field: header[field].item() for field in fields}
    told |= {row: header[row].tolist() for row in ("srow_x", "srow_y", "srow_z")}
    return told | {"pixdim": header["pixdim"][:4].tolist(), "version": type(header).__name__}


def write(path: Path, values: np.ndarray = VALUES, affine: Any = OBLIQUE, *, kind: Any = nibabel.Nifti1Image, **fields: Any) -> Path:
    image = kind(values, affine)
    for field, value in fields.items():
        image.header[field] = value
    image.to_filename(path)
    return path


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_every_order_of_axes_goes_round_exactly(tmp_path: Path, look: tuple[Any, Any], kind: Any) -> None:
    image = kind(VALUES, OBLIQUE).as_reoriented(np.array(list(zip(*look, strict=True)), dtype=float))
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.to_filename(tmp_path / "in.nii.gz")
    volume, notes = read(tmp_path / "in.nii.gz")
    loaded = nibabel.load(tmp_path / "in.nii.gz")
    assert np.array_equal(volume.affine.numpy(), loaded.affine)
    assert np.array_equal(volume.to_numpy(), np.asarray(loaded.dataobj))
    volume.save(tmp_path / "out.nii.gz")
    assert geometry(tmp_path / "out.nii.gz") == geometry(tmp_path / "in.nii.gz")
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj), volume.to_numpy())
    # OBLIQUE has shears, which the quaternion leaves out.
    assert ["place the voxels differently" in note for note in notes] == [True]


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(2, 9)] * 3),
    st.lists(st.floats(-3, 3), min_size=12, max_size=12),
    st.sampled_from([np.uint8, np.int16, np.int32, np.float32, np.float64]),
    st.sampled_from([".nii", ".nii.gz"]),
    st.sampled_from([(0, 0), (0, 1), (1, 0), (2, 4), (4, 1)]),
)
def test_any_affine_type_and_code_goes_round(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], numbers: list[float], dtype: Any, suffix: str, codes: tuple[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("v")
    affine = np.vstack([np.reshape(numbers, (3, 4)) + np.eye(3, 4) * 7, [0, 0, 0, 1]])
    image = nibabel.Nifti1Image((RNG.uniform(0, 100, shape)).astype(dtype), None)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    image.to_filename(folder / f"in{suffix}")
    volume, notes = read(folder / f"in{suffix}")
    volume.save(folder / f"out{suffix}")
    assert geometry(folder / f"out{suffix}") == geometry(folder / f"in{suffix}")
    assert np.array_equal(volume.to_numpy(), np.asarray(image.dataobj).astype(np.float32))
    again, _ = read(folder / f"out{suffix}")
    assert torch.equal(again.affine, volume.affine)
    assert any("doesn't say how it lies" in note for note in notes) == (codes == (0, 0))


def test_nifti2_keeps_its_double_precision(tmp_path: Path) -> None:
    affine = OBLIQUE + np.pi * 1e-9
    affine[3] = [0, 0, 0, 1]
    volume, _ = read(write(tmp_path / "a.nii.gz", affine=affine, kind=nibabel.Nifti2Image))
    assert np.array_equal(volume.affine.numpy(), affine)
    volume.save(tmp_path / "b.nii.gz")
    assert np.array_equal(nibabel.load(tmp_path / "b.nii.gz").affine, affine)


def test_big_endian_files_and_slopes(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    header.set_data_shape(SHAPE)
    header.set_sform(np.diag([2.0, 3, 4, 1]), code=1)
    header.set_slope_inter(0.25, -3)
    counts = RNG.integers(-400, 400, SHAPE).astype(">i2")
    header["vox_offset"] = 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + counts.tobytes(order="F"))
    volume, notes = read(tmp_path / "a.nii")
    assert np.array_equal(volume.to_numpy(), counts * 0.25 - 3)
    assert volume.spacing == (2, 3, 4)
    assert notes == []
    volume.save(tmp_path / "b.nii")
    assert geometry(tmp_path / "b.nii") == geometry(tmp_path / "a.nii")


def test_other_units_of_length_are_read_as_millimetres(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, np.diag([800.0, 800, 2000, 1]))
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "a.nii")
    volume, _ = read(tmp_path / "a.nii")
    assert volume.spacing == pytest.approx((0.8, 0.8, 2.0))
    volume.save(tmp_path / "b.nii")
    assert geometry(tmp_path / "b.nii") == geometry(tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "b.nii").header.get_xyzt_units()[0] == "micron"


def test_the_unit_of_the_values_comes_back(tmp_path: Path) -> None:
    for unit in ("ppm", "µT", ""):
        Volume.from_numpy(VALUES, np.eye(4), unit).save(tmp_path / "a.nii.gz", overwrite=True)
        assert read(tmp_path / "a.nii.gz")[0].unit == unit


def test_disagreeing_forms_are_noted_and_both_kept(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_qform(np.diag([1.0, 1, 1, 1]), code=1)
    image.set_sform(np.diag([2.0, 2, 2, 1]), code=4)
    image.to_filename(tmp_path / "a.nii")
    volume, notes = read(tmp_path / "a.nii")
    assert volume.spacing == (1, 1, 1)
    assert notes == ["field: its qform (the scanner's) and sform (MNI) place the voxels differently; the qform is used"]
    volume.with_values(volume.values * 2, "ppm").save(tmp_path / "b.nii")
    assert geometry(tmp_path / "b.nii") == geometry(tmp_path / "a.nii")


def test_one_volume_in_four_dimensions_is_taken(tmp_path: Path) -> None:
    for shape in ((*SHAPE, 1), (*SHAPE, 1, 1)):
        volume, notes = read(write(tmp_path / "a.nii.gz", VALUES.reshape(shape)))
        assert np.array_equal(volume.to_numpy(), VALUES)
        assert notes == [f"field: {len(shape)}-D with one volume, which is taken"]


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz").rename(tmp_path / "a.dat")
    assert read(path)[1] == ["field: a.dat is a NIfTI file"]
    unpacked = tmp_path / "b.nii.gz"
    unpacked.write_bytes(gzip.decompress(path.read_bytes()))
    assert np.array_equal(read(unpacked)[0].to_numpy(), VALUES)


def test_arrays_say_that_they_have_no_voxel_size(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES.astype(np.float64))
    volume, notes = read(tmp_path / "a.npy")
    assert np.array_equal(volume.to_numpy(), VALUES)
    assert notes == ["field: a.npy has no voxel size; 1 x 1 x 1 mm and axes that run right, front, up are assumed"]
    for value in (VALUES, torch.from_numpy(VALUES), VALUES[..., None], np.asfortranarray(VALUES), VALUES > 0):
        assert as_volume(value).size == SHAPE
    volume = as_volume(VALUES)
    assert as_volume(volume) is volume
    assert np.array_equal(as_volume(str(tmp_path / "a.npy")).to_numpy(), VALUES)
    assert as_volume(VALUES).values.data_ptr() != torch.from_numpy(VALUES).data_ptr()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anatomical.nii", (33, 41, 25)),
        ("example_nifti2.nii.gz", "holds 2 volumes"),
        ("example4d.nii.gz", "4-D (128x96x24x2) and holds 2 volumes"),
        ("functional.nii", "holds 20 volumes"),
        ("analyze.hdr", "pair of files"),
        ("nifti1.hdr", "pair of files"),
        ("test.mgz", "no NIfTI file"),
        ("minc1_4d.mnc", "no NIfTI file"),
        ("0.dcm", "single DICOM file"),
        ("standard.nii.gz", (4, 5, 7)),
    ],
)
def test_real_files(name: str, expected: Any) -> None:
    if isinstance(expected, tuple):
        volume, _ = read(OWN / name)
        assert volume.size == expected
        assert np.array_equal(volume.affine.numpy(), nibabel.load(OWN / name).affine)
        assert np.array_equal(volume.to_numpy(), nibabel.load(OWN / name).get_fdata(dtype=np.float32))
    else:
        with pytest.raises(InputError) as caught:
            read(OWN / name)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


Make = Callable[[Path], Path]


def npy(header: str) -> bytes:
    """A .npy file of version 1 with this header and 64 numbers."""
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(256)


def saved(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def array(values: np.ndarray) -> Make:
    def make(folder: Path) -> Path:
        np.save(folder / "a.npy", values, allow_pickle=True)
        return folder / "a.npy"

    return make


def patched(**fields: Any) -> Make:
    """A file whose header was changed by hand, as (type, values) by field."""

    def make(folder: Path) -> Path:
        content = bytearray(PLAIN)
        for field, (code, *values) in fields.items():
            struct.pack_into(f"<{len(values)}{code}", content, nibabel.nifti1.header_dtype.fields[field][1], *values)
        return saved("a.nii", bytes(content))(folder)

    return make


PLAIN = nibabel.Nifti1Image(VALUES, OBLIQUE).to_bytes()
PACKED = gzip.compress(PLAIN)
FLIPPED = PACKED[: len(PACKED) // 2] + bytes([PACKED[len(PACKED) // 2] ^ 0xFF]) + PACKED[len(PACKED) // 2 + 1 :]
BROKEN: dict[str, tuple[Make, str]] = {
    "missing": (lambda folder: folder / "nowhere.nii.gz", "does not exist"),
    "empty": (saved("a.nii.gz", b""), "is empty"),
    "text": (saved("a.nii", b"these are words, no voxels"), "is a text file, no volume"),
    "packed text": (saved("a.nii.gz", gzip.compress(b"hello" * 200)), "is no NIfTI file"),
    "truncated gzip": (saved("a.nii.gz", PACKED[: len(PACKED) // 2]), "is truncated"),
    "truncated gzip header": (saved("a.nii.gz", PACKED[:40]), "is truncated"),
    "truncated checksum": (saved("a.nii.gz", PACKED[:-4]), "is truncated"),
    "truncated": (saved("a.nii", PLAIN[:600]), "is truncated"),
    "truncated header": (saved("a.nii", PLAIN[:200]), "is no NIfTI file"),
    "damaged gzip": (saved("a.nii.gz", FLIPPED), "is (damaged|truncated)"),
    "2-D": (lambda folder: write(folder / "a.nii", VALUES[:, :, 0]), r"is 2-D \(7x5 values\)"),
    "one slice": (lambda folder: write(folder / "a.nii", VALUES[:, :, :1]), "7x5x1 voxels, each side needs at least 2"),
    "4-D": (lambda folder: write(folder / "a.nii", np.stack([VALUES] * 3, -1)), r"4-D \(7x5x6x3\) and holds 3 volumes; give one"),
    "complex": (lambda folder: write(folder / "a.nii", VALUES.astype(np.complex64)), "take its magnitude or its phase"),
    "colour": (lambda folder: write(folder / "a.nii", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "colours"),
    "NaN": (
        lambda folder: write(folder / "a.nii", np.where(VALUES > 1.5, np.nan, VALUES)),
        rf"{(VALUES > 1.5).sum()} of 210 voxels are NaN or infinite; set them",
    ),
    "too large": (patched(dim=("h", 3, 1024, 1024, 1024)), "1074 million voxels, at most 134"),
    "negative side": (patched(dim=("h", 3, -7, 5, 6)), "each side of a volume needs at least 2"),
    "no axes": (patched(dim=("h", 0, 7, 5, 6)), "makes no sense"),
    "too many axes": (patched(dim=("h", 90, 7, 5, 6)), "makes no sense"),
    "unknown type": (patched(datatype=("h", 1)), "makes no sense"),
    "flat sform": (patched(srow_x=("f", 0, 0, 0, 0), sform_code=("h", 1)), "don't span the space"),
    "sizes of 0": (patched(pixdim=("f", 1, 0, 0, 0), sform_code=("h", 0), qform_code=("h", 0)), "don't span the space"),
    "sform of NaN": (patched(srow_x=("f", np.nan, 0, 0, 0), sform_code=("h", 1)), "NaN or infinite"),
    "no quaternion": (patched(quatern_b=("f", 2), sform_code=("h", 0), qform_code=("h", 1)), "NaN or infinite"),
    "complex array": (array(VALUES.astype(np.complex64)), "take its magnitude or its phase"),
    "words": (array(np.full(SHAPE, "a")), "a volume has real numbers"),
    "objects": (array(np.array([[[None, "a"]]], dtype=object)), "save it again with numpy.save"),
    "flat array": (array(VALUES[0]), "is 2-D"),
    "cut array": (saved("a.npy", b"\x93NUMPY\x01\x00v"), "damaged"),
    "array with an open header": (saved("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, 4), ")), "damaged"),
    "array with a false size": (saved("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4, 4)}")), "damaged"),
    "empty folder": (lambda folder: folder, "is empty; give a folder"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, match = BROKEN[case]
    path = make(tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("field: ")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=5), st.booleans())
def test_a_damaged_header_is_read_or_refused(tmp_path: Path, changes: list[tuple[int, int]], packed: bool) -> None:
    """Whatever bytes of a header are wrong: a volume with a sound affine, or one line."""
    content = bytearray(PLAIN)
    for place, byte in changes:
        content[place] = byte
    path = saved("a.nii", gzip.compress(content) if packed else bytes(content))(tmp_path)
    try:
        volume, _ = read(path)
    except InputError as error:
        told = str(error)
    else:
        told = ""
        assert np.isfinite(volume.affine.numpy()).all()
        assert torch.isfinite(volume.values).all()
    assert "\n" not in told


def test_values_of_other_shapes_and_types_are_refused() -> None:
    for value, match in (
        (VALUES[0], "is 2-D"),
        (torch.zeros(4, 4, 4, 3), "holds 3 volumes"),
        (VALUES.astype(np.complex64), "complex"),
        (np.full(SHAPE, "a"), "real numbers"),
        (np.zeros((1, 8, 8)), "each side needs at least 2"),
    ):
        with pytest.raises(ShapeError, match=match):
            as_volume(value)
    with pytest.raises(InputError, match="a list was given"):
        as_volume([[1]])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 of 8 voxels are NaN"):
        as_volume(Volume.from_numpy([[[np.nan, 0], [0, 0]]] * 1 + [[[0, 0], [0, 0]]], np.eye(4)))  # type: ignore[arg-type]
    assert MAX_VOXELS > 400**3


class TestMasks:
    field = Volume.from_numpy(VALUES, OBLIQUE, "ppm")
    inside = RNG.uniform(size=SHAPE) > 0.4

    @pytest.mark.parametrize("scale", [1, 255, 0.5])
    def test_ones_bytes_and_fractions(self, scale: float) -> None:
        mask = volume_mask(self.field.with_values(torch.from_numpy(self.inside * np.float32(scale))), self.field)
        assert mask.dtype == torch.bool
        assert np.array_equal(mask.numpy(), self.inside)

    def test_labels_all_belong_to_it_and_blurred_edges_are_cut_at_half(self) -> None:
        labels = torch.from_numpy(RNG.integers(0, 5, SHAPE).astype(np.float32))
        assert torch.equal(volume_mask(self.field.with_values(labels), self.field), labels > 0)
        soft = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
        assert torch.equal(volume_mask(self.field.with_values(soft), self.field), soft >= soft.max() / 2)

    def test_files_and_arrays(self, tmp_path: Path) -> None:
        path = write(tmp_path / "m.nii.gz", self.inside.astype(np.uint8))
        for value in (path, self.inside, torch.from_numpy(self.inside)):
            assert np.array_equal(volume_mask(value, self.field).numpy(), self.inside)

    def test_what_is_no_mask_of_this_volume_is_refused(self, tmp_path: Path) -> None:
        elsewhere = write(tmp_path / "m.nii.gz", self.inside.astype(np.uint8), np.diag([1.0, 1, 1, 1]))
        smaller = write(tmp_path / "s.nii.gz", self.inside[:5].astype(np.uint8))
        for value, match in (
            (elsewhere, "mask: it has voxels of 1 x 1 x 1 mm, field has"),
            (smaller, "mask: it has 5x5x6 voxels, field has 7x5x6"),
            (self.field, "a mask is 0 outside"),
            (np.zeros(SHAPE), "marks no voxel"),
        ):
            with pytest.raises(InputError, match=match):
                volume_mask(value, self.field)
