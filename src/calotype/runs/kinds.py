"""What methods take and make, in one table: each kind's type, how a file of it is read, how a result of it is written and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from calotype.data import as_mask, contact_sheet, read_image, read_video, read_volume
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask, Video, Volume

Media: TypeAlias = Image | Mask | Video | Volume
"""One input or result that is more than a plain value."""
_MOST_TEXT = 10_000
"""Longest unit or header, in bytes."""


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    type: type
    phrase: str
    """Such as "an image"."""
    read: Callable[..., Any]
    """From a path; takes `name` and `events`."""
    suffix: str
    """Of results."""
    glance: str = ""
    """What the picture is called that shows a result at a glance; "" if the result is a picture itself."""
    show: Callable[[Any], Image] | None = None
    """Makes that picture."""


def planes(volume: Volume) -> Image:
    """The three planes of a volume as a picture."""
    return Image.from_pil(volume.to_pil())


KINDS: Mapping[str, Kind] = {
    "image": Kind(Image, "an image", read_image, ".png"),
    "mask": Kind(Mask, "a mask", as_mask, ".png"),
    "video": Kind(Video, "a video", read_video, ".mp4", "contact-sheet", contact_sheet),
    "volume": Kind(Volume, "a volume", partial(read_volume, finite=False), ".nii.gz", "planes", planes),
}


def kind_of(value: Media) -> str:
    """The name of the row that a value belongs to."""
    return next(name for name, kind in KINDS.items() if isinstance(value, kind.type))


def kind_of_file(path: Path) -> str | None:
    """The first row whose results end as this file does, None if none does."""
    return next((name for name, kind in KINDS.items() if path.name.endswith(kind.suffix)), None)


def glance_name(kind: str, result: str) -> str:
    """What the picture beside a result is called: "contact-sheet", or "clip-contact-sheet" of a result named "clip"; "" if it has none."""
    glance = KINDS[kind].glance
    return glance if result == "result" or not glance else f"{result}-{glance}"


def is_glance(name: str) -> bool:
    """Whether an output shows another one at a glance."""
    return any(kind.glance and (name == kind.glance or name.endswith(f"-{kind.glance}")) for kind in KINDS.values())


def suited(kind: str, found: Media, subject: str, advice: str = "") -> Media:
    """An object as the kind that an argument asks for; a picture can be a mask.

    Raises:
        InputError: another kind.
    """
    if kind == "mask" and isinstance(found, Image):
        return as_mask(found)
    if not isinstance(found, KINDS[kind].type):
        raise InputError(f"{subject} {KINDS[kind_of(found)].phrase} and {KINDS[kind].phrase} is needed{advice}")
    return found


def contents(value: Media) -> list[Tensor]:
    """Its tensors, in the order of its fields."""
    found = [getattr(value, field.name) for field in fields(value)]
    return [item.detach().cpu().contiguous() for item in found if isinstance(item, Tensor)]


def to_tensors(value: Media) -> dict[str, Tensor]:
    """All fields as named tensors, to the bit."""
    return {field.name: _pack(getattr(value, field.name)) for field in fields(value)}


def from_tensors(tensors: Mapping[str, Tensor]) -> Media | None:
    """What `to_tensors` took apart; None if these tensors are none of the kinds.

    Raises:
        InputError: the names are those of a kind, and a type, a shape or a value is not.
    """
    for kind in KINDS.values():
        known = {field.name: str(field.type) for field in fields(kind.type)}
        if known.keys() == tensors.keys():
            made = cast(Media, kind.type(**{name: _unpack(tensor, known[name], name) for name, tensor in tensors.items()}))
            for tensor in contents(made):
                if not tensor.numel() or not bool(tensor.isfinite().all()):
                    raise InputError(f"{kind.phrase} without values, or with values that are no numbers; make the file again")
            return made
    return None


def _pack(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, str | bytes):
        content = value.encode() if isinstance(value, str) else value
        return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
    return torch.tensor(value, dtype=torch.float64)


def _unpack(tensor: Tensor, annotation: str, name: str) -> Any:
    if annotation == "float":
        if tensor.dtype != torch.float64 or tensor.numel() != 1:
            raise InputError(f"{name} is {tensor.dtype} {list(tensor.shape)[:8]}; one float64 number is expected")
        return float(tensor)
    if annotation in ("str", "bytes"):
        if tensor.dtype != torch.uint8 or tensor.ndim != 1 or len(tensor) > _MOST_TEXT:
            raise InputError(f"{name} is {tensor.dtype} {list(tensor.shape)[:8]}; bytes are expected")
        content = tensor.numpy().tobytes()
        return content.decode("utf-8", "replace") if annotation == "str" else content
    return tensor
