"""How something moves, as a user gives it: in words, drawn with a brush, or as a flow file of another program.

wind:left:0.6                   everywhere the same: left, right, up, down or degrees from the right; pixels of the picture a frame
arrows:10,40-30,42;50,60-20,61  arrows from X,Y to X,Y in pixels, spread over what moves; how long they are doesn't matter
strokes.png                     the same, drawn: green strokes whose ends towards which it flows are red, on an empty layer
flow.npy, flow.flo              a vector for each pixel, [2, h, w] or [h, w, 2]; pixels a frame of the file's own size
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from calotype.core.events import SILENT, Events
from calotype.core.motion_fields import resize_field, spread, uniform_field
from calotype.data import as_image
from calotype.data.files import mapped_array, plain_file
from calotype.errors import InputError, ShapeError
from calotype.imaging.files import atomic_path, user_path
from calotype.imaging.types import Image, Mask
from calotype.runs.artifact import ArtifactKind, contents

WIND, ARROWS = "wind:", "arrows:"
PREDICTED = "predicted"
MOST_SIDE = 8192
"""Longest side of a flow file, in pixels."""
SOLVED_SIDE = 256
"""Longest side of the grid that arrows are spread on, in pixels."""
SAME_SHAPE = 0.03
"""Largest relative difference of two aspect ratios that rounding to whole pixels explains."""
_FLO = 202021.25
"""What a .flo file begins with."""
_COLOURED, _CLUTTER, _EMPTY = 0.3, 0.25, 0.9
"""How much a stroke's colour stands out; the most of a picture that strokes cover; the least of the rest that has one colour."""
_ARROW = re.compile(r"(\d{1,5}),(\d{1,5})-(\d{1,5}),(\d{1,5})")
_TANGENT = 4
"""Steps along a stroke to either side from which its direction is read."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Where things flow: vectors at all pixels, or directions at some.

    Raises:
        ShapeError: not [2, h, w] float32 and [h, w] bool.
        InputError: values that are NaN or infinite.

    Example:
        >>> Motion(torch.zeros(2, 4, 6)).size
        (4, 6)
    """

    vectors: Float[Tensor, "2 height width"]
    """x to the right, y down; pixels a frame, of its own size. Where only some are known, unit vectors."""
    known: Bool[Tensor, "height width"] | None = None
    """Where the vectors are known, of a drawing; None of a field."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 3 or self.vectors.shape[0] != 2 or self.vectors.dtype != torch.float32:
            raise ShapeError(
                f"a motion was given as {self.vectors.dtype} {list(self.vectors.shape)}; it must be float32 [2, height, width]"
            )
        if self.known is not None and (self.known.shape != self.vectors.shape[1:] or self.known.dtype != torch.bool):
            raise ShapeError(f"a drawing's known pixels are {self.known.dtype} {list(self.known.shape)}; bool [height, width] is expected")
        if not bool(self.vectors.isfinite().all()):
            raise InputError("motion: some of its values are NaN or infinite; replace them first")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.vectors.shape[1], self.vectors.shape[2]

    def field(self, moving: Mask, size: tuple[int, int], *, drawn_speed: float, name: str = "motion") -> Float[Tensor, "2 height width"]:
        """The field at a size, 0 outside of what moves; a drawing is spread over it.

        Args:
            moving: what moves, of the picture's size.
            size: (height, width) of the field, which may have another shape than the picture.
            drawn_speed: of a drawing, in percent of the picture's longer side a frame.
            name: what messages call it.

        Raises:
            InputError: another shape than the picture's, or a drawing of which nothing lies in what moves.
        """
        (height, width), (h, w) = moving.size, self.size
        if abs((w / h) / (width / height) - 1) > SAME_SHAPE:
            raise InputError(f"{name}: it has {w}x{h} px and the picture {width}x{height}, another shape; make it for the whole picture")
        vectors = self.vectors
        if self.known is not None:
            scale = min(1.0, SOLVED_SIDE / max(moving.size))
            grid = max(1, round(height * scale)), max(1, round(width * scale))
            region, known = (_cover(each, grid) for each in (moving.values, self.known))
            if not bool((known & region).any()):
                raise InputError(f"{name}: no stroke lies where something moves; draw into the sky or the water, or give another mask")
            # Directions of several strokes' pixels in one cell of the grid are averaged.
            sums = functional.interpolate((self.vectors * self.known)[None], size=grid, mode="area")[0]
            unit = functional.normalize(sums, dim=0)
            vectors = spread(unit, known & (sums.abs().sum(0) > 0), region) * (drawn_speed / 100 * max(grid))
        return resize_field(vectors, size) * _share(moving.values, size)


def _share(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """1 where the mask covers a cell by half, else 0."""
    return (functional.interpolate(mask.float()[None, None], size=size, mode="area")[0] >= 0.5).float()


def _cover(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells that a mask touches."""
    return functional.interpolate(mask.float()[None, None], size=size, mode="area")[0, 0] > 0


def read_words(text: str, size: tuple[int, int]) -> Motion:
    """A motion in words.

    Args:
        text: `wind:DIRECTION:SPEED` or `arrows:X,Y-X,Y;...`.
        size: (height, width) of the picture.

    Raises:
        InputError: neither, or an arrow that leaves the picture.

    Example:
        >>> read_words("wind:left:0.5", (4, 4)).vectors[:, 0, 0].tolist()
        [-0.5, 0.0]
        >>> drawn = read_words("arrows:1,1-3,1", (4, 6))
        >>> int(drawn.known.sum()), drawn.vectors[:, 1, 2].tolist()
        (3, [1.0, 0.0])
    """
    if text.startswith(WIND):
        direction, colon, speed = text.removeprefix(WIND).partition(":")
        try:
            return Motion(uniform_field(direction, float(speed), size))
        except ValueError:
            given = f"{speed!r} is no speed" if colon else "it has no speed"
            raise InputError(f"motion {text!r} can't be read: {given}; write for instance wind:left:0.6, pixels a frame") from None
        except InputError as error:
            raise InputError(f"motion {text!r} can't be read: {error}") from None
    vectors, known = torch.zeros(2, *size), torch.zeros(size, dtype=torch.bool)
    for part in text.removeprefix(ARROWS).split(";"):
        found = _ARROW.fullmatch(part.strip())
        if found is None:
            raise InputError(f"motion {text!r} can't be read: {part!r} is no arrow; write X,Y-X,Y in pixels, such as 10,40-30,42")
        start, end = np.array([int(found[1]), int(found[2])]), np.array([int(found[3]), int(found[4])])
        for x, y in (start, end):
            if x >= size[1] or y >= size[0]:
                raise InputError(f"motion {text!r} names the pixel {x},{y}; the picture has {size[1]}x{size[0]} px (x,y from the top left)")
        steps = int(np.abs(end - start).max())
        if steps == 0:
            raise InputError(f"motion {text!r} can't be read: the arrow {part!r} ends where it begins")
        columns, rows = np.rint(np.linspace(start, end, steps + 1)).astype(int).T
        along = torch.tensor((end - start) / np.linalg.norm(end - start), dtype=torch.float32)
        vectors[:, rows, columns] = along[:, None]
        known[rows, columns] = True
    return Motion(vectors, known)


def is_words(text: str) -> bool:
    """Whether a motion is given in words, and not as a file."""
    return text.startswith((WIND, ARROWS)) or text in ("", PREDICTED)


def read_motion(path: str | Path, *, name: str = "motion", events: Events = SILENT) -> Motion:
    """A flow file, or a picture of strokes.

    Args:
        path: .npy ([2, h, w] or [h, w, 2] numbers), .flo, or a picture.
        name: what messages call it.
        events: hears notes.

    Raises:
        InputError: no such file, damaged, of another shape, with NaN, or no strokes.
    """
    source = plain_file(user_path(path), name)
    with source.open("rb") as file:
        head = file.read(6)
    if head == b"\x93NUMPY":
        return _of_array(_npy(source, name), source, name, events)
    if source.suffix.lower() == ".flo" or head[:4] == np.float32(_FLO).tobytes():
        return _of_array(_flo(source, name), source, name, events)
    return read_strokes(as_image(source, name=name, events=events), name=f"{name}: {source}")


def _npy(path: Path, name: str) -> np.ndarray:
    array = mapped_array(path, name)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: {path} holds {array.dtype}; a flow is numbers, [2, height, width]")
    return array


def _flo(path: Path, name: str) -> np.ndarray:
    size = path.stat().st_size
    head = np.fromfile(path, dtype="<i4", count=3)
    if len(head) < 3 or head[:1].view("<f4")[0] != np.float32(_FLO):
        raise InputError(f"{name}: {path} is no .flo file (Middlebury's); save it again")
    width, height = int(head[1]), int(head[2])
    if width < 1 or height < 1 or size != 12 + 8 * width * height:
        raise InputError(f"{name}: {path} says {width}x{height} px and has {size} bytes, which don't fit; save it again")
    return np.memmap(path, dtype="<f4", mode="r", offset=12, shape=(height, width, 2))


def _of_array(array: np.ndarray, path: Path, name: str, events: Events) -> Motion:
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or 2 not in (array.shape[0], array.shape[2]):
        raise InputError(f"{name}: {path} has the shape {list(array.shape)}; a flow is [2, height, width] or [height, width, 2]")
    last = array.shape[0] != 2
    if array.shape[0] == 2 and array.shape[2] == 2:
        raise InputError(f"{name}: {path} has the shape {list(array.shape)}, which can be read two ways; give a flow of more than 2 px")
    if max(array.shape) > MOST_SIDE:
        raise InputError(f"{name}: {path} has the shape {list(array.shape)}; sides of at most {MOST_SIDE} px are read")
    values = np.asarray(np.moveaxis(array, 2, 0) if last else array, dtype=np.float32)
    bad = int((~np.isfinite(values)).any(0).sum())
    if bad:
        raise InputError(f"{name}: {path} has {bad} pixels whose vectors are NaN or infinite; replace them first, by 0 for instance")
    speed = float(np.hypot(*values).max())
    if speed > max(values.shape[1:]):
        raise InputError(f"{name}: {path} moves a pixel by {speed:.3g} px a frame, farther than the picture is wide; give pixels a frame")
    return Motion(torch.from_numpy(np.array(values, order="C")))


def read_strokes(picture: Image, *, name: str = "motion") -> Motion:
    """Directions along drawn strokes: each is green, with a red end, to which it flows.

    Args:
        picture: strokes on an empty layer (transparent, black or white).
        name: what messages call it.

    Raises:
        InputError: a photograph, no strokes, or one without a red end.

    Example:
        >>> pixels = torch.ones(3, 16, 24)
        >>> pixels[:, 6:9, 4:20] = torch.tensor([0.0, 1, 0]).view(3, 1, 1)
        >>> pixels[:, 6:9, 18:20] = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
        >>> drawn = read_strokes(Image(pixels))
        >>> drawn.vectors[:, 7, 10].tolist()
        [1.0, 0.0]
    """
    red, green, blue = picture.pixels
    tips, shafts = red - torch.maximum(green, blue) > _COLOURED, green - torch.maximum(red, blue) > _COLOURED
    drawn = tips | shafts
    rest = picture.pixels[:, ~drawn]
    alike = (rest - rest.median(1, keepdim=True).values).abs().amax(0) < 0.1 if rest.shape[1] else torch.zeros(1)
    if float(drawn.float().mean()) > _CLUTTER or float(alike.float().mean()) < _EMPTY:
        raise InputError(f"{name} is no drawing on an empty layer: draw green strokes with red ends on nothing but black, white or"
                         " transparency, of the picture's size")  # fmt: skip
    scale = min(1.0, 2 * SOLVED_SIDE / max(picture.size))
    grid = max(1, round(picture.size[0] * scale)), max(1, round(picture.size[1] * scale))
    ends, strokes = (_cover(each, grid).numpy() for each in (tips, drawn))
    parts, count = ndimage.label(strokes, structure=np.ones((3, 3)))
    if not count:
        raise InputError(f"{name} holds no strokes; draw green strokes with red ends, towards which it flows")
    vectors = np.zeros((2, *grid), dtype=np.float32)
    for number in range(1, count + 1):
        places = np.argwhere(parts == number)
        row, column = (round(float(middle) / scale) for middle in places.mean(0))
        if not ends[tuple(places.T)].any():
            raise InputError(f"{name}: the stroke about {column},{row} has no red end; mark the end towards which it flows")
        steps = _steps_from(ends, parts == number)[tuple(places.T)]
        longest = int(steps.max())
        if longest < 2:
            raise InputError(f"{name}: the stroke about {column},{row} is all end; draw it longer, in green")
        middles = np.stack([places[steps == step].mean(0) for step in range(longest + 1)])
        order = np.arange(longest + 1)
        along = middles[np.maximum(order - _TANGENT, 0)] - middles[np.minimum(order + _TANGENT, longest)]
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        vectors[:, places[:, 0], places[:, 1]] = along[steps][:, ::-1].T
    return Motion(torch.from_numpy(vectors), torch.from_numpy(strokes))


def _steps_from(ends: np.ndarray, stroke: np.ndarray) -> np.ndarray:
    """How many steps each pixel of a stroke lies from its end, along the stroke."""
    steps = np.where(stroke & ends, 0, -1)
    waiting = deque(map(tuple, np.argwhere(stroke & ends)))
    while waiting:
        row, column = waiting.popleft()
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            place = row + down, column + right
            inside = 0 <= place[0] < stroke.shape[0] and 0 <= place[1] < stroke.shape[1]
            if inside and stroke[place] and steps[place] < 0:
                steps[place] = steps[row, column] + 1
                waiting.append(place)
    return steps


def _write(value: Motion, path: Path, metadata: Mapping[str, str]) -> None:
    if value.known is not None:
        raise InputError("a drawn motion is kept as its picture; write the field that was made from it")
    with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.save(file, value.vectors.cpu().numpy(), allow_pickle=False)


def _digest(value: Motion) -> str:
    return hashlib.sha256(value.vectors.cpu().contiguous().numpy().tobytes()).hexdigest()


def _told(value: Motion) -> str:
    return f"{value.size[1]}x{value.size[0]} px, at most {float(value.vectors.square().sum(0).sqrt().max()):.3g} px a frame"


MOTION = ArtifactKind(
    name="motion", type=Motion, phrase="a motion field", suffix=".npy", read=read_motion, write=_write, digest=_digest,
    metadata=contents(_told),
)  # fmt: skip
