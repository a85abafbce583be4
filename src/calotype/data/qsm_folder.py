"""Folders that hold a true susceptibility map: the head phantom of the QSM challenge 2.0, and what qsm-forward writes.

Only names are looked at here; `calotype.data.volumes.read_volume` reads the files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calotype.errors import InputError

Layout = Literal["challenge", "qsm-forward"]

_CHALLENGE = {
    "truth": ("chimodel/ChiModelMIX", "chimodel/ChiModelMIX_noCalc", "chimodel/Chi", "ChiModelMIX", "ChiModelMIX_noCalc"),
    "mask": ("masks/BrainMask", "BrainMask"),
    "regions": ("masks/SegmentedModel", "SegmentedModel"),
    "field": ("raw/LocalField", "LocalField"),
}
"""Marques et al. 2021 (doi 10.1002/mrm.28716; data 10.34973/m20r-jt17). The local field is not part of it; a user may add one."""
_FORWARD = {
    "truth": ("_Chimap", "_chi"),
    "mask": ("_mask",),
    "regions": ("_dseg", "_segmentation"),
    "field": ("_fieldmap-local",),
}
"""Ends of qsm-forward's names in `derivatives/qsm-forward/sub-*/[ses-*/]anat`, and in `extra_data` as its early versions had it."""
_PLACES = ("derivatives/qsm-forward/sub-*/anat", "derivatives/qsm-forward/sub-*/ses-*/anat", "sub-*/extra_data", "sub-*/ses-*/extra_data")
_SUFFIXES = (".nii", ".nii.gz")
DEEP_GREY = range(1, 8)
"""Numbers of the deep grey matter in both layouts: caudate, pallidum, putamen, red nucleus, dentate, substantia nigra, thalamus."""


@dataclass(frozen=True)
class QSMFiles:
    """Where one head's truth lies."""

    name: str
    """What it is called: the map's file name without its ending."""
    layout: Layout
    truth: Path
    """Susceptibility in ppm."""
    mask: Path
    """The brain."""
    regions: Path | None = None
    """Numbers of tissues, 0 for none. See `DEEP_GREY`; 8 is white matter, 9 grey matter, 10 fluid, 11 blood."""
    field: Path | None = None
    """Local field in ppm; None where it has to be computed from the truth."""


def find_qsm_files(folder: str | os.PathLike[str]) -> tuple[QSMFiles, ...]:
    """The heads in a folder, in the order of their names.

    Known are the head phantom's folder (`chimodel/ChiModelMIX.nii`, `masks/BrainMask.nii.gz`, `masks/SegmentedModel.nii.gz`; itself or the
    folder that holds it as `data`), with its two truths as two heads, and qsm-forward's BIDS folder.

    Raises:
        InputError: no folder, an empty one, neither layout, or a truth without a mask; the message names what was looked for.

    Example:
        >>> find_qsm_files("/dev")
        Traceback (most recent call last):
        calotype.errors.InputError: /dev: no known layout; looked for chimodel/ChiModelMIX.nii[.gz] (QSM challenge 2.0) and derivatives/qsm-forward/sub-*/anat/*_Chimap.nii[.gz] (qsm-forward)
    """  # noqa: E501
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the QSM challenge's folder or one that qsm-forward wrote")
    found = _challenge(root) or _challenge(root / "data") or _forward(root)
    if not found:
        if not any(root.iterdir()):
            raise InputError(f"{root} is empty; give the QSM challenge's folder or one that qsm-forward wrote")
        raise InputError(
            f"{root}: no known layout; looked for chimodel/ChiModelMIX.nii[.gz] (QSM challenge 2.0) "
            "and derivatives/qsm-forward/sub-*/anat/*_Chimap.nii[.gz] (qsm-forward)"
        )
    return found


def _challenge(root: Path) -> tuple[QSMFiles, ...]:
    truths = {path.name.split(".")[0]: path for stem in _CHALLENGE["truth"] if (path := _there(root, stem))}
    if not truths:
        return ()
    mask, regions, field = (
        next((path for stem in _CHALLENGE[part] if (path := _there(root, stem))), None) for part in ("mask", "regions", "field")
    )
    if mask is None:
        raise InputError(f"{root} has a true map but no mask; looked for masks/BrainMask.nii[.gz]")
    # A measured field belongs to one truth; which one is not written anywhere, so it counts only if there is one.
    alone = field if len(truths) == 1 else None
    return tuple(QSMFiles(name, "challenge", truth, mask, regions, alone) for name, truth in sorted(truths.items()))


def _forward(root: Path) -> tuple[QSMFiles, ...]:
    folders = [place for pattern in _PLACES for place in sorted(root.glob(pattern)) if place.is_dir()]
    found = []
    for place in folders:
        for ending in _FORWARD["truth"]:
            for truth in sorted(path for suffix in _SUFFIXES for path in place.glob(f"*{ending}{suffix}")):
                name = truth.name.split(".")[0].removesuffix(ending)
                parts = {part: next((path for end in ends if (path := _there(place, name + end))), None) for part, ends in _FORWARD.items()}
                if parts["mask"] is None:
                    raise InputError(f"{truth} has no mask beside it; looked for {name}_mask.nii[.gz]")
                found.append(QSMFiles(name, "qsm-forward", truth, parts["mask"], parts["regions"], parts["field"]))
    return tuple(found)


def _there(root: Path, stem: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := root / f"{stem}{suffix}").is_file()), None)
