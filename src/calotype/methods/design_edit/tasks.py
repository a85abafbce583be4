"""From an edit to what the diffusion model is given: pictures and masks in pixels, before anything is encoded.

Objects are resized, mirrored and shifted here, in pixels, so that they land exactly where they were sent.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from calotype.data import resize_pixels
from calotype.errors import InputError
from calotype.imaging.types import Image
from calotype.methods.design_edit.plan import Edit, Layer
from calotype.methods.design_edit.regions import Regions, Window, centroid, dilate, feathered, hull

Pixels = Float[Tensor, "3 height width"]
Region = Bool[Tensor, "height width"]


@dataclass(frozen=True, eq=False)
class Task:
    """One edit of one picture, all of one size."""

    source: Pixels
    """What is inverted as the background: the picture, after a pan or a zoom the moved picture over the old one."""
    hole: Region
    """What is filled (not dilated)."""
    refine: Region
    """What must not be copied from."""
    composite: Pixels
    """The picture with all layers pasted; the source itself where there is none."""
    layers: Region
    """Where the composite shows a layer (not dilated)."""
    hidden: Region
    """Where a layer's hidden part comes to light and is drawn."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.hole.shape[0], self.hole.shape[1]

    @property
    def touched(self) -> Region:
        """Everything that may change (not dilated)."""
        return self.hole | self.layers | self.hidden

    def weights(self, dilation: int, feather: int) -> Float[Tensor, "height width"]:
        """Weights of the edited picture in the final blend; the feather lies inside the dilated mask."""
        return feathered(self.touched, dilate(self.touched, dilation), min(feather, dilation))

    def crop(self, window: Window) -> Task:
        """The part inside of a window."""
        rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
        return Task(**{field.name: getattr(self, field.name)[..., rows, columns] for field in dataclasses.fields(self)})

    def resize(self, size: tuple[int, int]) -> Task:
        """The same task at another size; masks keep every pixel of which a part belongs to them."""
        if size == self.size:
            return self
        made = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value.dtype == torch.bool:
                made[field.name] = _resized(value.float()[None], size)[0] > 0.25
            else:
                made[field.name] = resize_pixels(value, size)
        return Task(**made)


def make_task(pixels: Pixels, edit: Edit, regions: Regions) -> Task:
    """What an edit asks for, at the size of the picture.

    Args:
        pixels: the picture to edit.
        edit: what is to be done.
        regions: reads the edit's regions in that picture.

    Raises:
        InputError: a region that can't be used, or a hole that leaves nothing of the picture.
    """
    if edit.pan != (0.0, 0.0):
        source, hole = panned(pixels, edit.pan)
        return _camera_task(source, hole)
    if edit.zoom_out != 1.0:
        source, hole = zoomed_out(pixels, edit.zoom_out)
        return _camera_task(source, hole)
    none = torch.zeros(pixels.shape[1:], dtype=torch.bool)
    hole = regions.union(edit.remove, "remove").values.clone()
    refine = regions.union(edit.refine, "refine").values
    composite, covered, hidden = pixels.clone(), none.clone(), none.clone()
    for number, layer in enumerate((*edit.layers, *swapped(edit, regions))):
        own, mask, behind = _cut_out(layer, pixels, regions, number)
        if layer.image is None and layer.erase:
            hole |= mask
        shown, place = placed(own, mask, layer, (pixels.shape[1], pixels.shape[2]))
        if not bool(place.any()):
            raise InputError(f"layers[{number}]: nothing of it is left in the picture; give a smaller dx or dy, or a larger scale")
        composite = torch.where(place, shown, composite)
        if behind is not None:
            _, lit = placed(own, behind, layer, (pixels.shape[1], pixels.shape[2]), about=mask)
            hidden = (hidden & ~place) | (lit & ~place)
        else:
            hidden = hidden & ~place
        covered |= place
    if bool(hole.all()):
        raise InputError("remove: the whole picture would go, and nothing is left to fill it from; give a smaller mask")
    return Task(pixels, hole, refine, composite, covered & ~hidden, hidden)


def swapped(edit: Edit, regions: Regions) -> tuple[Layer, ...]:
    """The two layers of a swap: each object with its centre of mass where the other one's was, to the pixel."""
    if not edit.swap:
        return ()
    first, second = (regions.read(region, "swap") for region in edit.swap)
    height, width = first.size
    (x0, y0), (x1, y1) = centroid(first.values), centroid(second.values)
    dx, dy = round(x1 - x0) / width, round(y1 - y0) / height
    return Layer(mask=first, dx=dx, dy=dy), Layer(mask=second, dx=-dx, dy=-dy)


def _camera_task(source: Pixels, hole: Region) -> Task:
    none = torch.zeros_like(hole)
    return Task(source, hole, none, source, none, none)


def _cut_out(layer: Layer, pixels: Pixels, regions: Regions, number: int) -> tuple[Pixels, Region, Region | None]:
    """A layer's picture, its mask, and the part of the object that something hides, in that picture."""
    name = f"layers[{number}]"
    if layer.image is not None:
        if not isinstance(layer.image, Image):
            raise InputError(f"{name}: image wasn't read; give an Image")
        regions, pixels = dataclasses.replace(regions, image=layer.image, found={}), layer.image.pixels
    mask = regions.read(layer.mask, f"{name}: mask").values
    if layer.hidden_by is None:
        return pixels, mask, None
    behind = hull(mask) & regions.read(layer.hidden_by, f"{name}: hidden_by").values & ~mask
    return pixels, mask, behind


def placed(pixels: Pixels, mask: Region, layer: Layer, size: tuple[int, int], about: Region | None = None) -> tuple[Pixels, Region]:
    """The layer's picture and mask, mirrored and resized about the object's centre of mass and shifted by whole pixels.

    Args:
        pixels: the picture that the layer is cut out of.
        mask: the part of it that is placed.
        layer: says where to.
        size: of the picture that it is placed in.
        about: the mask whose centre stays where it is; `mask` by default.

    Returns:
        Picture and mask of that size; outside of the mask the picture means nothing.
    """
    height, width = size
    own_height, own_width = mask.shape
    x, y = centroid(mask if about is None else about)
    # Another picture is laid over this one centre on centre, without resizing.
    right, down = round(layer.dx * width) + (width - own_width) // 2, round(layer.dy * height) + (height - own_height) // 2
    if layer.scale == 1.0 and layer.flip == "none":
        return _shifted(pixels, right, down, size), _shifted(mask[None].float(), right, down, size)[0] > 0.5
    flip_x, flip_y = (-1.0 if "h" in layer.flip else 1.0), (-1.0 if "v" in layer.flip else 1.0)
    if layer.scale == 1.0:
        # A mirror image about the middle of a pixel or an edge between two: every pixel keeps its value.
        x, y = round(2 * x) / 2, round(2 * y) / 2
        turned, cut = pixels, mask[None].float()
        if flip_x < 0:
            turned, cut, right = turned.flip(2), cut.flip(2), right + round(2 * x) - own_width
        if flip_y < 0:
            turned, cut, down = turned.flip(1), cut.flip(1), down + round(2 * y) - own_height
        return _shifted(turned, right, down, size), _shifted(cut, right, down, size)[0] > 0.5
    shrink = layer.scale < 1
    work, cut = pixels, mask[None].float()
    if shrink:
        # Averaged before it is sampled, so that fine texture doesn't alias.
        small = max(1, round(own_height * layer.scale)), max(1, round(own_width * layer.scale))
        work, cut = _resized(pixels, small), _resized(cut, small)
    columns = (torch.arange(width, dtype=torch.float64) + 0.5 - right - x) * flip_x / layer.scale + x
    rows = (torch.arange(height, dtype=torch.float64) + 0.5 - down - y) * flip_y / layer.scale + y
    grid_y, grid_x = torch.meshgrid(rows / own_height * 2 - 1, columns / own_width * 2 - 1, indexing="ij")
    grid = torch.stack([grid_x, grid_y], dim=-1)[None].float()
    shown = functional.grid_sample(work[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0].clamp(0, 1)
    inside = functional.grid_sample(cut[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0] >= 0.5
    return shown, inside


def panned(pixels: Pixels, pan: tuple[float, float]) -> tuple[Pixels, Region]:
    """The picture after the camera went right and down by shares of the sides, over the old one; and the strip that came into view.

    Example:
        >>> import torch
        >>> moved, strip = panned(torch.arange(4.0).repeat(3, 1, 1), (0.25, 0.0))
        >>> moved[0, 0].tolist(), strip[0].tolist()
        ([1.0, 2.0, 3.0, 3.0], [False, False, False, True])
    """
    height, width = pixels.shape[1:]
    right, down = -round(pan[0] * width), -round(pan[1] * height)
    seen = _shifted(torch.ones(1, height, width), right, down, (height, width))[0] > 0.5
    return torch.where(seen, _shifted(pixels, right, down, (height, width)), pixels), ~seen


def zoomed_out(pixels: Pixels, factor: float) -> tuple[Pixels, Region]:
    """The picture shrunk about its middle, over the old one; and the border that came into view."""
    height, width = pixels.shape[1:]
    small_height, small_width = max(1, round(height / factor)), max(1, round(width / factor))
    top, left = (height - small_height) // 2, (width - small_width) // 2
    made, border = pixels.clone(), torch.ones(height, width, dtype=torch.bool)
    made[:, top : top + small_height, left : left + small_width] = _resized(pixels, (small_height, small_width))
    border[top : top + small_height, left : left + small_width] = False
    return made, border


def _resized(values: Float[Tensor, "channels height width"], size: tuple[int, int]) -> Float[Tensor, "channels new_height new_width"]:
    resized: Tensor = functional.interpolate(values[None], size=size, mode="area")[0]
    return resized


def _shifted(values: Float[Tensor, "channels height width"], right: int, down: int, size: tuple[int, int]) -> Tensor:
    """Moved by whole pixels onto an empty canvas; what leaves it is lost, what comes in is 0."""
    height, width = size
    own_height, own_width = values.shape[1:]
    canvas = values.new_zeros((values.shape[0], height, width))
    top, left, bottom, stop = max(down, 0), max(right, 0), min(down + own_height, height), min(right + own_width, width)
    if top < bottom and left < stop:
        canvas[:, top:bottom, left:stop] = values[:, top - down : bottom - down, left - right : stop - right]
    return canvas
