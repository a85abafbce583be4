"""A user's folder of true susceptibility maps (the QSM challenge's head phantom, or what qsm-forward wrote), scored."""

from __future__ import annotations

import dataclasses
import os
import time

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from calotype.core.dipole import DipoleOperator, b0_direction
from calotype.core.errors import InputError
from calotype.core.events import SILENT, Events
from calotype.core.grids import check_same_grid
from calotype.core.noise import noise
from calotype.core.roles import VolumePrior
from calotype.core.types import Volume
from calotype.data.qsm_folder import DEEP_GREY, QSMFiles, find_qsm_files
from calotype.data.volumes import read_volume, volume_mask
from calotype.evaluation.experiment import CallCounter
from calotype.evaluation.qsm_baselines import SOLVERS, settings_for
from calotype.evaluation.qsm_cases import distances
from calotype.evaluation.report import Report, Row
from calotype.methods.qsmdiff import QSMDiff


@dataclasses.dataclass(frozen=True, eq=False)
class TrueHead:
    """The volumes of one head, on one grid."""

    chi: Volume
    """ppm."""
    mask: Bool[Tensor, "x y z"]
    regions: Int[Tensor, "x y z"]
    """Deep grey matter, see `calotype.data.qsm_folder.DEEP_GREY`; 0 elsewhere, and everywhere if the folder has no segmentation."""
    field: Volume
    """Local field in ppm, 0 outside the mask; measured, or made from `chi`."""


def read_head(files: QSMFiles, *, noise_ppm: float, seed: int, events: Events = SILENT) -> TrueHead:
    """Read a head. A folder without a field gets that of the brain alone, with Gaussian noise.

    Raises:
        InputError: a file is refused, or not all lie on one grid.
    """
    chi = read_volume(files.truth, name="truth", events=events)
    mask = volume_mask(read_volume(files.mask, name="mask", events=events), chi, reference_name="truth")
    regions = torch.zeros(chi.size, dtype=torch.int64)
    if files.regions is not None:
        labels = read_volume(files.regions, name="regions", events=events)
        check_same_grid(labels, chi, name="regions", reference_name="truth")
        numbers = labels.values.round().long()
        regions = torch.where((numbers >= DEEP_GREY.start) & (numbers < DEEP_GREY.stop) & mask, numbers, 0)
    if files.field is not None:
        field = read_volume(files.field, name="field", events=events)
        check_same_grid(field, chi, name="field", reference_name="truth")
        values = field.values * mask
    else:
        events.note(f"{files.name}: the folder has no local field; it is made from the true map, with {noise_ppm:g} ppm of noise")
        dipole = DipoleOperator(chi.size, chi.spacing, b0_direction(chi.affine.numpy()), mask=mask)
        values = dipole.forward(chi.values * mask) + noise_ppm * noise(chi.size, seed) * mask
    return TrueHead(chi, mask, regions, chi.with_values(values, "ppm"))


def score_folder(
    model: VolumePrior,
    folder: str | os.PathLike[str],
    *,
    noise_ppm: float = 0.002,
    settings: QSMDiff | None = None,
    seed: int = 0,
    events: Events = SILENT,
) -> Report:
    """The method and the classical inversions on every head of a folder; one row for each, `method@NAME`, `tv@NAME`, ...

    Args:
        model: a prior of susceptibility maps in ppm.
        folder: see `calotype.data.qsm_folder.find_qsm_files`.
        noise_ppm: of the field: what a measured one has, or what is put into a computed one. Settings of the baselines follow it.
        settings: the method; `QSMDiff.toy()` by default. Its `noise` is set to `noise_ppm`.
        seed: of the noise and of sampling.
        events: hears a step for each map.

    Raises:
        InputError: another layout, a file that is refused, or noise that isn't positive.
    """
    if not 0 < noise_ppm < 1:
        raise InputError(f"the noise is {noise_ppm} ppm; it must be above 0, such as 0.002")
    began, found = time.perf_counter(), find_qsm_files(folder)
    method, chosen = dataclasses.replace(settings or QSMDiff.toy(), noise=noise_ppm), settings_for(noise_ppm, events=events)
    events.stage(f"score {len(found)} heads", (1 + len(SOLVERS)) * len(found))
    rows = []
    for files in found:
        head = read_head(files, noise_ppm=noise_ppm, seed=seed, events=events)
        mask = head.chi.with_values(head.mask.float(), "")
        direction = b0_direction(head.chi.affine.numpy())
        for name in ("method", *SOLVERS):
            counter, start = CallCounter(events), time.perf_counter()
            if name == "method":
                chi = method(model, head.field, mask, seed=seed, events=counter).chi.values
            else:
                dipole = DipoleOperator(head.chi.size, head.chi.spacing, direction, mask=head.mask)
                chi = SOLVERS[name](head.field.values, dipole, chosen[name])
            spent = {"seconds": time.perf_counter() - start, "model_calls": counter.calls}
            numbers = {**distances(chi, head.chi.values, head.mask, head.regions, head.chi.spacing, direction), **spent}
            role = "method" if name == "method" else "baseline"
            rows.append(Row.of(f"{name}@{files.name}", role, {metric: [value] for metric, value in numbers.items()}))
            events.step()
            events.check()
    device = str(getattr(model, "device", "cpu"))
    return Report(QSMDiff.slug, seed, len(found), device, time.perf_counter() - began, rows)
