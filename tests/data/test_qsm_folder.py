"""Layouts of folders with true susceptibility maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from calotype.data.qsm_folder import find_qsm_files
from calotype.errors import InputError


def lay(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


CHALLENGE = ("masks/BrainMask.nii.gz", "masks/SegmentedModel.nii.gz", "maps/M0.nii.gz", "masks/highgrad.nii.gz")


@pytest.mark.parametrize("under", ["", "data/"])
def test_the_challenge_has_two_truths(tmp_path: Path, under: str) -> None:
    lay(tmp_path, *(under + name for name in (*CHALLENGE, "chimodel/ChiModelMIX.nii", "chimodel/ChiModelMIX_noCalc.nii")))
    plain, without = find_qsm_files(tmp_path)
    root = tmp_path / under
    assert (plain.name, without.name) == ("ChiModelMIX", "ChiModelMIX_noCalc")
    assert plain.truth == root / "chimodel/ChiModelMIX.nii"
    assert plain.mask == without.mask == root / "masks/BrainMask.nii.gz"
    assert plain.regions == root / "masks/SegmentedModel.nii.gz"
    assert plain.field is None
    assert plain.layout == "challenge"


def test_the_challenge_with_one_truth_and_a_field_of_the_users(tmp_path: Path) -> None:
    lay(tmp_path, "masks/BrainMask.nii.gz", "chimodel/ChiModelMIX.nii.gz", "raw/LocalField.nii")
    (only,) = find_qsm_files(str(tmp_path))
    assert only.field == tmp_path / "raw/LocalField.nii"
    assert only.regions is None


def test_qsm_forward_is_read_as_it_writes(tmp_path: Path) -> None:
    """The folder is made by qsm-forward itself."""
    import numpy as np
    from qsm_forward import ReconParams, TissueParams, generate_bids

    chi = np.zeros((12, 12, 12))
    chi[4:8, 4:8, 4:8] = 0.1
    tissue = TissueParams(chi=chi, voxel_size=np.array([1.0, 1.0, 1.0]))
    for subject, session in (("2", None), ("1", "a")):
        recon = ReconParams(
            subject=subject, session=session, TEs=np.array([0.01]), random_seed=1, generate_phase_offset=False, generate_shim_field=False
        )
        generate_bids(tissue, recon, str(tmp_path), save_field=True)
    found = find_qsm_files(tmp_path)
    assert {each.name for each in found} == {"sub-1_ses-a", "sub-2"}
    for each in found:
        assert each.layout == "qsm-forward"
        assert each.truth.name == f"{each.name}_Chimap.nii"
        assert each.mask.is_file()
        assert each.regions is not None
        assert each.regions.name.endswith("_dseg.nii")
        assert each.field is not None
        assert each.field.name.endswith("_fieldmap-local.nii")


def test_early_versions_of_qsm_forward(tmp_path: Path) -> None:
    name = "sub-1/ses-1/extra_data/sub-1_ses-1_run-1"
    lay(tmp_path, f"{name}_chi.nii", f"{name}_mask.nii", f"{name}_segmentation.nii")
    (only,) = find_qsm_files(tmp_path)
    assert (only.name, only.field) == ("sub-1_ses-1_run-1", None)
    assert only.regions == tmp_path / f"{name}_segmentation.nii"


def test_refusals_name_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_qsm_files(tmp_path / "none")
    with pytest.raises(InputError, match="is empty"):
        find_qsm_files(tmp_path)
    with pytest.raises(InputError, match=r"chimodel/ChiModelMIX.nii\[.gz\].*_Chimap.nii") as caught:
        find_qsm_files(lay(tmp_path, "other/brain.nii"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="looked for masks/BrainMask"):
        find_qsm_files(lay(tmp_path, "chimodel/ChiModelMIX.nii"))
    bids = lay(tmp_path / "bids", "derivatives/qsm-forward/sub-1/anat/sub-1_Chimap.nii")
    with pytest.raises(InputError, match="looked for sub-1_mask"):
        find_qsm_files(bids)
