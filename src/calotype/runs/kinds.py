"""The table of artifact kinds: everything that methods take and make which is more than a plain value, and how each is read and written.

Kinds of methods and of other packages lie beside their types; see `calotype.runs.artifact`.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from calotype.core.artifacts import CheckpointFolder, DatasetFolder, HtmlReport, Ledger, Points, Pose, Table
from calotype.core.untrusted import listed, number, short, text, whole
from calotype.data import as_mask, contact_sheet, read_image, read_video, read_volume
from calotype.data.masks import mask_reading
from calotype.data.rgbd_scenes import read_scene, write_scene
from calotype.errors import CalotypeError, InputError
from calotype.imaging.nifti import medical
from calotype.imaging.rgbd import RGBDScene
from calotype.imaging.types import Image, Mask, Video, Volume
from calotype.registry import known_artifacts, resolve_artifact
from calotype.runs.artifact import ArtifactKind, Metadata, folder_kind, text_kind
from calotype.runs.artifact import contents as words

_MOST_TEXT = 10_000
"""Longest unit or header, in bytes."""
_MANY = 1_000_000


def _size(value: Image | Mask | Video) -> dict[str, Any]:
    return {"height": value.size[0], "width": value.size[1]}


def _checked_size(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {side: whole(entry.get(side), f"{name}: {side}", 1, _MANY) for side in ("height", "width")}


def _shown_size(entry: Mapping[str, Any]) -> str:
    return f"{entry['width']}x{entry['height']} px"


def _clip(value: Video) -> dict[str, Any]:
    return {**_size(value), "frames": len(value), "fps": float(value.fps)}


def _checked_clip(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    frames, fps = whole(entry.get("frames"), f"{name}: frames", 1, _MANY), number(entry.get("fps"), f"{name}: fps", 0, 1e6)
    return {**_checked_size(entry, name), "frames": frames, "fps": fps}


def _shown_clip(entry: Mapping[str, Any]) -> str:
    return f"{entry['frames']} frames, {_shown_size(entry)}, {entry['fps']:g} fps"


def _grid(value: Volume) -> dict[str, Any]:
    return {"size": list(value.size), "spacing": list(value.spacing), "unit": value.unit}


def _checked_grid(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    size = [whole(side, f"{name}: size", 1, _MANY) for side in _three(entry.get("size"), f"{name}: size")]
    spacing = [number(side, f"{name}: spacing", 0, 1e6) for side in _three(entry.get("spacing"), f"{name}: spacing")]
    return {"size": size, "spacing": spacing, "unit": text(entry.get("unit", ""), f"{name}: unit", most=40)}


def _three(value: Any, name: str) -> list[Any]:
    found = listed(value, name)
    if len(found) != 3:
        raise InputError(f"{name} is {short(value)}; three numbers are expected")
    return found


def _shown_grid(entry: Mapping[str, Any]) -> str:
    sizes = "x".join(map(str, entry["size"])), " x ".join(f"{side:.3g}" for side in entry["spacing"])
    return f"{sizes[0]} voxels of {sizes[1]} mm{', in ' if entry['unit'] else ''}{entry['unit']}"


PICTURE = Metadata(_size, _checked_size, _shown_size)
CLIP = Metadata(_clip, _checked_clip, _shown_clip)
GRID = Metadata(_grid, _checked_grid, _shown_grid)


def planes(volume: Volume) -> Image:
    """The three planes of a volume as a picture."""
    return Image.from_pil(volume.to_pil())


def _digest(value: Any) -> str:
    total = hashlib.sha256()
    for tensor in contents(value):
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def _apart(first: Any, second: Any) -> str:
    """The distance of two results' first tensors."""
    left, right = contents(first)[0].float(), contents(second)[0].float()
    if left.shape != right.shape:
        return "different size or length"
    apart = left - right
    error = float(apart.square().mean())
    if not error:
        return "different below what the file keeps"
    if isinstance(first, Volume):
        return f"different, RMSE {math.sqrt(error):.3g} {first.unit}".rstrip() + f", at most {float(apart.abs().max()):.3g}"
    return f"different, PSNR {min(99.0, -10 * math.log10(error)):.1f} dB"


def _write_scene(value: RGBDScene, path: Path, metadata: Mapping[str, str]) -> None:
    write_scene(value, path, metadata, exact=True)


def _scene_digest(value: RGBDScene) -> str:
    total = hashlib.sha256()
    for view in value.views:
        total.update(_digest(view).encode())
    return total.hexdigest()


def _save(value: Any, path: Path, metadata: Mapping[str, str]) -> None:
    value.save(path, metadata=metadata, overwrite=True)


_media = partial(ArtifactKind, write=_save, digest=_digest, distance=_apart, tensors=True)

IMAGE = _media(
    name="image", type=Image, phrase="an image", suffix=".png", read=read_image, metadata=PICTURE, pictures=lambda image: (image,)
)  # fmt: skip
MASK = _media(
    name="mask", type=Mask, phrase="a mask", suffix=".png", read=as_mask, metadata=PICTURE,
    pictures=lambda mask: (Image(mask.values.float().expand(3, -1, -1).contiguous()),),
    adopt=lambda value: as_mask(value) if isinstance(value, Image) else None,
    says_how=lambda path: bool(mask_reading(path)[0]),
)  # fmt: skip
VIDEO = _media(
    name="video", type=Video, phrase="a video", suffix=".mp4", read=read_video, metadata=CLIP, folders=True,
    glance="contact-sheet", show=contact_sheet,
    pictures=lambda clip: tuple(clip[frame] for frame in range(len(clip))),
    parts={"first": lambda clip: clip[0], "last": lambda clip: clip[-1]},
)  # fmt: skip
VOLUME = _media(
    name="volume", type=Volume, phrase="a volume", suffix=".nii.gz", read=partial(read_volume, finite=False), metadata=GRID, folders=True,
    glance="planes", show=planes,
    needs=lambda: medical("nibabel"),
)  # fmt: skip

SCENE = ArtifactKind(
    name="scene", type=RGBDScene, phrase="a folder of views with depth", suffix="", read=read_scene, write=_write_scene,
    digest=_scene_digest, metadata=words(lambda scene: f"{len(scene)} views"), folders=True, copied=False,
)  # fmt: skip

KINDS: Mapping[str, ArtifactKind] = {
    kind.name: kind
    for kind in (
        IMAGE,
        MASK,
        VIDEO,
        VOLUME,
        text_kind("table", "a table", ".csv", lambda table: f"{len(table.columns)} columns of {len(table.rows)}", Table),
        text_kind("report", "a report", ".html", lambda report: f"{len(report.html)} characters", HtmlReport),
        text_kind("points", "a table of points", ".points.csv", lambda points: f"{len(points.coordinates)} points", Points),
        text_kind("pose", "a pose", ".pose.json", lambda pose: "4x4 matrix", Pose),
        text_kind("ledger", "a ledger", ".jsonl", lambda ledger: f"{len(ledger.entries)} entries", Ledger),
        SCENE,
        folder_kind("dataset", "a folder with a data set", DatasetFolder),
        folder_kind("checkpoint", "a folder with a checkpoint", CheckpointFolder),
    )
}


def kind_named(name: str) -> ArtifactKind:
    """The kind that a record or a user calls by name.

    Raises:
        InputError: there is none.
        MissingError: the package that adds it is broken.
    """
    if name in KINDS:
        return KINDS[name]
    found = resolve_artifact(name)
    if not isinstance(found, ArtifactKind) or found.name != name:
        raise InputError(f"{name}: {short(found)} is no artifact kind of that name; update the package that adds it")
    return found


def kind_names() -> tuple[str, ...]:
    """All names that records may have."""
    return (*KINDS, *known_artifacts())


def kind_of_type(made: Any) -> ArtifactKind | None:
    """The kind of a type, or of one that it is made from; None if it is no artifact.

    Example:
        >>> kind_of_type(Image).name, kind_of_type(int)
        ('image', None)
    """
    if not isinstance(made, type):
        return None
    for owner in made.__mro__:
        beside = vars(sys.modules[owner.__module__]).values() if is_dataclass(owner) and owner.__module__ in sys.modules else ()
        for kind in (*KINDS.values(), *(value for value in beside if isinstance(value, ArtifactKind))):
            if kind.type is owner:
                return kind
    return None


def kind_of(value: Any) -> ArtifactKind:
    """The kind of a value.

    Raises:
        CalotypeError: it has none.
    """
    kind = kind_of_type(type(value))
    if kind is None:
        raise CalotypeError(f"a {type(value).__name__} is no artifact; it has no kind that a run could read or write")
    return kind


def is_artifact(value: Any) -> bool:
    """Whether a value is of some kind."""
    return kind_of_type(type(value)) is not None


def kind_of_file(path: Path) -> ArtifactKind | None:
    """The first kind whose results end as this file does, None if none does."""
    return next((kind for kind in KINDS.values() if kind.suffix and path.name.endswith(kind.suffix)), None)


def glance_name(kind: ArtifactKind, result: str) -> str:
    """What the picture beside a result is called: "contact-sheet", or "clip-contact-sheet" of a result named "clip"; "" if it has none."""
    return kind.glance if result == "result" or not kind.glance else f"{result}-{kind.glance}"


def is_glance(name: str) -> bool:
    """Whether an output shows another one at a glance."""
    return any(kind.glance and (name == kind.glance or name.endswith(f"-{kind.glance}")) for kind in KINDS.values())


def adopted(kind: ArtifactKind, found: Any, subject: str, advice: str = "") -> Any:
    """An object as the kind that an argument asks for; a picture can be a mask.

    Raises:
        InputError: another kind.
    """
    if isinstance(found, kind.type):
        return found
    made = kind.adopt(found)
    if made is None:
        raise InputError(f"{subject} {kind_of(found).phrase} and {kind.phrase} is needed{advice}")
    return made


def contents(value: Any) -> list[Tensor]:
    """Its tensors, in the order of its fields."""
    found = [getattr(value, field.name) for field in fields(value)]
    return [item.detach().cpu().contiguous() for item in found if isinstance(item, Tensor)]


def to_tensors(value: Any) -> dict[str, Tensor]:
    """All fields as named tensors, to the bit."""
    return {field.name: _pack(getattr(value, field.name)) for field in fields(value)}


def from_tensors(tensors: Mapping[str, Tensor]) -> Any:
    """What `to_tensors` took apart; None if these tensors are none of the kinds.

    Raises:
        InputError: the names are those of a kind, and a type, a shape or a value is not.
    """
    for kind in (each for each in KINDS.values() if each.tensors):
        known = {field.name: str(field.type) for field in fields(cast(Any, kind.type))}
        if known.keys() == tensors.keys():
            made = kind.type(**{name: _unpack(tensor, known[name], name) for name, tensor in tensors.items()})
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
