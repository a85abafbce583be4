"""Data sets of synthetic brains on disk: NIfTI maps with their masks and the fields that a scanner would measure."""

from __future__ import annotations

import json
import os
from pathlib import Path

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.types import Volume
from calotype.world.brains.anatomy import NUCLEI, sample_brain
from calotype.world.brains.field import measured_field
from calotype.world.scenes.dataset import FORMAT, VERSION, new_dataset
from calotype.world.scenes.sampling import SPLITS

PRESET = "brain"
NOISE_PPM = 0.006
"""Of the fields: a fast gradient echo's."""


def write_brains(
    directory: str | os.PathLike[str],
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 12,
    spacing: float = 2.0,
    overwrite: bool = False,
    events: Events = SILENT,
) -> Path:
    """Write brains 0 .. count - 1 of a stream: `sub-0000_Chimap.nii.gz` (ppm), `_mask` and `_fieldmap-local` (ppm, with noise).

    `metadata.jsonl` has a line for each. They are the brains that `toy-qsm` is trained on, at any voxel size.

    Args:
        directory: the folder to make; see `calotype.world.write_dataset`.
        split: `train`, `tune` or `eval`.
        seed: number of the stream, >= 0.
        count: number of brains, 1 or more.
        spacing: side of the voxels in millimetres, 1 to 8.
        overwrite: replace a data set that is there.
        events: told of each brain that is done; may cancel.

    Returns:
        The folder.

    Raises:
        InputError: a value out of range, or files in the way.
        MissingError: nilearn or nibabel isn't installed.
    """
    target = Path(directory)
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or count < 1 or not 1 <= spacing <= 8:
        raise InputError(f"seed is {seed} (0 or more), count {count} (1 or more), spacing {spacing:g} (1 to 8 mm)")
    with new_dataset(target, overwrite) as making:
        events.stage("drawing brains", count)
        with (making / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            for index in range(count):
                lines.write(json.dumps(_write(making, split, seed, index, spacing)) + "\n")
                events.step()
                events.check()
        summary = {"format": FORMAT, "version": VERSION, "preset": PRESET, "split": split, "seed": seed, "count": count}
        summary |= {"spacing": [spacing] * 3, "noise_ppm": NOISE_PPM, "nuclei": [nucleus.name for nucleus in NUCLEI]}
        (making / "dataset.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return target


def _write(folder: Path, split: str, seed: int, index: int, spacing: float) -> dict[str, object]:
    brain = sample_brain(split=split, seed=seed, index=index, spacing=(spacing, spacing, spacing))
    field = measured_field(brain, noise_ppm=NOISE_PPM, split=split, seed=seed, index=index)
    line: dict[str, object] = {"id": f"sub-{index:04d}", "size": list(brain.mask.shape)}
    for name, values, unit in (("Chimap", brain.susceptibility, "ppm"), ("mask", brain.mask, ""), ("fieldmap-local", field, "ppm")):
        file = f"sub-{index:04d}_{name}.nii.gz"
        Volume.from_numpy(values.numpy(), brain.affine, unit).save(folder / file)
        line[name] = file
    return line
