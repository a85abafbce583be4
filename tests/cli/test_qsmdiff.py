"""`calotype run qsmdiff` as a user types it: files in, a map out; what is wrong is one line, and nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from calotype.cli import app
from tests.cli.test_runs import said
from tests.data.test_dicom import series, turn
from tests.methods.test_qsm_grid import rotation
from tests.tiny import cached
from tests.tiny_qsm import cached_prior

AFFINE = np.eye(4)
AFFINE[:3] = np.column_stack([(rotation(12, -7, 20) @ np.diag([-0.8, 0.8, 2.0]))[:, [1, 0, 2]], [31, -12.5, 7.25]])
SIZE = (23, 19, 9)
STEPS = ["--num-inference-steps", "2"]


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an oblique field of odd sides and its mask, and files that are something else."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[(np.arange(side) - (side - 1) / 2) / (side / 2) for side in SIZE], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    values = (0.02 * rng.standard_normal(SIZE) * inside).astype(np.float32)
    moved = AFFINE.copy()
    moved[0, 3] += 4
    for name, array, affine in (
        ("f", values, AFFINE),
        ("m", inside.astype(np.uint8), AFFINE),
        ("moved", inside.astype(np.uint8), moved),
        ("nothing", np.zeros(SIZE, np.uint8), AFFINE),
        ("nan", np.where(values > 0.04, np.nan, values), AFFINE),
        ("zero", 0 * values, AFFINE),
        ("sheared", values, AFFINE + np.outer(AFFINE[:, 0], [0, 0.5, 0, 0])),
        ("flat", values[:, :, 0], AFFINE),
        ("series", np.stack([values] * 3, -1), AFFINE),
    ):
        nibabel.Nifti1Image(array, affine).to_filename(tmp_path / f"{name}.nii.gz")
    (tmp_path / "void").mkdir()
    (tmp_path / "notes.txt").write_text("the field of a brain")
    broken = series(tmp_path / "broken", turn(10, 20, 30))
    for file in broken.iterdir():
        file.write_bytes(file.read_bytes()[:200])
    return tmp_path


def run(*arguments: str, model: str | None = None) -> int:
    return app.run(["run", "qsmdiff", "--model", model or str(cached_prior(2, True)), *STEPS, *arguments])


def test_a_map_lies_over_its_field_and_is_made_again(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(
        capsys, "run", "qsmdiff", "--model", str(cached_prior(2, True)), "--preset", "toy", *STEPS, "--field", "f.nii.gz", "--mask",
        "m.nii.gz", "--num-samples", "2", "--out", "d", "--json",
    )  # fmt: skip
    record = json.loads(out)
    assert set(record["outputs"]) >= {"chi", "residual", "std"}
    assert record["outputs"]["chi"]["unit"] == "ppm"
    assert record["metrics"]["residual_ppm"] > 0
    assert "diagnos" not in err
    for name in ("chi", "residual", "std"):
        image = nibabel.load(scans / "d" / f"{name}.nii.gz")
        assert image.shape == SIZE
        assert np.array_equal(image.affine, nibabel.load("f.nii.gz").affine)
        assert (scans / "d" / f"{name}-planes.png").is_file()
    outside = np.asarray(nibabel.load("m.nii.gz").dataobj) == 0
    chi = nibabel.load("d/chi.nii.gz").get_fdata()
    assert not chi[outside].any()
    assert chi[~outside].std() > 0.001
    assert abs(chi[~outside].mean()) < 1e-6
    for name in ("f", "m"):
        (scans / f"{name}.nii.gz").unlink()
    out, _ = said(capsys, "rerun", "d/chi.nii.gz", "--trust", "--out", "again", "--json")
    assert json.loads(out)["identical"] is True


@pytest.mark.usefixtures("scans")
def test_a_finer_map_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--field", "f.nii.gz", "--mask", "m.nii.gz", "--task", "both", "--factor", "1", "1", "2"]
    arguments += ["--b0-direction", "0", "0.1", "2"]
    cached_prior()  # Its making is not what --quiet is about.
    capsys.readouterr()
    assert run(*arguments, "--out", "d", "--quiet") == 0
    image = nibabel.load("d/chi.nii.gz")
    assert image.shape == (23, 19, 18)
    assert np.allclose(image.header.get_zooms(), np.linalg.norm(AFFINE[:3, :3], axis=0) / [1, 1, 2], atol=1e-4)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("scans")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--field", "f.nii.gz"), "--mask"),
        (("--mask", "m.nii.gz"), "--field"),
        (("--field", "f.nii.gz", "--mask", "absent.nii.gz"), "mask: absent.nii.gz does not exist"),
        (("--field", "f.nii.gz", "--mask", "moved.nii.gz"), "mask: it has voxels that are shifted by (4, 0, 0) mm"),
        (("--field", "f.nii.gz", "--mask", "nothing.nii.gz"), "mask: it marks no voxel"),
        (("--field", "nan.nii.gz", "--mask", "m.nii.gz"), "voxels in the mask are NaN or infinite"),
        (("--field", "zero.nii.gz", "--mask", "m.nii.gz"), "field: it is 0 everywhere in the mask"),
        (("--field", "sheared.nii.gz", "--mask", "m.nii.gz"), "the affine is sheared"),
        (("--field", "flat.nii.gz", "--mask", "m.nii.gz"), "flat.nii.gz is 2-D"),
        (("--field", "series.nii.gz", "--mask", "m.nii.gz"), "holds 3 volumes"),
        (("--field", "void", "--mask", "m.nii.gz"), "field: void is empty"),
        (("--field", "broken", "--mask", "m.nii.gz"), "broken"),
        (("--field", "notes.txt", "--mask", "m.nii.gz"), "notes.txt is"),
        (
            ("--field", "f.nii.gz", "--mask", "m.nii.gz", "--b0-direction", "0", "0", "0"),
            "b0_direction is [0.0, 0.0, 0.0]; it",
        ),
        (("--field", "f.nii.gz", "--mask", "m.nii.gz", "--b0-direction", "0", "1"), "b0-direction"),
        (("--field", "f.nii.gz", "--mask", "m.nii.gz", "--task", "both"), "task both needs a factor above 1"),
        (("--field", "f.nii.gz", "--mask", "m.nii.gz", "--factor", "1", "2", "1"), "task inversion keeps the grid"),
        (("--field", "f.nii.gz", "--mask", "m.nii.gz", "--task", "invert"), "task"),
        (("--field", "f.nii.gz", "--mask", "m.nii.gz", "--noise", "0"), "noise is 0.0; it must be above 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments, "--out", "bad") == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("calotype:")]) == 1
    assert not Path("bad").exists()


@pytest.mark.usefixtures("scans")
def test_a_model_of_another_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--field", "f.nii.gz", "--mask", "m.nii.gz", "--out", "bad", model=str(cached("toy-t2i"))) == 2
    error = capsys.readouterr().err
    assert "a prior of volumes; take toy-qsm" in error
    assert len([line for line in error.splitlines() if line.startswith("calotype:")]) == 1
