"""QSMDiff and the classical inversions on heads whose true map lies in a folder: the QSM challenge's, or one that qsm-forward wrote."""

from __future__ import annotations

import torch

from calotype.core.events import SILENT, Events
from calotype.data.qsm_folder import DEEP_GREY, QSMFiles
from calotype.data.volumes import read_volume, volume_mask
from calotype.evaluation.qsm_cases import Head, Scan
from calotype.imaging.grids import check_same_grid
from calotype.imaging.types import Volume
from calotype.world.brains.anatomy import Brain
from calotype.world.brains.field import measured_field


def read_head(
    files: QSMFiles, noise_ppm: float | None, seed: int, number: int, events: Events = SILENT, *, unknown_noise_ppm: float = 0.006
) -> Scan:
    """One head of a folder, its field computed from the true map where none lies there.

    Args:
        files: of the head.
        noise_ppm: of a computed field (none if None); for a field from a file, what the methods are told of its noise.
        seed, number: of the noise.
        events: hears what is computed.
        unknown_noise_ppm: told of a field from a file if nothing is known.

    Raises:
        InputError: a file that is refused, or files on different grids.
    """
    truth = read_volume(files.truth, name="true map", events=events)
    mask = volume_mask(files.mask, truth, reference_name="the true map", events=events)
    regions = torch.zeros(truth.size, dtype=torch.int64)
    if files.regions is not None:
        found = read_volume(files.regions, name="regions", events=events)
        check_same_grid(found, truth, name="regions", reference_name="the true map")
        numbers = found.values.round().long()
        regions = torch.where((numbers >= DEEP_GREY.start) & (numbers < DEEP_GREY.stop) & mask, numbers, 0)
    brain = Brain(truth.values * mask, mask.float(), mask.float(), regions, truth.affine.numpy())
    told = unknown_noise_ppm if noise_ppm is None else noise_ppm
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
