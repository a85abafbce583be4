"""Which preset and which checkpoint a method begins with when the user names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calotype.errors import InputError, MissingError
from calotype.index import MODELS
from calotype.registry import did_you_mean

if TYPE_CHECKING:
    from calotype.core.method import Method

CARD_NAME = "calotype.json"
"""A small file in a checkpoint folder: {"presets": {slug: preset}, ...}."""


def default_model(method: type[Method]) -> str:
    """The embedded checkpoint of the role that a method needs; "" if it needs none.

    Raises:
        InputError: it needs one and no embedded checkpoint has that role.
    """
    if not method.role:
        return ""
    for name, row in MODELS.items():
        if row.folder is not None and row.role == method.role:
            return name
    raise InputError(f"--model NAME is needed: {method.slug} runs on a checkpoint of the role {method.role}; `calotype models` lists them")


def default_preset(method: type[Method], model: str) -> str:
    """The preset that the checkpoint's card names for the method, else `toy` for an embedded checkpoint, else the first; "" without any."""
    named = _card(model).get("presets", {})
    preset = named.get(method.slug) if isinstance(named, dict) else None
    if preset in method.presets:
        return str(preset)
    row = MODELS.get(model)
    embedded = row is not None and row.folder is not None
    return "toy" if embedded and "toy" in method.presets else next(iter(method.presets), "")


def preset_instance(method: type[Method], preset: str) -> Method:
    """The configuration of that name; of a method without presets, the fields' defaults for "".

    Raises:
        InputError: the method has no such preset.
        MissingError: the method names it and doesn't have it.
    """
    if not method.presets:
        if preset:
            raise InputError(f"{method.slug} has no presets, and {preset!r} was asked for; leave out --preset")
        return method()
    if preset not in method.presets:
        known = ", ".join(method.presets)
        raise InputError(f"{method.slug} has no preset {preset!r}; {did_you_mean(preset, method.presets)}it has {known}")
    make = getattr(method, preset, None)
    if make is None:
        raise MissingError(f"{method.slug} names a preset {preset!r} and has no class method of that name; update the package that adds it")
    made: Method = make()
    return made


def _card(model: str) -> dict[str, object]:
    from calotype.backbones.headers import read_json
    from calotype.backbones.hub import CHECKPOINTS, local_folder

    row = MODELS.get(model)
    folder = CHECKPOINTS / row.folder if row is not None and row.folder is not None else local_folder(model)
    if folder is None or not (folder / CARD_NAME).is_file():
        return {}
    try:
        return read_json(folder / CARD_NAME)
    except InputError:
        return {}
