"""A folder of true maps, scored: qsm-forward's own, and the challenge's layout."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

import calotype
from calotype.backbones.volume_prior import VolumePrior
from calotype.core.events import SILENT
from calotype.data.qsm_folder import find_qsm_files
from calotype.embedded.qsm import QSMRecipe
from calotype.errors import InputError
from calotype.evaluation.qsm_folders import read_head
from calotype.evaluation.qsmdiff import measure_folder
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff import QSMDiff
from calotype.methods.qsmdiff.training import QSMDiffTraining

SETTINGS = dataclasses.replace(QSMDiff.toy(), num_inference_steps=1)
SIZE = 36


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> VolumePrior:
    folder, recipe = tmp_path_factory.mktemp("prior"), QSMRecipe()
    recipe.training = QSMDiffTraining(channels=(8, 8), norm_num_groups=4)  # type: ignore[misc]
    recipe.export(recipe.build(seed=0, start=None, checkpoints=folder), None, folder / "prior")  # type: ignore[arg-type]
    model: VolumePrior = calotype.load(str(folder / "prior"), device="cpu")
    return model


def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of different susceptibility in a ball; the numbers of two are deep grey matter's, of one white matter's."""
    axes = np.meshgrid(*[np.arange(SIZE) - SIZE / 2 + 0.5] * 3, indexing="ij")
    mask = sum(axis**2 for axis in axes) < 15**2
    chi, labels = np.zeros(mask.shape), np.zeros(mask.shape)
    for number, low, value in ((2, 8, 0.12), (3, 16, 0.04), (8, 23, -0.03)):
        box = (slice(low, low + 5), slice(15, 21), slice(14, 22))
        chi[box], labels[box] = value, number
    return chi, mask.astype(float), labels


def test_qsm_forward_folder_scores(prior: VolumePrior, tmp_path: Path) -> None:
    """Another's forward model and another's affine: the classical inversions must come out as they do on our own fields."""
    from qsm_forward import ReconParams, TissueParams, generate_bids

    chi, mask, labels = head()
    names = {}
    for name, array in (("chi", chi), ("mask", mask), ("seg", labels)):
        Volume.from_numpy(array, np.eye(4)).save(tmp_path / f"{name}.nii")
        names[name] = f"{name}.nii"
    plain = {name: str(tmp_path / "chi.nii") for name in ("M0", "R1", "R2star")}
    recon = ReconParams(
        TEs=np.array([0.01]), B0_dir=np.array([0, 0.6, 0.8]), random_seed=1, generate_phase_offset=False, generate_shim_field=False
    )
    generate_bids(TissueParams(root_dir=str(tmp_path), **names, **plain), recon, str(tmp_path / "bids"), save_field=True)
    report = measure_folder(tmp_path / "bids", prior, noise_ppm=0.002, settings=SETTINGS)
    rows = {row.variant: row.metrics for row in report.rows}
    assert list(rows) == ["method", "tkd", "l2", "tv", "ndi"]
    assert rows["tv"]["nrmse_percent"] < 25
    assert rows["tv"]["nrmse_percent"] < 0.7 * min(rows[name]["nrmse_percent"] for name in ("tkd", "l2", "ndi"))
    assert 0.85 < rows["tv"]["roi_slope"] < 1.05
    assert all(math.isfinite(value) for metrics in rows.values() for name, value in metrics.items() if name != "ball_share")


def test_challenge_folder_gets_a_field(prior: VolumePrior, tmp_path: Path) -> None:
    chi, mask, labels = head()
    affine = np.array([[0.0, 0, 2, 0], [1.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    for name, array in (("chimodel/ChiModelMIX.nii", chi), ("masks/BrainMask.nii.gz", mask), ("masks/SegmentedModel.nii.gz", labels)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Volume.from_numpy(array, affine).save(tmp_path / name)
    (files,) = find_qsm_files(tmp_path)
    clean, noisy = (read_head(files, noise, 1, 0, SILENT) for noise in (None, 0.004))
    inside = clean.mask.values > 0
    difference = (noisy.field.values - clean.field.values)[inside]
    assert math.isclose(float(difference.std()), 0.004, rel_tol=0.05)
    assert (noisy.field.values[~inside] == 0).all()
    # Only deep grey matter counts for the slope.
    assert clean.head.brain.regions.unique().tolist() == [0, 2, 3]
    # World z is array axis 1: along it the field of the bright block is positive, across it negative.
    assert clean.field.values[10, 25, 18] > 0.001 > 0 > clean.field.values[10, 18, 28]
    rows = {row.variant: row.metrics["nrmse_percent"] for row in measure_folder(tmp_path, prior, settings=SETTINGS).rows}
    assert rows["tv"] < rows["tkd"]


def test_refusals(prior: VolumePrior, tmp_path: Path) -> None:
    chi, mask, _ = head()
    (tmp_path / "chimodel").mkdir()
    Volume.from_numpy(chi, np.eye(4)).save(tmp_path / "chimodel/ChiModelMIX.nii")
    Volume.from_numpy(mask, 2 * np.eye(4) - np.diag([0, 0, 0, 1])).save(tmp_path / "BrainMask.nii")
    with pytest.raises(InputError, match="mask: it has voxels of 2 x 2 x 2 mm"):
        measure_folder(tmp_path, prior, settings=SETTINGS)
    Volume.from_numpy(mask, np.eye(4)).save(tmp_path / "BrainMask.nii", overwrite=True)
    Volume.from_numpy(mask[1:], np.eye(4)).save(tmp_path / "SegmentedModel.nii")
    with pytest.raises(InputError, match="regions: it has 35x36x36 voxels"):
        measure_folder(tmp_path, prior, settings=SETTINGS)
