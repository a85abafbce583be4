"""Data sets of stained tissue on disk: pictures, masks, two annotators, and a table of patients and styles."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.types import Image
from calotype.world.scenes.dataset import FORMAT, VERSION, new_dataset
from calotype.world.scenes.sampling import SPLITS
from calotype.world.tissue.painting import paint_tissue
from calotype.world.tissue.sampling import READERS, VARIANTS, TissueScene, sample_tissue

PRESET = "tissue"
PICTURES_PER_PATIENT = 8
HELD_OUT = 5
"""Of a data set of the split `train`, every fifth patient is marked as held out; of fewer patients, the last one."""


def write_tissue(
    directory: str | os.PathLike[str],
    *,
    variant: str = "tissue",
    split: str = "train",
    seed: int = 0,
    count: int = 96,
    patients: int | None = None,
    hues: tuple[float, float] = (0.0, 1.0),
    smooth: bool = False,
    noise: float | None = None,
    size: int = 64,
    overwrite: bool = False,
    events: Events = SILENT,
) -> Path:
    """Write pictures 0 .. count - 1 of a stream, with `masks/`, `annotators/`, `coverage/` and `table.csv`; `docs/world.md` describes them.

    Args:
        directory: the folder to make; see `calotype.world.write_dataset`.
        variant: see `calotype.world.tissue.VARIANTS`.
        split: `train`, `tune` or `eval`.
        seed: number of the stream, 0 or more.
        count: number of pictures, 1 or more.
        patients: whose pictures they are, shared out evenly; by default each has `PICTURES_PER_PATIENT`.
        hues, smooth, noise: of the patients' styles; see `sample_style`.
        size: side in pixels, 16 to 2048.
        overwrite: replace a data set that is there.
        events: told of each picture that is done; may cancel.

    Returns:
        The folder.

    Raises:
        InputError: a value out of range, or files in the way.

    >>> import tempfile
    >>> folder = write_tissue(Path(tempfile.mkdtemp()) / "tissue", count=4, patients=2, size=32)
    >>> (folder / "table.csv").read_text().splitlines()[0]
    'file_name,patient,split,hue,second_hue,contrast,frequency,tint,noise'
    """
    target = Path(directory)
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or count < 1 or not 16 <= size <= 2048:
        raise InputError(f"seed is {seed} (0 or more), count {count} (1 or more), size {size} (16 to 2048 px)")
    if patients is not None and not 1 <= patients <= count:
        raise InputError(f"{patients} patients can't share {count} pictures; give 1 to {count}")
    each = PICTURES_PER_PATIENT if patients is None else -(-count // patients)
    whole = -(-count // each)
    given = {"variant": variant, "split": split, "seed": seed, "hues": hues, "smooth": smooth, "noise": noise, "pictures_per_patient": each}
    sample_tissue(**given, index=0)  # type: ignore[arg-type]  # refuses before a folder is made
    with new_dataset(target, overwrite) as making:
        for folder in ("images", "masks", "annotators", "coverage"):
            (making / folder).mkdir()
        events.stage("painting tissue", count)
        with (making / "table.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            for index in range(count):
                scene = sample_tissue(**given, index=index)  # type: ignore[arg-type]
                if index == 0:
                    table.writerow(["file_name", "patient", "split", *scene.truth])
                stem = f"{index:06d}"
                _write(making, stem, scene, size)
                table.writerow([f"images/{stem}.png", f"p{scene.patient:04d}", _side(split, scene.patient, whole), *scene.truth.values()])
                events.step()
                events.check()
        summary = {"format": FORMAT, "version": VERSION, "preset": PRESET, **given, "count": count, "size": [size, size]}
        summary["mask_values"] = mask_values(variant)
        (making / "dataset.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return target


def mask_values(variant: str) -> list[int]:
    """The grey level of each class in the files: far enough apart to be seen.

    >>> mask_values("tissue")
    [0, 127, 255]
    """
    return [255 * label // (VARIANTS[variant].num_classes - 1) for label in range(VARIANTS[variant].num_classes)]


def _side(split: str, patient: int, patients: int) -> str:
    """What the table calls a patient's split."""
    every = min(HELD_OUT, patients)
    held_out = patients > 1 and patient % every == every - 1
    return {"train": "validation" if held_out else "train", "tune": "validation", "eval": "test"}[split]


def _write(folder: Path, stem: str, scene: TissueScene, size: int) -> None:
    made = paint_tissue([scene], size)
    Image(made.image[0]).save(folder / "images" / f"{stem}.png")
    values = mask_values(scene.layout.variant)
    _labels(made.mask[0], values, folder / "masks" / f"{stem}.png")
    for reader in range(READERS):
        _labels(made.annotators[0, reader], values, folder / "annotators" / f"{stem}_{reader + 1}.png")
    np.save(folder / "coverage" / f"{stem}.npy", made.coverage[0].numpy().astype(np.float16))


def _labels(mask: Tensor, values: list[int], path: Path) -> None:
    from PIL import Image as PILImage

    PILImage.fromarray(np.array(values, dtype=np.uint8)[mask.numpy()]).save(path)
