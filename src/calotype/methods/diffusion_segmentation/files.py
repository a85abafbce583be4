"""What the method reads and writes: a scan in its file's own depth, and a mask with the values of the masks that were trained on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as Pillow
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.files import plain_file
from calotype.data.raw import Intensity, Raw, read_raw
from calotype.errors import InputError
from calotype.imaging.files import atomic_path
from calotype.imaging.media import save_picture
from calotype.imaging.nifti import is_nifti, medical, save_volume
from calotype.imaging.types import Image, Volume
from calotype.runs.artifact import ArtifactKind, contents


@dataclass(frozen=True, eq=False)
class Scan:
    """A picture, a slice or a volume with the numbers of its file; a checkpoint's rule makes them [0, 1]."""

    raw: Raw
    rows_first: bool = False
    """Whether a slice has rows and columns where its grid has x and y, as DICOM has."""

    def on_grid(self, values: Tensor) -> Tensor:
        """Values of the scan's sides as its grid has them, [x, y, z]."""
        flat = values if values.ndim == 3 else values[..., None]
        return flat.transpose(0, 1).contiguous() if self.rows_first else flat

    @property
    def words(self) -> str:
        """For a record."""
        return f"{'x'.join(map(str, self.raw.sides))}, {self.raw.channels} channel{'s' if self.raw.channels > 1 else ''}"


ScanLike: TypeAlias = Scan | Image | Volume | str | os.PathLike[str]
"""What the method takes: a file, or an object."""


def as_scan(value: ScanLike, *, name: str = "image", events: Events = SILENT) -> Scan:
    """A file or an object as what is segmented. A picture in [0, 1] counts as one of 8 bits.

    Raises:
        InputError: a file that is refused.
    """
    if isinstance(value, Scan):
        return value
    if isinstance(value, Image):
        return Scan(Raw((value.pixels.detach().cpu().clamp(0, 1) * 255).numpy(), 8))
    if isinstance(value, Volume):
        values = value.values.detach().cpu().numpy()
        return Scan(Raw((values[..., 0] if values.shape[2] == 1 else values)[None], 0, value))
    return _read_scan(Path(value), name=name, events=events)


def to_unit(scan: Scan, rule: Mapping[str, object], channels: int, *, name: str = "image", events: Events = SILENT) -> Float[Tensor, ...]:
    """The scan in [0, 1] by a checkpoint's rule, with as many channels: [channels, *sides].

    A grey picture is repeated where three channels are wanted, and a colour picture that is grey becomes one; others are refused.

    Raises:
        InputError: another depth, or colours where there are none.
    """
    raw = scan.raw
    if raw.channels != channels:
        grey = raw.channels == 1 or bool((raw.values == raw.values[:1]).all())
        if not grey:
            raise InputError(f"{name} has {raw.channels} channels and the model was trained on {channels}; give pictures like those")
        events.note(f"{name}: it is grey, read as {channels} channel{'s' if channels > 1 else ''}, which the model was trained on")
        raw = replace(raw, values=np.ascontiguousarray(np.broadcast_to(raw.values[:1], (channels, *raw.sides))))
    return (Intensity.of_json(rule) if rule else Intensity(8, 0, 255)).to_unit(raw, name)


def _read_scan(path: Path, *, name: str = "image", events: Events = SILENT) -> Scan:
    if path.suffix != ".safetensors":
        raw = read_raw(path, name=name, events=events)
        return Scan(raw, raw.volume is not None and not is_nifti(path))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        kept = load_file(plain_file(path, name))
        volume = Volume(torch.zeros(1, 1, 1), kept["affine"], header=bytes(kept["header"].numpy())) if "affine" in kept else None
        raw = Raw(kept["values"].float().numpy(), {8: 8, 16: 16}.get(int(kept["depth"]), 0), volume)  # type: ignore[arg-type]
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{name}: {path} holds no picture that a run kept; give the picture itself") from None
    if raw.values.ndim not in (3, 4) or not np.isfinite(raw.values).all():
        raise InputError(f"{name}: {path} holds values that are no picture's; give the picture itself")
    return Scan(raw, bool(kept.get("rows_first", torch.tensor(False))))


def _write_scan(scan: Scan, path: Path, metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    tensors = {"values": torch.from_numpy(scan.raw.values).contiguous(), "depth": torch.tensor(scan.raw.depth),
               "rows_first": torch.tensor(scan.rows_first)}  # fmt: skip
    if scan.raw.volume is not None:
        header = np.frombuffer(scan.raw.volume.header, dtype=np.uint8).copy()
        tensors |= {"affine": scan.raw.volume.affine.contiguous(), "header": torch.from_numpy(header)}
    with atomic_path(path, overwrite=True) as temporary:
        save_file(tensors, temporary)


def _digest(values: np.ndarray, *more: object) -> str:
    total = hashlib.sha256(json.dumps([str(values.dtype), list(values.shape), *map(str, more)]).encode())
    total.update(np.ascontiguousarray(values).tobytes())
    return total.hexdigest()


@dataclass(frozen=True, eq=False)
class LabelPicture:
    """A mask of a picture: each pixel has its class's value in the masks that were trained on."""

    labels: Int[Tensor, "height width"]
    class_values: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """The same of a slice or volume, on its grid."""

    labels: Int[Tensor, "x y z"]
    class_values: tuple[int, ...]
    affine: Float[Tensor, "4 4"]
    header: bytes = b""


def _numbers(mask: LabelPicture | LabelVolume) -> np.ndarray:
    """In the smallest type that image viewers know."""
    values: np.ndarray = mask.labels.detach().cpu().numpy()
    most = max(mask.class_values)
    return values.astype(np.uint8 if most < 256 else np.uint16 if isinstance(mask, LabelPicture) else np.int32)


def _write_picture(mask: LabelPicture, path: Path, metadata: Mapping[str, str]) -> None:
    save_picture(Pillow.fromarray(_numbers(mask)), path, metadata, overwrite=True)


def _write_volume(mask: LabelVolume, path: Path, metadata: Mapping[str, str]) -> None:
    save_volume(_numbers(mask), mask.affine.cpu().numpy(), "", mask.header, path, metadata, overwrite=True)


def _read_picture(path: Path, *, name: str = "mask", events: Events = SILENT) -> LabelPicture:
    from calotype.data.raw import read_labels

    values = read_labels(path, name=name)
    if values.ndim != 2:
        raise InputError(f"{name}: {path} is no picture; give a PNG")
    return LabelPicture(torch.from_numpy(values), tuple(int(value) for value in np.unique(values)))


def _read_volume(path: Path, *, name: str = "mask", events: Events = SILENT) -> LabelVolume:
    from calotype.data.volumes import read_volume

    volume = read_volume(path, name=name, flat=True, events=events)
    labels = volume.values.round().long()
    return LabelVolume(labels, tuple(int(value) for value in torch.unique(labels)), volume.affine, volume.header)


def coloured(mask: LabelPicture) -> Image:
    """Every class in a colour of its own, the background black, so that values next to each other can be told apart."""
    import colorsys

    count = max(1, len(mask.class_values) - 1)
    colours = [
        (0.0, 0.0, 0.0),
        *(colorsys.hsv_to_rgb(place / count, 0.75, 1.0) if count > 1 else (1.0, 1.0, 1.0) for place in range(count)),
    ]
    shown = torch.zeros(3, *mask.labels.shape)
    for value, colour in zip(mask.class_values, colours, strict=False):
        shown[:, mask.labels == value] = torch.tensor(colour)[:, None]
    return Image(shown)


def _planes(mask: LabelVolume) -> Image:
    return Image.from_pil(Volume(mask.labels.float(), mask.affine, header=mask.header).to_pil())


SCAN = ArtifactKind(
    name="scan", type=Scan, phrase="a picture, slice or volume", suffix=".safetensors", read=_read_scan, write=_write_scan,
    digest=lambda scan: _digest(scan.raw.values, scan.raw.depth), metadata=contents(lambda scan: scan.words),
)  # fmt: skip
LABEL_PICTURE = ArtifactKind(
    name="label-picture", type=LabelPicture, phrase="a mask of classes", suffix=".png", read=_read_picture, write=_write_picture,
    digest=lambda mask: _digest(_numbers(mask)), metadata=contents(lambda mask: f"values {', '.join(map(str, mask.class_values))}"),
    glance="colours", show=coloured, pictures=lambda mask: (coloured(mask),),
)  # fmt: skip
LABEL_VOLUME = ArtifactKind(
    name="label-volume", type=LabelVolume, phrase="a mask of classes on a grid", suffix=".nii.gz", read=_read_volume, write=_write_volume,
    digest=lambda mask: _digest(_numbers(mask), mask.affine.tolist()),
    metadata=contents(lambda mask: f"values {', '.join(map(str, mask.class_values))}"),
    glance="planes", show=_planes, needs=partial(medical, "nibabel"),
)  # fmt: skip
