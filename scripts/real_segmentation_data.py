"""Folders of real pictures with masks, from what packages ship, to train and try the medical methods on.

    python scripts/real_segmentation_data.py mni OUT [--grey] [--copies 4]    T1 template and white matter (and grey): slices of 16 bits
    python scripts/real_segmentation_data.py mni OUT --volumes                the same as NIfTI volumes
    python scripts/real_segmentation_data.py nuclei OUT --wheels FOLDER       fluorescence nuclei
    python scripts/real_segmentation_data.py styles OUT --wheels FOLDER       stained tissue without masks, to take styles from

`mni` needs nilearn, which ships the ICBM 152 template of 2009 (its makers' notice allows use and distribution). The others read pictures
out of wheels (`pip download --no-deps -d FOLDER stardist scikit-image`; both BSD-3, read as archives, not installed). Their pictures' own
licences, as far as the packages say (unverified): nuclei of the Data Science Bowl 2018 (CC0), H&E of The Cancer Imaging Archive,
immunohistochemistry without known copyright. One brain and one field of nuclei are good for trying and no evidence for anything.

Slices of a block of ten count as one patient; five slices are left out between a block and the next. Copies are rotated, scaled and shifted
at random, with another gamma, and stay with their block. Tiles of one row of nuclei count as one patient.
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
from torch import nn

from calotype.data.segmentation_folder import Pair, save_samples, write_segmentation
from calotype.errors import InputError
from calotype.imaging.files import new_folder
from calotype.imaging.types import Volume

FIRST, LAST, BLOCK, GAP = 60, 130, 10, 5
"""Axial slices of the template that hold white matter, slices of a block, and those left out between two blocks."""


def brain(grey: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1 in [0, 1], the number of each voxel's class (1 is white matter, 2 is grey matter), and the affine."""
    from nilearn import datasets

    head, white = datasets.load_mni152_template(resolution=1), datasets.load_mni152_wm_template(resolution=1)
    values = np.asarray(head.dataobj, dtype=np.float32)
    labels = (np.asarray(white.dataobj) > 0.5).astype(np.int64)
    if grey:
        labels[(np.asarray(datasets.load_mni152_gm_template(resolution=1).dataobj) > 0.5) & (labels == 0)] = 2
    return values / values.max(), labels, head.affine


def slices(grey: bool, copies: int) -> Iterator[Pair]:
    """Axial slices, front up, and changed copies of each."""
    head, labels, _ = brain(grey)
    generator = np.random.default_rng(0)
    for number, z in enumerate(z for z in range(FIRST, LAST) if (z - FIRST) % (BLOCK + GAP) < BLOCK):
        image, mask = (torch.from_numpy(np.ascontiguousarray(values[:, ::-1, z].T)) for values in (head, labels))
        columns: dict[str, str | float] = {"patient": f"block{number // BLOCK}", "slice": z}
        yield Pair(f"z{z:03d}", image[None], mask, columns)
        for copy in range(copies):
            yield Pair(f"z{z:03d}-copy{copy + 1}", *changed(image, mask, generator), columns)


def changed(image: torch.Tensor, mask: torch.Tensor, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A slice rotated by up to 15 degrees, scaled by up to 10 %, shifted by up to 5 % of its sides, with a gamma of 0.7 to 1.4."""
    angle, shift = np.radians(generator.uniform(-15, 15)), generator.uniform(-0.1, 0.1, 2)
    scale, gamma = generator.uniform(0.9, 1.1), float(np.exp(generator.uniform(np.log(0.7), np.log(1.4))))
    height, width = image.shape
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    affine = torch.tensor([[cosine, -sine * height / width, shift[0]], [sine * width / height, cosine, shift[1]]], dtype=torch.float32)
    grid = nn.functional.affine_grid(affine[None], [1, 1, height, width], align_corners=False)
    picture = nn.functional.grid_sample(image[None, None], grid, align_corners=False)[0].clamp(0, 1)
    labels = nn.functional.grid_sample(mask[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    return picture**gamma, labels.long()


def write_volumes(out: Path, grey: bool) -> None:
    """Slabs of the head as NIfTI, with their masks."""
    head, labels, affine = brain(grey)
    with new_folder(out) as making:
        for number, first in enumerate(range(FIRST - 20, LAST - 19, 22)):
            placed = affine.copy()
            placed[:3, 3] += affine[:3, 2] * first
            for part, values in (("images", head * 1000), ("masks", labels.astype(np.float32))):
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
    parser.add_argument("--volumes", action="store_true", help="NIfTI volumes of the brain")
    parser.add_argument("--grey", action="store_true", help="grey matter as a second class of the brain")
    parser.add_argument("--copies", type=int, default=0, help="changed copies of each slice of the brain")
    parser.add_argument("--wheels", type=Path, help="folder of downloaded wheels")
    given = parser.parse_args()
    try:
        if given.kind == "styles":
            write_styles(given.out, given.wheels)
        elif given.kind == "nuclei":
            write_segmentation(given.out, nuclei(given.wheels))
        elif given.volumes:
            write_volumes(given.out, given.grey)
        else:
            write_segmentation(given.out, slices(given.grey, given.copies), depth=16, class_values=(0, 255, 127)[: 2 + given.grey])
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
