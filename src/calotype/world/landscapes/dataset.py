"""Data sets of landscapes on disk: pictures, masks, motion fields and the true later frames."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import torch

from calotype.core.events import SILENT, Events
from calotype.errors import InputError
from calotype.imaging.types import Image
from calotype.world.landscapes.drawing import LAND, SKY, WATER, paint_landscapes, sample_landscape
from calotype.world.scenes.dataset import FORMAT, VERSION, new_dataset
from calotype.world.scenes.sampling import SPLITS

PRESET = "landscapes"
MASK_VALUES = {"land": 0, "sky": 127, "water": 255}
"""Grey levels of the classes `LAND`, `SKY` and `WATER` in the files."""
COLUMNS = ("horizon", "dusk", "river", "wavelength")


def write_landscapes(
    directory: str | os.PathLike[str],
    *,
    split: str = "train",
    seed: int = 0,
    count: int = 24,
    num_frames: int = 1,
    size: int = 64,
    overwrite: bool = False,
    events: Events = SILENT,
) -> Path:
    """Write landscapes 0 .. count - 1 of a stream; `docs/world.md` describes the files.

    Args:
        directory: the folder to make; see `calotype.world.write_dataset`.
        split: `train`, `tune` or `eval`.
        seed: number of the stream, 0 or more.
        count: number of landscapes, 1 or more.
        num_frames: with more than one, `frames/ID/` holds the landscape at times 0 .. num_frames - 1.
        size: side in pixels, 16 to 2048.
        overwrite: replace a data set that is there.
        events: told of each landscape that is done; may cancel.

    Returns:
        The folder.

    Raises:
        InputError: a value out of range, or files in the way.

    >>> import tempfile
    >>> folder = write_landscapes(Path(tempfile.mkdtemp()) / "landscapes", count=2, size=32)
    >>> sorted(path.name for path in folder.iterdir())
    ['dataset.json', 'images', 'masks', 'motion', 'table.csv']
    """
    target = Path(directory)
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0 or count < 1 or not 16 <= size <= 2048 or not 1 <= num_frames <= 1000:
        raise InputError(
            f"seed is {seed} (0 or more), count {count} (1 or more), size {size} (16 to 2048 px), num_frames {num_frames} (1 to 1000)"
        )
    with new_dataset(target, overwrite) as making:
        for folder in ("images", "masks", "motion"):
            (making / folder).mkdir()
        events.stage("painting landscapes", count)
        with (making / "table.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["file_name", *COLUMNS])
            for index in range(count):
                landscape = sample_landscape(split=split, seed=seed, index=index)
                stem = f"{index:06d}"
                made = paint_landscapes([landscape], size)
                Image(made.image[0]).save(making / "images" / f"{stem}.png")
                _mask(made.mask[0], making / "masks" / f"{stem}.png")
                np.save(making / "motion" / f"{stem}.npy", made.motion[0].numpy())
                for time in range(num_frames if num_frames > 1 else 0):
                    path = making / "frames" / stem / f"{time:04d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image(paint_landscapes([landscape], size, time=time).image[0]).save(path)
                table.writerow([f"images/{stem}.png", *(getattr(landscape, name) for name in COLUMNS)])
                events.step()
                events.check()
        summary = {"format": FORMAT, "version": VERSION, "preset": PRESET, "split": split, "seed": seed, "count": count}
        summary |= {"size": [size, size], "frames": num_frames, "mask_values": MASK_VALUES}
        (making / "dataset.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return target


def _mask(mask: torch.Tensor, path: Path) -> None:
    from PIL import Image as PILImage

    values = np.zeros(3, dtype=np.uint8)
    values[[LAND, SKY, WATER]] = list(MASK_VALUES.values())
    PILImage.fromarray(values[mask.numpy()]).save(path)
