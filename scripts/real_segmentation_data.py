"""Folders of real pictures with masks, from what packages ship, to train and try the medical methods on.

    python scripts/real_segmentation_data.py mni OUT [--volumes]      T1 template and white matter: slices of 16 bits, or NIfTI volumes
    python scripts/real_segmentation_data.py nuclei OUT --wheels FOLDER       fluorescence nuclei
    python scripts/real_segmentation_data.py styles OUT --wheels FOLDER       stained tissue without masks, to take styles from

`mni` needs nilearn, which ships the ICBM 152 template of 2009 (its makers' notice allows use and distribution). The others read pictures
out of wheels (`pip download --no-deps -d FOLDER stardist scikit-image`; both BSD-3, read as archives, not installed). Their pictures' own
licences, as far as the packages say (unverified): nuclei of the Data Science Bowl 2018 (CC0), H&E of The Cancer Imaging Archive,
immunohistochemistry without known copyright. One brain and one field of nuclei are good for trying and no evidence for anything. Slices
of a block of ten count as one patient; five slices are left out between a block and the next.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from calotype.data.segmentation_folder import Pair, save_samples, write_segmentation
from calotype.errors import InputError
from calotype.imaging.files import new_folder
from calotype.imaging.types import Volume

FIRST, LAST, BLOCK, GAP = 60, 130, 10, 5
"""Axial slices of the template that hold white matter, slices of a block, and those left out between two blocks."""


def brain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1 in [0, 1], white matter's probability, and the affine."""
    from nilearn import datasets

    head, white = datasets.load_mni152_template(resolution=1), datasets.load_mni152_wm_template(resolution=1)
    values = np.asarray(head.dataobj, dtype=np.float32)
    return values / values.max(), np.asarray(white.dataobj, dtype=np.float32), head.affine


def slices() -> Iterator[Pair]:
    """Axial slices, front up, with white matter above one half."""
    head, white, _ = brain()
    for number, z in enumerate(z for z in range(FIRST, LAST) if (z - FIRST) % (BLOCK + GAP) < BLOCK):
        image, mask = (np.ascontiguousarray(values[:, ::-1, z].T) for values in (head, white))
        columns: dict[str, str | float] = {"patient": f"block{number // BLOCK}", "slice": z}
        yield Pair(f"z{z:03d}", torch.from_numpy(image)[None], torch.from_numpy(mask > 0.5).long(), columns)


def write_volumes(out: Path) -> None:
    """Slabs of the head as NIfTI, with their masks."""
    head, white, affine = brain()
    with new_folder(out) as making:
        for number, first in enumerate(range(FIRST - 20, LAST - 19, 22)):
            placed = affine.copy()
            placed[:3, 3] += affine[:3, 2] * first
            for part, values in (("images", head * 1000), ("masks", (white > 0.5).astype(np.float32))):
                (making / part).mkdir(exist_ok=True)
                Volume.from_numpy(values[:, :, first : first + 20], placed).save(making / part / f"slab{number}.nii.gz")


def packaged(wheels: Path | None, ending: str) -> np.ndarray:
    """A picture in one of the wheels in a folder."""
    for wheel in sorted(wheels.glob("*.whl")) if wheels is not None else ():
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(ending):
                    return np.asarray(Pillow.open(io.BytesIO(archive.read(name))))
    raise InputError(f"no wheel with {ending}: pip download --no-deps -d FOLDER stardist scikit-image, then --wheels FOLDER")


def nuclei(wheels: Path | None, side: int = 128) -> Iterator[Pair]:
    """Tiles of a field of nuclei; the tiles of a row are one patient."""
    image, labels = packaged(wheels, "img2d.tif").astype(np.float32), packaged(wheels, "mask2d.tif")
    low, high = np.quantile(image, [0.001, 0.999])
    image = np.clip((image - low) / (high - low), 0, 1)
    for row in range(image.shape[0] // side):
        for column in range(image.shape[1] // side):
            part = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            mask = torch.from_numpy(labels[part] > 0).long()
            yield Pair(f"r{row}c{column}", torch.from_numpy(image[part])[None], mask, {"patient": f"row{row}"})


def write_styles(out: Path, wheels: Path | None, side: int = 128) -> None:
    """Crops of stained tissue; the crops of one picture are one patient."""
    sources = {name: packaged(wheels, file) for name, file in (("ihc", "data/ihc.png"), ("he", "images/histo.jpg"))}
    with new_folder(out) as making:
        (making / "images").mkdir()
        lines = ["file_name,patient"]
        for name, picture in sources.items():
            for row in range(picture.shape[0] // side):
                for column in range(picture.shape[1] // side):
                    part = picture[row * side : (row + 1) * side, column * side : (column + 1) * side, :3]
                    stem = f"{name}-r{row}c{column}"
                    save_samples(torch.from_numpy(part.transpose(2, 0, 1) / 255.0), making / "images" / f"{stem}.png")
                    lines.append(f"images/{stem}.png,{name}")
        (making / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("mni", "nuclei", "styles"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--volumes", action="store_true")
    parser.add_argument("--wheels", type=Path)
    given = parser.parse_args()
    try:
        if given.kind == "styles":
            write_styles(given.out, given.wheels)
        elif given.kind == "nuclei":
            write_segmentation(given.out, nuclei(given.wheels))
        elif given.volumes:
            write_volumes(given.out)
        else:
            write_segmentation(given.out, slices(), depth=16)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
