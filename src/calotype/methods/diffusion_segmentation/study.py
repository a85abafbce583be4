"""The networks of the study: one architecture, trained for four things, and the folder that holds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.backbones import load
from calotype.backbones.diffusion_segmenter import DiffusionSegmenter, Objective
from calotype.core.denoiser import Prediction
from calotype.errors import InputError


@dataclass(frozen=True, kw_only=True)
class StudyPart:
    """One of the networks."""

    objective: Objective
    prediction: Prediction
    words: str
    """For a reader."""


PARTS: Mapping[str, StudyPart] = {
    "segmenter": StudyPart(objective="diffusion", prediction="sample", words="diffusion that learns the mask"),
    "noise": StudyPart(objective="diffusion", prediction="epsilon", words="diffusion that learns the noise (E2)"),
    "feed_forward": StudyPart(objective="feed-forward", prediction="sample", words="feed-forward (E1)"),
    "mask_alone": StudyPart(objective="mask-alone", prediction="sample", words="mask without the picture (E3)"),
    "image_alone": StudyPart(objective="image-alone", prediction="epsilon", words="picture generation (E4)"),
}
"""The first one is the folder's own model, the others are in `study/`."""


def study_folder(folder: Path, name: str) -> Path:
    """Where a part's checkpoint is in the folder.

    Example:
        >>> [study_folder(Path("toy-segmenter"), name).as_posix() for name in list(PARTS)[:3]]
        ['toy-segmenter', 'toy-segmenter/study/noise', 'toy-segmenter/study/feed-forward']
    """
    return folder if name == next(iter(PARTS)) else folder / "study" / name.replace("_", "-")


def load_study(name: str | os.PathLike[str], *, device: str = "auto") -> dict[str, DiffusionSegmenter]:
    """The networks of a folder, or of an embedded model, by their names in `PARTS`.

    Raises:
        InputError: a folder without them.
    """
    first: Any = load(os.fspath(name), device=device)
    folder: Path = first.source.folder
    others = {part: str(study_folder(folder, part)) for part in PARTS}
    return load_parts({**others, next(iter(PARTS)): os.fspath(name)}, device=device)


def load_parts(names: Mapping[str, str], *, device: str = "auto") -> dict[str, DiffusionSegmenter]:
    """The networks from checkpoints of their own.

    Raises:
        InputError: one was trained for something else.
    """
    parts: dict[str, Any] = {part: load(name, device=device) for part, name in names.items()}
    for part, model in parts.items():
        if not isinstance(model, DiffusionSegmenter) or model.diffusion.objective != PARTS[part].objective:
            raise InputError(f"{names[part]} isn't the network of a study that is called {part}: it was trained for something else")
    return {part: parts[part] for part in PARTS}
