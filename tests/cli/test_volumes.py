"""Volumes on the command line: files in, NIfTI and pictures out, one line where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.cli.test_runs import said

AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a field and masks, of which one lies elsewhere."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).standard_normal((7, 9, 5)).astype(np.float32)
    for name, array, affine in (
        ("f", values, AFFINE),
        ("m", (values > 0).astype(np.uint8), AFFINE),
        ("elsewhere", (values > 0).astype(np.uint8), np.diag([1.0, 1, 2, 1])),
        ("nan", np.where(values > 2, np.nan, values), AFFINE),
    ):
        nibabel.Nifti1Image(array, affine).to_filename(tmp_path / f"{name}.nii.gz")
    (tmp_path / "void").mkdir()
    return tmp_path


@pytest.mark.usefixtures("plugins", "scans")
def test_volumes_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "run", "toy-smooth", "--field", "f.nii.gz", "--mask", "m.nii.gz", "--out", "d")
    assert "d/chi.nii.gz" in out
    assert "7x9x5 voxels of 0.8 x 0.8 x 2 mm, in ppm" in out
    assert Path("d/chi-planes.png").is_file()
    assert np.allclose(nibabel.load("d/chi.nii.gz").affine, AFFINE)
    for source in ("d/chi.nii.gz", "d/chi-planes.png"):
        out, _ = said(capsys, "rerun", source, "--out", f"again-{Path(source).suffix[1:]}", "--json")
        assert json.loads(out)["identical"] is True
    out, _ = said(capsys, "compare", "d", "again-gz")
    assert "bit for bit the same" in out


@pytest.mark.usefixtures("plugins", "scans")
def test_help_and_info_know_volumes(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "run", "toy-smooth", "--help")
    assert "--field FILE" in out
    assert "--field field.nii.gz" in out
    out, _ = said(capsys, "info", "toy-smooth", "--json")
    assert [(item["name"], item["kind"]) for item in json.loads(out)["inputs"]] == [("field", "volume"), ("mask", "volume")]


@pytest.mark.usefixtures("plugins", "scans")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--field", "absent.nii.gz"), "field: absent.nii.gz does not exist"),
        (("--field", "f.nii.gz", "--mask", "elsewhere.nii.gz"), "mask: it has voxels of 1 x 1 x 2 mm, field has 0.8 x 0.8 x 2"),
        (("--field", "nan.nii.gz"), "voxels are NaN or infinite"),
        (("--field", "void"), "field: void is empty; give a folder with the files of one DICOM series"),
        (("--field", "f.nii.gz", "--mask", "absent.nii.gz"), "mask: absent.nii.gz does not exist"),
    ],
)
def test_bad_volumes_have_one_line_and_status_2(arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "run", "toy-smooth", *arguments, "--out", "d", "--json", status=2)
    message = json.loads(out)["error"]
    assert expected in message
    assert "\n" not in message
    assert "Traceback" not in err
