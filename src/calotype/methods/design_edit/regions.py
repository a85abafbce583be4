"""Where an edit acts: regions given as a mask, a file, a box, a polygon or a word, and the geometry of masks.

Pixel coordinates: x to the right, y down, (0, 0) is the upper left corner of the picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage
from torch import Tensor

from calotype.data import as_mask, check_image
from calotype.data.masks import mask_reading
from calotype.errors import InputError
from calotype.imaging.files import user_path
from calotype.imaging.types import Image, Mask

RegionLike: TypeAlias = str | os.PathLike[str] | Mask | Tensor | np.ndarray
"""What stands for a region: a `Mask`, a boolean array or tensor [H, W], or text (see `Regions`)."""
WordMask: TypeAlias = Callable[[Image, str], Mask]
"""Picture and word -> where the picture shows it."""
SHAPES = ("box", "polygon", "word", "file", "masks")


@dataclass(frozen=True)
class Regions:
    """Reads regions of one picture.

    As text a region is `box:left,top,right,bottom` or `polygon:x,y x,y x,y` in pixels, `file:mask.png`, `word:house`, `masks:0` (one of the
    masks that were given beside), or short: a path, or a word (see `split_region`).

    Example:
        >>> import torch
        >>> picture = Image(torch.zeros(3, 20, 30))
        >>> int(Regions(picture).read("box:5,5,15,10", "remove").values.sum())
        50
    """

    image: Image
    masks: Sequence[Mask] = ()
    """What `masks:N` means."""
    word_mask: WordMask | None = None
    """Finds words; None where there is no model yet: words then give a region that is the whole picture."""
    found: dict[str, Mask] = field(default_factory=dict, compare=False)
    """The words that were looked for, so that each is looked for once."""

    def read(self, region: RegionLike, name: str) -> Mask:
        """One region as a mask of the picture's size.

        Args:
            region: see the class.
            name: what messages call it.

        Raises:
            InputError: another size than the picture's, nothing in it, a point outside of the picture, or text that says nothing.
        """
        if isinstance(region, Mask | Tensor | np.ndarray):
            return self._checked(as_mask(region, name=name), name)
        kind, rest = split_region(region)
        if kind == "word":
            return self._checked(self._word(rest, name), f"{name}: the word {rest!r}")
        if kind == "masks":
            if not rest.isdigit() or int(rest) >= len(self.masks):
                raise InputError(f"{name}: {region!r} names none of the {len(self.masks)} masks that were given; the first one is masks:0")
            return self._checked(self.masks[int(rest)], name)
        if kind == "file":
            return self._checked(mask_file(rest, name), f"{name}: {rest}")
        return self._drawn(kind, rest, name)

    def union(self, regions: Sequence[RegionLike], name: str) -> Mask:
        """Several regions as one mask; nothing where there is none."""
        together = torch.zeros(self.image.size, dtype=torch.bool)
        for region in regions:
            together |= self.read(region, name).values
        return Mask(together)

    def _word(self, word: str, name: str) -> Mask:
        if self.word_mask is None:
            return Mask(torch.ones(self.image.size, dtype=torch.bool))
        if word not in self.found:
            self.found[word] = self.word_mask(self.image, word)
        return self.found[word]

    def _checked(self, mask: Mask, name: str) -> Mask:
        if mask.size != self.image.size:
            (height, width), (wanted_height, wanted_width) = mask.size, self.image.size
            raise InputError(
                f"{name}: the mask is {width}x{height} px and the picture {wanted_width}x{wanted_height}; give a mask of the picture's size"
            )
        if not bool(mask.values.any()):
            raise InputError(f"{name}: the mask is empty; white (or true) is what belongs to the region")
        return mask

    def _drawn(self, kind: str, text: str, name: str) -> Mask:
        height, width = self.image.size
        points = _points(kind, text, name)
        for x, y in points:
            if not (0 <= x <= width and 0 <= y <= height):
                raise InputError(f"{name}: the point {x:g},{y:g} of the {kind} lies outside of the picture, which is {width}x{height} px")
        if kind == "box":
            (left, top), (right, bottom) = points
            if left >= right or top >= bottom:
                raise InputError(f"{name}: {kind}:{text} is no box; give left,top,right,bottom with left < right and top < bottom")
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return self._checked(Mask(polygon((height, width), points)), name)


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """From the top to the bottom."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """From the left to the right."""
        return self.right - self.left

    def paste(
        self, whole: Float[Tensor, "channels height width"], part: Float[Tensor, "channels h w"]
    ) -> Float[Tensor, "channels height width"]:
        """The picture with this part of it replaced.

        Example:
            >>> import torch
            >>> Window(0, 1, 1, 3).paste(torch.zeros(3, 2, 4), torch.ones(3, 1, 2))[0].tolist()
            [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
        """
        made = whole.clone()
        made[:, self.top : self.bottom, self.left : self.right] = part
        return made


def split_region(region: str | os.PathLike[str], folder: Path = Path()) -> tuple[str, str]:
    """The kind of a region that is given as text, and what it says.

    Without a kind before it, a text is a path if it looks like one (it has a folder or a suffix in it, or is a path object), otherwise a
    word. A folder of a word's name, or a file that is no picture, leaves it a word.

    Args:
        region: the text.
        folder: where a bare name is looked for.

    Raises:
        InputError: a bare name that can be read both ways, because a picture is called so.

    Example:
        >>> split_region("box:1,2,3,4"), split_region("house"), split_region("a/mask.png")
        (('box', '1,2,3,4'), ('word', 'house'), ('file', 'a/mask.png'))
    """
    text = os.fspath(region)
    kind, colon, rest = text.partition(":")
    if colon and kind in SHAPES:
        return kind, rest.strip()
    if mask_reading(text)[0]:
        return "file", text
    if not isinstance(region, str) or _looks_like_a_path(text):
        return "file", text
    if _is_picture(folder / text):
        raise InputError(
            f"{text!r} is a word and the name of a picture here; write ./{text} (or file:{text}) for the picture, word:{text} for the word"
        )
    return "word", text


def _looks_like_a_path(text: str) -> bool:
    # What stands behind a full stop is a suffix only if it is short and begins with a letter: "U.S. flag" and "no. 5" are words.
    return "/" in text or "\\" in text or text.startswith("~") or re.search(r"\.[A-Za-z]\w{1,7}$", text) is not None


def _is_picture(path: Path) -> bool:
    try:
        check_image(path)
    except (InputError, OSError, ValueError):
        return False
    return True


def mask_file(path: str | os.PathLike[str], name: str) -> Mask:
    """A mask from a file.

    Raises:
        InputError: no such file, or one that is no mask.
    """
    place = user_path(mask_reading(path)[1])
    if not os.path.lexists(place):
        raise InputError(f"{name}: {os.fspath(path)} does not exist; check the path, or write word:{place.name} if it is a word")
    return as_mask(path, name=name)


def _points(kind: str, text: str, name: str) -> list[tuple[float, float]]:
    try:
        numbers = [float(number) for number in text.replace(",", " ").replace(";", " ").split()]
    except ValueError:
        numbers = []
    if (kind == "box" and len(numbers) != 4) or len(numbers) < 4 or len(numbers) % 2 or (kind == "polygon" and len(numbers) < 6):
        wanted = "box:left,top,right,bottom" if kind == "box" else "polygon:x,y x,y x,y (three points or more)"
        raise InputError(f"{name}: {kind}:{text} can't be read; give {wanted} in pixels")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def polygon(size: tuple[int, int], points: Sequence[tuple[float, float]]) -> Bool[Tensor, "height width"]:
    """Pixels of which at least half lies in a polygon.

    Example:
        >>> int(polygon((8, 8), [(2, 2), (6, 2), (6, 6), (2, 6)]).sum())
        16
    """
    height, width = size
    fine = 4
    canvas = Pillow.new("L", (width * fine, height * fine))
    # Pillow's polygons include their border: the sub-pixel whose middle lies inside is the one that counts.
    ImageDraw.Draw(canvas).polygon([(x * fine - 0.5, y * fine - 0.5) for x, y in points], fill=255)
    share = torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255).view(height, fine, width, fine).mean(dim=(1, 3))
    return share >= 0.5


def dilate(mask: Bool[Tensor, "height width"], radius: int) -> Bool[Tensor, "height width"]:
    """The mask grown by a square of 2 radius + 1 pixels, as the official code does.

    Example:
        >>> import torch
        >>> one = torch.zeros(5, 5, dtype=torch.bool)
        >>> one[2, 2] = True
        >>> int(dilate(one, 1).sum())
        9
    """
    if radius < 1:
        return mask
    grown = torch.nn.functional.max_pool2d(mask[None, None].float(), 2 * radius + 1, 1, radius)
    return grown[0, 0] > 0.5


def feathered(core: Bool[Tensor, "height width"], dilated: Bool[Tensor, "height width"], width: int) -> Float[Tensor, "height width"]:
    """Weights of the edited picture: 1 on the core, 0 outside of the dilated mask, a linear ramp of `width` pixels inside of its edge.

    Where the picture ends there is no edge.

    Example:
        >>> import torch
        >>> core = torch.zeros(1, 7, dtype=torch.bool)
        >>> core[0, 3] = True
        >>> feathered(core, dilate(core, 2), 2)[0].tolist()
        [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    if not bool(dilated.any()):
        return torch.zeros(core.shape)
    padded = np.pad(dilated.numpy(), 1, mode="edge")
    if bool(padded.all()):
        return torch.ones(core.shape)
    # A pixel beside the edge is at distance 1.
    inside = torch.from_numpy(ndimage.distance_transform_edt(padded)[1:-1, 1:-1]).float()
    ramp = (inside / max(width, 1)).clamp(0, 1) if width > 0 else (inside > 0).float()
    return torch.where(core, torch.ones(()), ramp)


def hull(mask: Bool[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """The convex hull of a mask."""
    from scipy.spatial import ConvexHull, QhullError

    y, x = np.nonzero(mask.numpy())
    corners = np.concatenate([np.stack([x + dx, y + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
    try:
        ring = corners[ConvexHull(corners).vertices]
    except (QhullError, ValueError):
        return mask
    return polygon((mask.shape[0], mask.shape[1]), [(float(px), float(py)) for px, py in ring]) | mask


def centroid(mask: Bool[Tensor, "height width"]) -> tuple[float, float]:
    """(x, y) of the mask's centre of mass, in pixels; pixel (0, 0) has its middle at (0.5, 0.5)."""
    y, x = torch.nonzero(mask, as_tuple=True)
    return float(x.double().mean()) + 0.5, float(y.double().mean()) + 0.5
