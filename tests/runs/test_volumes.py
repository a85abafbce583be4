"""Runs over volumes: inputs kept, results that lie where the input lies, done again bit for bit from any of them."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from calotype.core.events import Events
from calotype.data import read_image, read_volume
from calotype.errors import CalotypeError, InputError, MissingError
from calotype.imaging import types
from calotype.imaging.media import read_metadata
from calotype.imaging.types import Image, Mask, Video, Volume
from calotype.runs import ModelRequest, Run, call_parameters, compare, read_record, rerun, run
from calotype.runs.inputs import read, read_exact, write_exact
from calotype.runs.kinds import KINDS, from_tensors, is_glance, kind_of, to_tensors
from calotype.runs.outputs import named_results
from tests.data.test_dicom import series, turn
from tests.runs.toy_volume_method import ToySmooth

SHAPE = (7, 9, 5)
AFFINE = np.array([[0.0, -0.8, 0.1, 31], [0.79, 0, 0.2, -12.5], [0.1, 0.05, 1.9, 7.25], [0, 0, 0, 1]])
FILES = {"chi.nii.gz", "chi-planes.png", "deviation.nii.gz", "deviation-planes.png", "run.json", "progress.jsonl"}


@pytest.fixture
def volumes(tmp_path: Path) -> dict[str, Any]:
    """A field and a mask of a scanner that runs obliquely, qform and sform of different codes."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, values in (("Field", rng.standard_normal(SHAPE).astype(np.float32)), ("mask", np.ones(SHAPE, np.uint8))):
        image = nibabel.Nifti1Image(values, None)
        image.set_qform(AFFINE, code=1)
        image.set_sform(image.get_qform(), code=3)
        image.to_filename(folder / f"{name}.nii.gz")
    return {"field": folder / "Field.nii.gz", "mask": folder / "mask.nii.gz"}


def smooth(arguments: dict[str, Any], out: Path, **fields: Any) -> Run:
    return run(ToySmooth(**fields), arguments, lambda request: None, model=ModelRequest(""), preset="paper", seed=3, out=out)


def again(source: Path, out: Path, **options: Any) -> Run:
    return rerun(source, resolve_method=lambda slug: ToySmooth, load_model=lambda request: None, out=out, **options)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_table_has_every_type_that_signatures_know() -> None:
    media = ("Image", "Mask", "Video", "Volume")
    assert tuple(kind.type.__name__ for kind in KINDS.values() if kind.tensors) == media
    assert [name for name, kind in KINDS.items() if kind.tensors] == [name.lower() for name in media]
    assert all(hasattr(types, name) for name in media)
    assert [(item.name, item.kind, item.required) for item in call_parameters(ToySmooth)] == [
        ("field", "volume", True),
        ("mask", "volume", False),
    ]


def test_a_run_keeps_inputs_and_shows_its_results(volumes: dict[str, Any], tmp_path: Path) -> None:
    done = smooth(volumes, tmp_path / "run")
    assert names(done.folder) == FILES | {"inputs/field.nii.gz", "inputs/mask.nii.gz"}
    assert (done.folder / "inputs/field.nii.gz").read_bytes() == volumes["field"].read_bytes()
    told = json.loads((done.folder / "run.json").read_text())["outputs"]["chi"]
    assert (told["size"], told["unit"], told["file"]) == ([7, 9, 5], "ppm", "chi.nii.gz")
    assert told["spacing"] == pytest.approx(np.linalg.norm(AFFINE[:3, :3], axis=0), rel=1e-4)
    result = done.results["chi"]
    assert isinstance(result, Volume)
    written = read_volume(done.folder / "chi.nii.gz")
    assert torch.equal(written.values, result.values)
    assert written.unit == "ppm"
    assert np.allclose(read_image(done.folder / "chi-planes.png").to_numpy()[..., 0], np.asarray(result.to_pil()))


def test_results_lie_over_their_input_in_any_viewer(volumes: dict[str, Any], tmp_path: Path) -> None:
    done = smooth(volumes, tmp_path / "run")
    before, after = (nibabel.load(path).header for path in (volumes["field"], done.folder / "chi.nii.gz"))
    assert (int(after["qform_code"]), int(after["sform_code"])) == (1, 3)
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(before[field], after[field]), field
    assert np.array_equal(before["pixdim"][:4], after["pixdim"][:4])


@pytest.mark.parametrize("source", ["", "chi.nii.gz", "chi-planes.png", "deviation.nii.gz"])
def test_a_rerun_is_bit_for_bit_the_same(volumes: dict[str, Any], tmp_path: Path, source: str) -> None:
    done = smooth(volumes, tmp_path / "run")
    shutil.rmtree(tmp_path / "mine")
    repeated = again(done.folder / source, tmp_path / "again")
    assert repeated.identical is True
    assert repeated.differences == ()
    for name in FILES - {"run.json", "progress.jsonl"}:
        assert (done.folder / name).read_bytes() == (repeated.folder / name).read_bytes(), name


def test_a_volume_alone_is_enough(volumes: dict[str, Any], tmp_path: Path) -> None:
    done = smooth(volumes, tmp_path / "run", gain=0.25)
    shutil.copyfile(done.folder / "chi.nii.gz", tmp_path / "alone.nii.gz")
    shutil.rmtree(done.folder)
    record, folder = read_record(tmp_path / "alone.nii.gz")
    assert (record.parameters, record.seed, folder) == ({"gain": 0.25}, 3, None)
    assert again(tmp_path / "alone.nii.gz", tmp_path / "again", trust=True).identical is True
    nibabel.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE).to_filename(tmp_path / "foreign.nii.gz")
    with pytest.raises(InputError, match="holds no Calotype run"):
        again(tmp_path / "foreign.nii.gz", tmp_path / "fails")


def test_a_result_on_another_grid_is_not_the_same(volumes: dict[str, Any], tmp_path: Path) -> None:
    """The same numbers elsewhere in the patient are another result."""
    done = smooth(volumes, tmp_path / "run")
    record = json.loads((done.folder / "run.json").read_text())
    result = done.results["chi"]
    assert isinstance(result, Volume)
    from calotype.runs.outputs import describe

    assert describe("chi", result)["pixels_sha256"] == record["outputs"]["chi"]["pixels_sha256"]
    shifted = replace(result, affine=result.affine + torch.tensor([[0, 0, 0, 1.0], *[[0.0] * 4] * 3], dtype=torch.float64))
    assert describe("chi", shifted)["pixels_sha256"] != record["outputs"]["chi"]["pixels_sha256"]


def test_two_runs_are_compared_in_the_unit_of_their_results(volumes: dict[str, Any], tmp_path: Path) -> None:
    first, second = smooth(volumes, tmp_path / "a"), smooth(volumes, tmp_path / "b", gain=0.4)
    told = {line.name: line.right for line in compare(first.folder, second.folder).lines if line.section == "results"}
    assert set(told) == {"chi", "deviation"}
    one, other = (done.results["chi"].values for done in (first, second))  # type: ignore[union-attr]
    rmse, most = float((one - other).square().mean().sqrt()), float((one - other).abs().max())
    assert told["chi"] == f"different, RMSE {rmse:.3g} ppm, at most {most:.3g}"
    same = compare(first.folder, smooth(volumes, tmp_path / "c").folder)
    assert {line.right for line in same.lines if line.section == "results"} == {"bit for bit the same"}


def test_objects_are_kept_to_the_bit(volumes: dict[str, Any], tmp_path: Path) -> None:
    field = read_volume(volumes["field"])
    done = smooth({"field": field}, tmp_path / "run")
    assert "inputs/field.safetensors" in names(done.folder)
    kept = read(KINDS["volume"], done.folder / "inputs/field.safetensors", "field", Events())
    assert isinstance(kept, Volume)
    assert torch.equal(kept.values, field.values)
    assert torch.equal(kept.affine, field.affine)
    assert (kept.header, kept.unit) == (field.header, field.unit)
    assert again(done.folder, tmp_path / "again").identical is True


def test_a_dicom_series_is_an_input(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", turn(10, 20, 30))
    done = smooth({"field": folder}, tmp_path / "run")
    assert {name for name in names(done.folder) if name.startswith("inputs/")} == {f"inputs/field/IM000{k}" for k in range(5)}
    shutil.rmtree(folder)
    assert again(done.folder / "chi.nii.gz", tmp_path / "again").identical is True
    affine = nibabel.load(done.folder / "chi.nii.gz").affine
    assert np.allclose(affine, read_volume(done.folder / "inputs/field").affine.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "value",
    [
        Image(torch.rand(3, 4, 5)),
        Mask(torch.rand(4, 5) > 0.5),
        Video(torch.rand(2, 3, 4, 5), 23.976),
        Volume(torch.rand(4, 5, 6), torch.diag(torch.tensor([0.7, 0.8, 1.1, 1], dtype=torch.float64)), "µT", b"\0\xff"),
        Volume(torch.rand(4, 5, 6), torch.eye(4, dtype=torch.float64)),
    ],
)
def test_every_kind_goes_through_a_file_to_the_bit(value: Any, tmp_path: Path) -> None:
    write_exact(value, tmp_path / "a.safetensors")
    found = read_exact(tmp_path / "a.safetensors")
    assert type(found) is type(value)
    for name, item in vars(value).items():
        kept = getattr(found, name)
        assert torch.equal(kept, item) if isinstance(item, torch.Tensor) else kept == item
    for kind in KINDS:
        fits = kind == kind_of(value).name or (kind == "mask" and isinstance(value, Image))
        if not fits:
            with pytest.raises(InputError, match=f"{kind_of(value).phrase} and {KINDS[kind].phrase} is needed"):
                read(KINDS[kind], tmp_path / "a.safetensors", "it", Events())


def test_what_is_no_kind_is_none() -> None:
    assert from_tensors({"weights": torch.zeros(3)}) is None
    assert list(to_tensors(Image(torch.zeros(3, 2, 2)))) == ["pixels"]
    assert is_glance("contact-sheet")
    assert is_glance("chi-planes")
    assert not is_glance("chi")
    with pytest.raises(CalotypeError, match="saves an image, a mask, a video, a volume, or several"):
        named_results(3)


def test_bad_volumes_are_told_before_anything_is_made(volumes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "flat.nii.gz").write_bytes(b"")
    for argument in ("field", "mask"):
        with pytest.raises(InputError, match=f"{argument}: .*is empty"):
            smooth({**volumes, argument: tmp_path / "flat.nii.gz"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "field.npy", np.ones(SHAPE))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for value in (tmp_path / "field.npy", Volume(torch.ones(SHAPE), torch.eye(4, dtype=torch.float64))):
        with pytest.raises(MissingError, match=r'pip install "calotype\[medical\]"'):
            smooth({"field": value}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_metadata_of_both_files_of_a_result_are_the_same(volumes: dict[str, Any], tmp_path: Path) -> None:
    done = smooth(volumes, tmp_path / "run")
    assert read_metadata(done.folder / "chi.nii.gz") == read_metadata(done.folder / "chi-planes.png")
