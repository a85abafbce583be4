"""What the call is given, turned into edits: single arguments or a plan, with masks, pictures and words in their places."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from calotype.core.events import SILENT, Events
from calotype.core.roles import TextToImage
from calotype.data import as_image, as_mask
from calotype.data.images import ImageLike
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask
from calotype.index import SOURCES
from calotype.methods.design_edit.plan import PICTURES, Edit, Layer, Plan, is_json, single_edits
from calotype.methods.design_edit.regions import RegionLike, Regions, WordMask, mask_file, split_region
from calotype.methods.design_edit.tasks import make_task

_SINGLE = ("remove", "refine", "move", "dx", "dy", "scale", "flip", "swap", "pan", "zoom_out")


def chosen_edits(plan: str, single: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits of a plan (a file or JSON text), or those that single arguments ask for.

    Raises:
        InputError: both were given, or neither.
    """
    if not plan:
        if not single:
            raise InputError("nothing is to be done; give remove, move, swap, pan, zoom_out or a plan")
        return tuple(single)
    if single:
        raise InputError("give a plan or single edits, not both")
    return Plan.read(plan).edits


def recorded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run as its folder keeps them: all edits as one plan, and the files that they name as inputs.

    Raises:
        InputError: a plan, a region or a file that can't be used. All but words is looked at.
    """
    given = dict(arguments)
    single = {name: given.pop(name) for name in _SINGLE if name in given}
    whole = Plan(edits=chosen_edits(given.pop("plan", ""), single_edits(**single)))
    masks, pictures = list(given.pop("masks", ()) or ()), list(given.pop("pictures", ()) or ())
    whole = whole.map_files(lambda path: _named("masks", path, masks), lambda path: _named("pictures", path, pictures))
    if "image" in given:
        read = [
            mask_file(each, f"masks {Path(each).name}") if isinstance(each, str | Path) else as_mask(each, name="masks") for each in masks
        ]
        shown = [as_image(each, name="pictures") for each in pictures]
        check(with_pictures(whole.edits, shown, SILENT), Regions(as_image(given["image"], name="image"), read))
    return {**given, "plan": whole.to_json(), **({"masks": masks} if masks else {}), **({"pictures": pictures} if pictures else {})}


def named_files(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The files that the arguments name without being inputs, each with the argument; nothing is opened.

    Raises:
        InputError: a plan of JSON text that is none.

    Example:
        >>> named_files({"plan": '{"remove": ["file:/a/mask.png", "word:lamp"]}', "move": "box:0,0,9,9"})
        [('plan', '/a/mask.png')]
    """
    found: list[tuple[str, str]] = []
    plan = str(arguments.get("plan") or "")
    if plan and not is_json(plan):
        found.append(("plan", plan))
    elif plan:

        def of(path: Path) -> str:
            found.append(("plan", str(path)))
            return "word:named"

        Plan.read(plan).map_files(of, of)
    for name in ("remove", "refine", "move", "swap"):
        value = arguments.get(name) or ()
        for region in value if isinstance(value, list | tuple) else (value,):
            kind, rest = split_region(region) if isinstance(region, str | Path) else ("", "")
            found += [(name, rest)] if kind == "file" else []
    return found


def _named(kind: str, path: Path, files: list[Any]) -> str:
    """What a plan calls a file among the run's inputs; a new file joins them."""
    known = [Path(each) if isinstance(each, str | Path) else None for each in files]
    if path not in known:
        files.append(path)
        known.append(path)
    return f"{kind}:{known.index(path)}"


def with_pictures(edits: Sequence[Edit], pictures: Sequence[Image], events: Events) -> list[Edit]:
    """The edits with every layer's picture read.

    Raises:
        InputError: a file that is refused, or a number that no given picture has.
    """

    def shown(value: ImageLike) -> Image:
        if isinstance(value, str) and value.startswith(PICTURES):
            number = value.removeprefix(PICTURES)
            if not number.isdigit() or int(number) >= len(pictures):
                raise InputError(f"image: {value!r} names none of the {len(pictures)} pictures that were given; the first is pictures:0")
            return pictures[int(number)]
        return as_image(value, name="image of a layer", events=events)

    def read(layer: Layer) -> Layer:
        return layer if layer.image is None else dataclasses.replace(layer, image=shown(layer.image))

    return [dataclasses.replace(edit, layers=tuple(read(layer) for layer in edit.layers)) for edit in edits]


def check(edits: Sequence[Edit], regions: Regions) -> None:
    """Read every region but words, and try the first edit if no word is among them.

    Raises:
        InputError: a region or an edit that can't be used.
    """
    for number, edit in enumerate(edits):
        named: list[tuple[str, RegionLike, Regions]] = [
            (name, region, regions) for name in ("remove", "refine", "swap") for region in getattr(edit, name)
        ]
        for layer in edit.layers:
            own = regions if not isinstance(layer.image, Image) else dataclasses.replace(regions, image=layer.image)
            named += [("layers: mask", layer.mask, own)] + ([] if layer.hidden_by is None else [("hidden_by", layer.hidden_by, own)])
        words = False
        for name, region, own in named:
            if isinstance(region, str) and split_region(region)[0] == "word":
                words = True
            else:
                own.read(region, name)
        if number == 0 and not words:
            make_task(regions.image.pixels, edit, regions)


def word_finder(model: TextToImage) -> WordMask:
    """What finds a word's region in a picture, with the method that the index names for it."""

    def find(image: Image, word: str) -> Mask:
        module, _, name = SOURCES["word"].partition(":")
        found: Mask = getattr(import_module(module), name)(model, image, word)
        return found

    return find
