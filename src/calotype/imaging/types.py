"""What goes into a method and comes out of it: pictures, masks, clips and volumes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from calotype.errors import InputError, ShapeError
from calotype.imaging import grids, media, nifti

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, eq=False)
class Image:
    """An sRGB picture.

    Raises:
        ShapeError: the tensor is not [3, H, W] float32.

    Example:
        >>> import torch
        >>> Image(torch.zeros(3, 4, 6)).size
        (4, 6)
    """

    pixels: Float[Tensor, "3 height width"]
    """Values in [0, 1]; what lies outside is clipped when the picture is written."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[0] != 3 or self.pixels.dtype != torch.float32:
            raise ShapeError(f"a picture was given as {described(self.pixels)}; it must be float32 [3, height, width] in [0, 1]")

    @staticmethod
    def from_pil(picture: PIL.Image.Image) -> Image:
        """Any PIL picture, converted to RGB; transparent parts are laid over white."""
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            from PIL import Image as PILImage

            layer = picture.convert("RGBA")
            picture = PILImage.alpha_composite(PILImage.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
        return Image.from_numpy(np.asarray(picture.convert("RGB")))

    @staticmethod
    def from_numpy(array: UInt8[np.ndarray, "height width 3"]) -> Image:
        """uint8 [H, W, 3], 0 .. 255."""
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ShapeError(f"a picture was given as {array.dtype} {list(array.shape)}; it must be uint8 [height, width, 3]")
        return Image(torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def to_numpy(self) -> UInt8[np.ndarray, "height width 3"]:
        """uint8 [H, W, 3], 0 .. 255."""
        picture: UInt8[np.ndarray, "height width 3"] = _bytes(self.pixels.unsqueeze(0))[0]
        return picture

    def to_pil(self) -> PIL.Image.Image:
        """An RGB picture."""
        from PIL import Image as PILImage

        return PILImage.fromarray(self.to_numpy())

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None, overwrite: bool = False) -> None:
        """Write PNG, JPEG or WebP, by the suffix; `calotype.imaging.media.read_metadata` reads `metadata` back.

        Raises:
            InputError: another suffix, or the file exists and `overwrite` is false.
        """
        media.save_picture(self.to_pil(), path, metadata or {}, overwrite)


@dataclass(frozen=True, eq=False)
class Mask:
    """A region of a picture.

    Raises:
        ShapeError: the tensor is not [H, W] bool.
    """

    values: Bool[Tensor, "height width"]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != torch.bool:
            raise ShapeError(f"a mask was given as {described(self.values)}; it must be bool [height, width]")

    @staticmethod
    def from_pil(picture: PIL.Image.Image) -> Mask:
        """A grey picture; what is at least half bright belongs to the mask."""
        return Mask(torch.from_numpy(np.asarray(picture.convert("L")) >= 128))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.values.shape[0], self.values.shape[1]

    def to_numpy(self) -> UInt8[np.ndarray, "height width"]:
        """uint8 [H, W], 0 or 255."""
        return self.values.cpu().numpy().astype(np.uint8) * np.uint8(255)

    def to_pil(self) -> PIL.Image.Image:
        """A grey picture, black and white."""
        from PIL import Image as PILImage

        return PILImage.fromarray(self.to_numpy())

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None, overwrite: bool = False) -> None:
        """Write a grey PNG or WebP.

        Raises:
            InputError: another suffix (JPEG would blur the edge), or the file exists and `overwrite` is false.
        """
        media.save_picture(self.to_pil(), path, metadata or {}, overwrite, lossless_only=True)


@dataclass(frozen=True, eq=False)
class Video:
    """A clip of sRGB frames.

    Raises:
        ShapeError: the tensor is not [F, 3, H, W] float32 with F >= 1.
        InputError: `fps` is not positive.
    """

    frames: Float[Tensor, "frames 3 height width"]
    """Values in [0, 1]; what lies outside is clipped when the clip is written."""
    fps: float
    """Frames per second."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or self.frames.dtype != torch.float32 or not len(self.frames):
            raise ShapeError(f"a clip was given as {described(self.frames)}; it must be float32 [frames, 3, height, width] in [0, 1]")
        if not 0 < self.fps < float("inf"):
            raise InputError(f"fps is {self.fps}; it must be positive")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames.shape[2], self.frames.shape[3]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frame: int) -> Image:
        return Image(self.frames[frame])

    def to_numpy(self) -> UInt8[np.ndarray, "frames height width 3"]:
        """uint8 [F, H, W, 3], 0 .. 255."""
        return _bytes(self.frames)

    def to_pil(self) -> list[PIL.Image.Image]:
        """One RGB picture per frame."""
        from PIL import Image as PILImage

        return [PILImage.fromarray(frame) for frame in self.to_numpy()]

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None, overwrite: bool = False) -> None:
        """Write MP4 (H.264), GIF or animated WebP, by the suffix; `calotype.imaging.media.read_metadata` reads `metadata` back.

        Raises:
            InputError: another suffix, or the file exists and `overwrite` is false.
        """
        media.save_clip(self.to_numpy(), self.fps, path, metadata or {}, overwrite)


@dataclass(frozen=True, eq=False)
class Volume:
    """A medical volume: one value per voxel, and where the voxels lie.

    Raises:
        ShapeError: the values are not [X, Y, Z] float32, or the affine is not [4, 4] float64.
        InputError: the affine is not finite, or its axes don't span the space.

    Example:
        >>> import torch
        >>> volume = Volume(torch.zeros(4, 6, 5), torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64)), "ppm")
        >>> volume.size, volume.spacing
        ((4, 6, 5), (2.0, 2.0, 3.0))
    """

    values: Float[Tensor, "x y z"]
    """In the order of the file's axes, whatever their directions are."""
    affine: Float64[Tensor, "4 4"]
    """Voxel index to world millimetres, x to the patient's right, y to the front, z up (RAS+, as in NIfTI)."""
    unit: str = ""
    """Of the values, such as "ppm"; "" if it is unknown."""
    header: bytes = field(default=b"", repr=False)
    """The NIfTI header that the affine came from, if any: `save` repeats how it places the voxels, bit for bit."""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype != torch.float32 or not self.values.numel():
            raise ShapeError(f"a volume was given as {described(self.values)}; it must be float32 [x, y, z]")
        if self.affine.dtype != torch.float64:
            raise ShapeError(f"a volume's affine was given as {described(self.affine)}; it must be float64 [4, 4]")
        grids.check_affine(self.affine.detach().cpu().numpy())

    @staticmethod
    def from_numpy(array: np.ndarray, affine: ArrayLike, unit: str = "") -> Volume:
        """Any real array [X, Y, Z] and any 4x4 affine."""
        return Volume(torch.from_numpy(np.array(array, dtype=np.float32)), torch.tensor(np.array(affine, dtype=np.float64)), unit)

    def with_values(self, values: Float[Tensor, "x y z"], unit: str | None = None) -> Volume:
        """Other values on the same grid, which every viewer lays over this volume.

        Raises:
            ShapeError: another number of voxels.
        """
        if values.shape != self.values.shape:
            raise ShapeError(
                f"values of shape {list(values.shape)} were given for a volume of {list(self.values.shape)}; they share one grid"
            )
        return replace(self, values=values, unit=self.unit if unit is None else unit)

    @property
    def size(self) -> tuple[int, int, int]:
        """(X, Y, Z) in voxels."""
        x, y, z = self.values.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis, in mm."""
        return grids.spacing(self.affine.cpu().numpy())

    @property
    def placed(self) -> bool:
        """Whether anything says where the voxels lie: false for a bare array, which gets the identity as its affine, and for a header with
        voxel sizes alone."""
        if self.header:
            return bool(nifti.placements(self.header))
        return not torch.equal(self.affine.cpu(), torch.eye(4, dtype=torch.float64))

    def to_numpy(self) -> Float32[np.ndarray, "x y z"]:
        """float32 [X, Y, Z]."""
        array: Float32[np.ndarray, "x y z"] = self.values.detach().cpu().numpy()
        return array

    def to_pil(self) -> PIL.Image.Image:
        """Axial, coronal and sagittal plane through the middle of what isn't zero, as a grey picture; the patient's left is left."""
        from calotype.imaging.planes import three_planes

        return three_planes(self.to_numpy(), self.affine.cpu().numpy(), self.unit)

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None, overwrite: bool = False) -> None:
        """Write NIfTI, .nii or .nii.gz; `calotype.imaging.media.read_metadata` reads `metadata` back.

        The axes keep their order. Without the `header` of a file, sform and qform are made from the affine (float32, as NIfTI-1 has it).

        Raises:
            InputError: another suffix, or the file exists and `overwrite` is false.
            MissingError: nibabel is not installed.
        """
        nifti.save_volume(self.to_numpy(), self.affine.cpu().numpy(), self.unit, self.header, path, metadata or {}, overwrite)


def _bytes(pixels: Tensor) -> UInt8[np.ndarray, "n height width 3"]:
    # Frame by frame: the steps in between of a whole clip would need several times its memory.
    clipped = torch.stack([frame.detach().clamp(0, 1).mul(255).round().to(torch.uint8) for frame in pixels])
    array: UInt8[np.ndarray, "n height width 3"] = clipped.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def described(tensor: Tensor) -> str:
    """Type and shape of a tensor, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
