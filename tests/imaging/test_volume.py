"""Volumes: their grid, their files and their picture."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.errors import InputError, MissingError, ShapeError
from calotype.imaging.grids import check_affine, check_same_grid, orientation, spacing
from calotype.imaging.media import read_metadata
from calotype.imaging.planes import PANEL, grey_window
from calotype.imaging.types import Volume

METADATA = {"calotype": '{"parameters": "Köln, 20 %"}', "more": "1"}
LOOKS = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)]
"""The 48 ways in which an array's axes can lie along the patient's."""


def body(affine: Any = None, shape: tuple[int, int, int] = (11, 14, 9)) -> Volume:
    """An ellipsoid with a bright blob towards the right front top."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij"))
    values = (np.square(grid).sum(axis=0) < 0.8) * 1.0
    values[np.linalg.norm(grid - 0.35, axis=0) < 0.5] = 3.0
    return Volume.from_numpy(values, np.diag([2.0, 1.5, 3.0, 1.0]) if affine is None else affine, "ppm")


def turned(volume: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same body in an array with other axes."""
    image = nibabel.Nifti1Image(volume.to_numpy(), volume.affine.numpy())
    other = image.as_reoriented(np.array(list(zip(order, flips, strict=True)), dtype=float))
    return Volume.from_numpy(np.asarray(other.dataobj), other.affine, volume.unit)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_volumes_are_nifti_with_metadata(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"chi{suffix}"
    body().save(path, metadata=METADATA)
    assert read_metadata(path) == METADATA
    image = nibabel.load(path)
    assert np.array_equal(image.affine, body().affine.numpy())
    assert np.array_equal(np.asarray(image.dataobj), body().to_numpy())
    assert image.header.get_xyzt_units()[0] == "mm"
    raw = nibabel.Nifti1Header(image.header.binaryblock)
    assert (int(raw["qform_code"]), int(raw["sform_code"])) == (1, 1)
    with pytest.raises(InputError, match="exists already"):
        body().save(path)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_the_same_volume_is_the_same_bytes_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        body().save(tmp_path / name, metadata=METADATA)
    first = (tmp_path / "a.nii.gz").read_bytes()
    assert first == (tmp_path / "b.nii.gz").read_bytes()
    # No time and no file name in the gzip header.
    assert first[3:8] == bytes(5)


@pytest.mark.parametrize("look", LOOKS)
def test_every_order_of_axes_is_kept_and_looks_the_same(look: tuple[Any, Any], tmp_path: Path) -> None:
    volume = turned(body(), *look)
    volume.save(tmp_path / "v.nii.gz")
    image = nibabel.load(tmp_path / "v.nii.gz")
    assert np.array_equal(image.affine, volume.affine.numpy())
    assert np.array_equal(np.asarray(image.dataobj), volume.to_numpy())
    assert orientation(volume.affine.numpy()).codes == "".join(nibabel.aff2axcodes(volume.affine.numpy()))
    assert np.array_equal(np.asarray(volume.to_pil()), np.asarray(body().to_pil()))


def test_an_oblique_affine_keeps_its_rotation_and_a_sheared_one_its_shear(tmp_path: Path) -> None:
    angle = np.radians(27)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ np.diag([0.8, 0.8, 2])
    oblique = np.block([[turn, np.array([[3.3], [-20.1], [7.7]])], [np.zeros((1, 3)), np.ones((1, 1))]])
    body(oblique).save(tmp_path / "o.nii")
    header = nibabel.load(tmp_path / "o.nii").header
    for form in (header.get_sform(), header.get_qform()):
        assert np.allclose(form, oblique, atol=1e-5)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    sheared = oblique.copy()
    sheared[:3, 2] += [0.0, 0.7, 0.0]
    body(sheared).save(tmp_path / "s.nii")
    header = nibabel.load(tmp_path / "s.nii").header
    assert np.allclose(header.get_sform(), sheared, atol=1e-5)
    # A quaternion can't hold a shear, so no viewer may take it for the truth.
    assert int(header["qform_code"]) == 0


def test_sides_of_more_than_a_nifti1_header_holds(tmp_path: Path) -> None:
    Volume(torch.zeros(40000, 2, 2), torch.eye(4, dtype=torch.float64)).save(tmp_path / "long.nii.gz")
    image = nibabel.load(tmp_path / "long.nii.gz")
    assert isinstance(image, nibabel.Nifti2Image)
    assert image.shape == (40000, 2, 2)


def test_a_header_of_another_grid_is_not_repeated(tmp_path: Path) -> None:
    nibabel.Nifti1Image(body().to_numpy(), np.diag([5.0, 5, 5, 1])).to_filename(tmp_path / "other.nii")
    block = (tmp_path / "other.nii").read_bytes()[:348]
    replace(body(), header=block).save(tmp_path / "v.nii")
    assert np.array_equal(nibabel.load(tmp_path / "v.nii").affine, body().affine.numpy())


def test_values_on_the_same_grid() -> None:
    volume = replace(body(), header=b"x" * 348)
    other = volume.with_values(torch.ones(volume.size), "Hz")
    assert (other.unit, other.header, other.spacing) == ("Hz", volume.header, (2.0, 1.5, 3.0))
    assert volume.with_values(torch.ones(volume.size)).unit == "ppm"
    with pytest.raises(ShapeError, match="one grid"):
        volume.with_values(torch.ones(2, 2, 2))


@pytest.mark.parametrize(
    ("values", "affine", "error", "match"),
    [
        (torch.zeros(4, 4), torch.eye(4, dtype=torch.float64), ShapeError, "must be float32"),
        (torch.zeros(4, 4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64), ShapeError, "must be float32"),
        (torch.zeros(0, 4, 4), torch.eye(4, dtype=torch.float64), ShapeError, "must be float32"),
        (torch.zeros(4, 4, 4), torch.eye(4), ShapeError, "float64"),
        (torch.zeros(4, 4, 4), torch.eye(3, dtype=torch.float64), ShapeError, r"\[4, 4\]"),
        (torch.zeros(4, 4, 4), torch.full((4, 4), torch.nan, dtype=torch.float64), InputError, "NaN"),
        (torch.zeros(4, 4, 4), torch.ones(4, 4, dtype=torch.float64), InputError, "last row"),
        (torch.zeros(4, 4, 4), torch.diag(torch.tensor([1.0, 1, 0, 1], dtype=torch.float64)), InputError, "span"),
    ],
)
def test_other_volumes_are_refused(values: torch.Tensor, affine: torch.Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        Volume(values, affine)
    assert "\n" not in str(caught.value)


def test_axes_in_one_plane_are_refused_at_any_scale() -> None:
    flat = np.array([[1.0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    for scale in (1e-6, 1.0, 1e6):
        with pytest.raises(InputError, match="span"):
            check_affine(flat @ np.diag([scale, scale, scale, 1]))
        check_affine(np.diag([scale, scale, 1000 * scale, 1]))


def test_files_that_volumes_cannot_be_written_to(tmp_path: Path) -> None:
    for name, match in (("v.mgz", "suffix .mgz"), ("v.gz", "suffix .gz"), ("v", "no suffix")):
        with pytest.raises(InputError, match=match):
            body().save(tmp_path / name)
    (tmp_path / "bad.nii").write_text("hello")
    with pytest.raises(InputError, match="can't be read as NIfTI"):
        read_metadata(tmp_path / "bad.nii")
    nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4)).to_filename(tmp_path / "foreign.nii.gz")
    assert read_metadata(tmp_path / "foreign.nii.gz") == {}
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"K\xf6ln, and no JSON"))
    image.to_filename(tmp_path / "commented.nii.gz")
    assert read_metadata(tmp_path / "commented.nii.gz") == {}


def test_without_nibabel_you_are_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(MissingError, match=r'pip install "calotype\[medical\]"'):
        body().save(tmp_path / "v.nii.gz")


class TestGrids:
    def test_the_same_grid_may_differ_by_rounding(self) -> None:
        check_same_grid(body(np.float32(np.diag([0.8, 0.8, 2.1, 1]))), body(np.diag([0.8, 0.8, 2.1, 1])))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (np.diag([1.1, 1, 1, 1]), "voxels of 2.2 x 1.5 x 3 mm, field has 2 x 1.5 x 3"),
            (np.diag([-1.0, 1, 1, 1]), "axes LAS, field has RAS"),
            ([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1]], r"shifted by \(0.5, 0, -2\) mm"),
            (
                [[np.cos(0.1), -np.sin(0.1), 0, 0], [np.sin(0.1), np.cos(0.1), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
                "turned by up to 5.73 degrees",
            ),
        ],
    )
    def test_other_grids_are_refused_with_what_differs(self, change: Any, match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            check_same_grid(body(np.array(change, dtype=float) @ np.diag([2.0, 1.5, 3.0, 1.0])), body())
        assert "\n" not in str(caught.value)

    def test_a_small_angle_counts_where_it_moves_voxels(self) -> None:
        """A hundredth of a degree is nothing over a few voxels and too much over a hundred: the far corner counts."""
        angle = np.radians(1e-2)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        check_same_grid(body(turn), body(np.eye(4)))
        big = torch.zeros(100, 2, 2)
        with pytest.raises(InputError, match="turned"):
            check_same_grid(Volume(big, torch.tensor(turn)), Volume(big, torch.eye(4, dtype=torch.float64)))

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_orientation_agrees_with_nibabel_on_rotations(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        cosines = np.sort(np.abs(turn), axis=0)
        affine = np.eye(4)
        affine[:3, :3] = turn * rng.uniform(0.3, 5, 3)
        if (cosines[-1] > 0.8).all():
            assert orientation(affine).codes == "".join(nibabel.aff2axcodes(affine))
        assert sorted(orientation(affine).axes) == [0, 1, 2]
        assert np.allclose(spacing(affine), nibabel.affines.voxel_sizes(affine))


class TestPicture:
    def test_proportions_are_those_of_the_body(self) -> None:
        """A ball in voxels of 1 x 2 x 4 mm is round in all three planes."""
        shape, sizes = (64, 32, 16), (1.0, 2.0, 4.0)
        grid = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, sizes, strict=True)], indexing="ij"))
        picture = np.asarray(Volume.from_numpy(np.linalg.norm(grid, axis=0) < 24, np.diag([*sizes, 1])).to_pil())
        panel = PANEL + 28
        for left in (0, panel, 2 * panel):
            ball = picture[14:-14, left + 14 : left + panel - 14] > 128
            assert ball.shape == (PANEL, PANEL)
            for axis in (0, 1):
                extent = np.flatnonzero(ball.any(axis=axis))
                assert extent[-1] - extent[0] == pytest.approx(48 * PANEL / 64, abs=4 * PANEL / 64)

    def test_left_is_left_and_up_is_up(self) -> None:
        picture = np.asarray(body().to_pil()).astype(float)
        width, depth, height = (round(n * s * PANEL / 27) for n, s in zip((11, 14, 9), (2.0, 1.5, 3.0), strict=True))
        rows = max(depth, height)
        left = 14
        for w, h in ((width, depth), (width, height), (depth, height)):
            top = 14 + (rows - h) // 2
            bright = np.argwhere(picture[top : top + h, left : left + w] > 200).mean(axis=0)
            assert bright[0] < 0.45 * h  # towards the front or the head, which are up
            assert bright[1] > 0.55 * w  # towards the right or the front
            left += w + 28

    def test_greys_are_robust_and_symmetric_for_signed_values(self) -> None:
        rng = np.random.default_rng(0)
        values = rng.standard_normal((20, 20, 20)).astype(np.float32)
        values[0, 0, :3] = [1e6, -1e6, 500]
        low, high = grey_window(values)
        assert low == -high
        assert 2.2 < high < 2.5
        assert grey_window(np.zeros((2, 2, 2), np.float32)) == (0.0, 1.0)
        assert grey_window(np.full((2, 2, 2), 7, np.float32)) == (7.0, 14.0)
        low, high = grey_window(np.abs(values) + 1000)
        assert 1000 < low < high < 1003

    def test_odd_cases_still_have_a_picture(self) -> None:
        for volume in (
            Volume.from_numpy(np.zeros((2, 2, 2)), np.eye(4)),
            Volume.from_numpy(np.full((3, 2, 400), np.nan), np.eye(4)),
            Volume.from_numpy(np.ones((2, 2, 2)), np.diag([1, 1, 1000, 1])),
        ):
            assert min(volume.to_pil().size) > 20
