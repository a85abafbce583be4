"""What is to be done to a picture: edits of layers, in Python or as a JSON plan.

    {"remove": ["mask.png", "word:lamp"], "refine": ["box:0,0,40,20"],
     "layers": [{"mask": "polygon:10,10 40,10 25,40", "dx": 0.2, "dy": 0, "scale": 0.8, "flip": "h"}]}

or `{"edits": [{...}, {...}]}` for several edits, one after the other. Files are looked for beside the plan.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from calotype.core.fields import between
from calotype.core.untrusted import parse_json, short
from calotype.data.files import plain_file
from calotype.data.images import ImageLike
from calotype.data.masks import mask_reading
from calotype.errors import InputError
from calotype.imaging.files import user_path
from calotype.methods.design_edit.regions import RegionLike, split_region
from calotype.registry import did_you_mean

Made = TypeVar("Made")
Flip = Literal["none", "h", "v", "hv"]
PICTURES = "pictures:"
"""What a layer's picture begins with if it is one of those that were given beside the plan, as in `pictures:0`."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One object, cut out and put somewhere. Later layers lie over earlier ones."""

    mask: RegionLike
    """Where the object is, in its own picture."""
    image: ImageLike | None = None
    """The picture that it is cut out of, if that is another one than the edited picture."""
    dx: float = 0.0
    """To the right, in widths of the picture."""
    dy: float = 0.0
    """Down, in heights of the picture."""
    scale: float = 1.0
    """About the object's centre of mass."""
    flip: Flip = "none"
    """Mirrored about its centre of mass: h left to right, v upside down, hv both."""
    erase: bool = True
    """Whether the place that it came from is filled; without it the object is repeated. Objects of other pictures leave no place."""
    hidden_by: RegionLike | None = None
    """What stands before the object in its picture: the part of the object that it hides is drawn anew at the new place."""

    def __post_init__(self) -> None:
        for name in ("dx", "dy"):
            value = getattr(self, name)
            if not math.isfinite(value) or abs(value) > 2:
                raise InputError(f"{name} is {value}; it is a share of the picture's side, such as 0.2")
        between(self, 0.05, 20, "scale")
        if self.flip not in ("none", "h", "v", "hv"):
            raise InputError(f"flip is {self.flip!r}; choose none, h, v or hv")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What happens to a picture at once. A pan and a zoom leave no room for anything else: give them an edit of their own."""

    remove: tuple[RegionLike, ...] = ()
    """What goes away and is filled with what surrounds it."""
    refine: tuple[RegionLike, ...] = ()
    """What must not be copied from while the holes are filled, such as a second object of the same kind nearby."""
    layers: tuple[Layer, ...] = ()
    """Objects that are put somewhere, from the hindmost to the foremost."""
    swap: tuple[RegionLike, ...] = ()
    """Two objects that change places (their centres of mass do)."""
    pan: tuple[float, float] = (0.0, 0.0)
    """How far the camera goes to the right and down, in sides of the picture; what comes into view is made."""
    zoom_out: float = 1.0
    """How much more is in view afterwards, 1 to 4; what comes into view is made."""

    def __post_init__(self) -> None:
        camera = self.pan != (0.0, 0.0), self.zoom_out != 1.0
        if not all(math.isfinite(value) and abs(value) < 1 for value in self.pan):
            raise InputError(f"pan is {self.pan}; each number must lie between -1 and 1, in sides of the picture")
        between(self, 1, 4, "zoom_out")
        if sum(camera) > 1 or (any(camera) and (self.remove or self.layers or self.swap)):
            raise InputError("an edit is a pan, a zoom, or removals and layers; give several edits one after the other for more")
        if len(self.swap) not in (0, 2):
            raise InputError(f"swap was given {len(self.swap)} region{'s' if len(self.swap) > 1 else ''}; give the two that change places")
        if not (any(camera) or self.remove or self.layers or self.swap):
            raise InputError("the edit does nothing; give remove, layers, swap, pan or zoom_out")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Edits one after the other; between them the picture stays in latents."""

    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        if not self.edits:
            raise InputError("the plan holds no edit; give at least one")

    @classmethod
    def read(cls, source: str | Path) -> Plan:
        """A plan from a file, or from JSON text (it begins with `{`).

        Raises:
            InputError: no such file, no JSON, a key that isn't known, or a value of another type; one line.

        Example:
            >>> Plan.read('{"remove": ["word:house"]}').edits[0].remove
            ('word:house',)
        """
        content: str | bytes
        content, folder, name = str(source), Path(), "plan"
        if not is_json(str(source)):
            path = plain_file(source, "plan")
            folder, name = path.parent, f"plan {path.name}"
            content = path.read_bytes()
        value = parse_json(content, name)
        values = _fields(value, name, {"edits": False, **_EDIT}) if isinstance(value, dict) and "edits" not in value else value
        if isinstance(values, dict) and "edits" in values:
            listed = _fields(values, name, {"edits": True})["edits"]
            if not isinstance(listed, list) or len(listed) > _MOST:
                raise InputError(f"{name}: edits holds {_short(listed)}; a list of at most {_MOST} edits is expected")
            return cls(edits=tuple(_edit(each, f"{name}: edits[{i}]", folder) for i, each in enumerate(listed)))
        return cls(edits=(_edit(values, name, folder),))

    def map_files(self, of_mask: Callable[[Path], str], of_picture: Callable[[Path], str]) -> Plan:
        """The plan with every file replaced by what stands for it, and every other region with its kind before it."""

        def region(value: RegionLike) -> RegionLike:
            if not isinstance(value, str | Path):
                return value
            kind, rest = split_region(value)
            return of_mask(Path(rest)) if kind == "file" else f"{kind}:{rest}"

        def layer(value: Layer) -> Layer:
            image = value.image
            if isinstance(image, str | Path) and not str(image).startswith(PICTURES):
                image = of_picture(Path(image))
            hidden = None if value.hidden_by is None else region(value.hidden_by)
            return replace(value, mask=region(value.mask), image=image, hidden_by=hidden)

        def edit(value: Edit) -> Edit:
            return replace(
                value,
                remove=tuple(region(each) for each in value.remove),
                refine=tuple(region(each) for each in value.refine),
                swap=tuple(region(each) for each in value.swap),
                layers=tuple(layer(each) for each in value.layers),
            )

        return Plan(edits=tuple(edit(each) for each in self.edits))

    def to_json(self) -> str:
        """The plan as JSON text, for a plan whose regions and pictures are text.

        Raises:
            InputError: a region or picture that is no text.

        Example:
            >>> Plan(edits=(Edit(pan=(0.2, 0.0)),)).to_json()
            '{"edits": [{"pan": [0.2, 0.0]}]}'
        """
        return json.dumps({"edits": [_plain(edit, Edit) for edit in self.edits]})


def is_json(plan: str) -> bool:
    """Whether a plan is given as JSON text and not as a file.

    Example:
        >>> is_json('{"remove": ["word:lamp"]}'), is_json("plan.json")
        (True, False)
    """
    return plan.lstrip().startswith("{")


_TEXT, _NUMBER, _PAIR = "text", "a number", "two numbers"
_LONGEST, _MOST = 1_000_000, 1000
"""Characters of a text and entries of a list, at most."""
_LARGE = 1e9
_EDIT: Mapping[str, bool] = dict.fromkeys(("remove", "refine", "layers", "swap", "pan", "zoom_out"), False)
_LAYER: Mapping[str, bool] = {"mask": True, **dict.fromkeys(("image", "dx", "dy", "scale", "flip", "erase", "hidden_by"), False)}


def _fields(value: Any, name: str, known: Mapping[str, bool]) -> dict[str, Any]:
    """A JSON object with no key but the known ones and with all that are needed."""
    if not isinstance(value, dict):
        raise InputError(f"{name} holds {_short(value)}; an object with the keys {', '.join(known)} is expected")
    for key in value:
        if key not in known:
            raise InputError(f"{name}: the key {short(key)!r} is unknown; {did_you_mean(key, known)}it takes {', '.join(known)}")
    missing = [key for key, needed in known.items() if needed and key not in value]
    if missing:
        raise InputError(f"{name}: {missing[0]} is missing; it takes {', '.join(known)}")
    return value


def _edit(value: Any, name: str, folder: Path) -> Edit:
    fields = _fields(value, name, _EDIT)
    made: dict[str, Any] = {}
    for key in ("remove", "refine", "swap"):
        if key in fields:
            made[key] = tuple(_region(each, f"{name}: {key}", folder) for each in _list(fields[key], f"{name}: {key}"))
    if "layers" in fields:
        listed = _list(fields["layers"], f"{name}: layers")
        made["layers"] = tuple(_layer(each, f"{name}: layers[{i}]", folder) for i, each in enumerate(listed))
    if "pan" in fields:
        pan = fields["pan"]
        if not isinstance(pan, list) or len(pan) != 2:
            raise InputError(f"{name}: pan holds {_short(pan)}; {_PAIR} are expected, such as [0.2, 0]")
        made["pan"] = (_number(pan[0], f"{name}: pan"), _number(pan[1], f"{name}: pan"))
    if "zoom_out" in fields:
        made["zoom_out"] = _number(fields["zoom_out"], f"{name}: zoom_out")
    return _said(lambda: Edit(**made), name)


def _layer(value: Any, name: str, folder: Path) -> Layer:
    fields = _fields(value, name, _LAYER)
    made: dict[str, Any] = {"mask": _region(fields["mask"], f"{name}: mask", folder)}
    for key in ("dx", "dy", "scale"):
        if key in fields:
            made[key] = _number(fields[key], f"{name}: {key}")
    for key in ("image", "flip"):
        if fields.get(key) is not None:
            made[key] = _text(fields[key], f"{name}: {key}")
    if "image" in made and not made["image"].startswith(PICTURES):
        made["image"] = str(folder / os.path.expanduser(made["image"]))
    if fields.get("hidden_by") is not None:
        made["hidden_by"] = _region(fields["hidden_by"], f"{name}: hidden_by", folder)
    if "erase" in fields:
        if not isinstance(fields["erase"], bool):
            raise InputError(f"{name}: erase holds {_short(fields['erase'])}; true or false is expected")
        made["erase"] = fields["erase"]
    return _said(lambda: Layer(**made), name)


def _said(make: Callable[[], Made], name: str) -> Made:
    """What `make` gives; its complaint says where in the plan it is."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or len(value) > _MOST:
        raise InputError(f"{name} holds {_short(value)}; a list of at most {_MOST} is expected")
    return value


def _region(value: Any, name: str, folder: Path) -> str:
    text = _text(value, name)
    kind, rest = split_region(text, folder)
    if kind != "file":
        return f"{kind}:{rest}"
    reading, path = mask_reading(rest)
    return f"file:{reading}{':' if reading else ''}{folder / user_path(path)}"


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > _LONGEST:
        raise InputError(f"{name} holds {_short(value)}; {_TEXT} is expected")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGE:
        raise InputError(f"{name} holds {_short(value)}; {_NUMBER} is expected")
    return float(value)


def _short(value: Any) -> str:
    return short(json.dumps(value), 40)


def _plain(value: Any, kind: type) -> Any:
    """A dataclass as JSON, without what is as by default."""
    made = {}
    for name, field in kind.__dataclass_fields__.items():  # type: ignore[attr-defined]
        given = getattr(value, name)
        if given == field.default:
            continue
        if name == "layers":
            given = [_plain(layer, Layer) for layer in given]
        elif isinstance(given, tuple):
            given = list(given)
        made[name] = given
    try:
        json.dumps(made)
    except TypeError:
        raise InputError("a plan with objects can't be written as JSON; give them as masks and pictures, and name them there") from None
    return made


def single_edits(
    *,
    remove: Sequence[RegionLike] = (),
    refine: Sequence[RegionLike] = (),
    move: RegionLike | None = None,
    dx: float = 0.0,
    dy: float = 0.0,
    scale: float = 1.0,
    flip: Flip = "none",
    swap: Sequence[RegionLike] = (),
    pan: tuple[float, float] = (0.0, 0.0),
    zoom_out: float = 1.0,
) -> tuple[Edit, ...]:
    """The edits that single arguments ask for: removals, a move and a swap at once, then a pan, then a zoom.

    Args:
        remove, refine, dx, dy, scale, flip, swap, pan, zoom_out: as in `Edit` and `Layer`.
        move: what is moved, resized or mirrored.

    Raises:
        InputError: values without something to move, or something to move without values.
    """
    layers: list[Layer] = []
    if move is not None:
        layers.append(Layer(mask=move, dx=dx, dy=dy, scale=scale, flip=flip))
        if (dx, dy, scale, flip) == (0.0, 0.0, 1.0, "none"):
            raise InputError("move: nothing says how; give dx, dy, scale or flip")
    elif (dx, dy, scale, flip) != (0.0, 0.0, 1.0, "none"):
        raise InputError("dx, dy, scale and flip say how something moves; give what with move")
    edits = [Edit(remove=tuple(remove), refine=tuple(refine), layers=tuple(layers), swap=tuple(swap))] if remove or layers or swap else []
    if pan != (0.0, 0.0):
        edits.append(Edit(pan=pan))
    if zoom_out != 1.0:
        edits.append(Edit(zoom_out=zoom_out))
    return tuple(edits)
