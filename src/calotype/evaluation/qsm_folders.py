"""QSMDiff and the classical inversions on heads whose true map lies in a folder: the QSM challenge's, or one that qsm-forward wrote."""

from __future__ import annotations

import os

import torch

from calotype.backbones.volume_prior import VolumePrior
from calotype.core.events import SILENT, Events
from calotype.data.qsm_folder import DEEP_GREY, QSMFiles, find_qsm_files
from calotype.data.volumes import read_volume, volume_mask
from calotype.evaluation.qsm_baselines import SOLVERS
from calotype.evaluation.qsm_cases import Head, Scan
from calotype.evaluation.qsmdiff import NOISE_PPM, SLUG, MapExperiment
from calotype.evaluation.report import Report
from calotype.imaging.grids import check_same_grid
from calotype.imaging.types import Volume
from calotype.methods.qsmdiff import QSMDiff
from calotype.world.brains.anatomy import Brain
from calotype.world.brains.field import measured_field


def measure_folder(
    folder: str | os.PathLike[str],
    model: VolumePrior,
    *,
    noise_ppm: float | None = None,
    settings: QSMDiff | None = None,
    seed: int = 0,
    events: Events = SILENT,
) -> Report:
    """The table of `calotype.evaluation.qsmdiff` without ablations and claims, one case for each true map in the folder.

    A local field that lies there is used; otherwise it is computed from the true map, without noise unless it is asked for. The slope is
    that over the deep grey matter.

    Args:
        folder: see `calotype.data.qsm_folder.find_qsm_files`.
        model: a prior of susceptibility maps in ppm.
        noise_ppm: of a computed field; for a field from a file, what the methods are told of its noise.
        settings: the method; `QSMDiff.toy()` by default. Its `noise` is set to the field's.
        seed: of the noise and of the sampling.
        events: hears one step per map.

    Raises:
        InputError: an unknown folder, a file that is refused, or files of one head on different grids.
    """
    cases = [_case(files, noise_ppm, seed, number, events) for number, files in enumerate(find_qsm_files(folder))]
    test = MapExperiment(model, settings or QSMDiff.toy(), [case.head for case in cases], seed, events)
    events.stage(f"evaluate {SLUG}", (1 + len(SOLVERS)) * len(cases))
    test.run("method", "method", cases, test.found())
    for name in SOLVERS:
        test.run(name, "baseline", cases, test.classical(name))
    return test.report(SLUG, len(cases), model)


def _case(files: QSMFiles, noise_ppm: float | None, seed: int, number: int, events: Events) -> Scan:
    truth = read_volume(files.truth, name="true map", events=events)
    mask = volume_mask(files.mask, truth, reference_name="the true map", events=events)
    regions = torch.zeros(truth.size, dtype=torch.int64)
    if files.regions is not None:
        found = read_volume(files.regions, name="regions", events=events)
        check_same_grid(found, truth, name="regions", reference_name="the true map")
        numbers = found.values.round().long()
        regions = torch.where((numbers >= DEEP_GREY.start) & (numbers < DEEP_GREY.stop) & mask, numbers, 0)
    brain = Brain(truth.values * mask, mask.float(), mask.float(), regions, truth.affine.numpy())
    told = NOISE_PPM if noise_ppm is None else noise_ppm
    if files.field is not None:
        field = read_volume(files.field, name="local field", events=events)
        check_same_grid(field, truth, name="local field", reference_name="the true map")
        values = field.values * mask
    else:
        events.note(f"{files.name}: no local field there; it is computed from the true map with {noise_ppm or 0.0:g} ppm of noise")
        # Whole heads at a fine resolution: no more padding than the inversions have.
        values = measured_field(brain, noise_ppm=noise_ppm or 0.0, split="eval", seed=seed, index=number, padding=2.0)
        told = noise_ppm or 0.002
    head = Head(brain, torch.zeros(truth.size), "eval", seed, number)
    return Scan(head, told, 0.0, truth.with_values(values, "ppm"), Volume(mask.float(), truth.affine, header=truth.header))
