"""The shipped prior on a field that another package's forward model computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import qsm_forward
import torch

import calotype
from calotype.evaluation.qsm_baselines import TUNED, solve
from calotype.evaluation.qsm_cases import Scan, heads, scan
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff import QSMDiff


def test_a_map_from_its_files_is_within_the_claims(tmp_path: Path) -> None:
    """Files in, map out; every classical inversion with its tuned setting fails at least one of these bars."""
    head = heads("tune", 11, 2)[1]
    brain, mask = head.brain, head.brain.mask > 0
    whole = qsm_forward.generate_field(brain.susceptibility.numpy(), voxel_size=np.full(3, 2.0), B0_dir=np.array([0.0, 0.0, 1.0]))
    noise = 0.006 * np.random.default_rng(0).standard_normal(mask.shape)
    field = torch.from_numpy(((whole - whole[mask.numpy()].mean()) + noise).astype(np.float32)) * mask
    affine = torch.from_numpy(brain.affine)
    Volume(field, affine, "ppm").save(tmp_path / "F.nii.gz")
    Volume(brain.mask, affine).save(tmp_path / "M.nii.gz")
    method = replace(QSMDiff.toy(), num_inference_steps=12, num_samples=1)
    chi = method(calotype.load("toy-qsm"), tmp_path / "F.nii.gz", tmp_path / "M.nii.gz", seed=1).chi.values
    case = Scan(head, 0.006, 0.0, scan(head, noise_ppm=0.006).field.with_values(field), Volume(brain.mask, affine))
    found = case.measure(chi)
    tkd, l2, tv = (case.measure(solve(name, case, TUNED[0.006, 0.0][name])) for name in ("tkd", "l2", "tv"))
    assert found["nrmse_percent"] < 0.7 * min(tkd["nrmse_percent"], l2["nrmse_percent"])
    assert found["nrmse_percent"] < tv["nrmse_percent"]
    assert found["cone_energy"] < 0.5 * tkd["cone_energy"]
    assert 0.9 < found["roi_slope"] < 1.1
