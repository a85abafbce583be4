"""Where a mask comes from: a file, or a word that is looked for in the picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeGuard

from calotype.core.events import SILENT, Events
from calotype.data import as_mask
from calotype.data.masks import mask_reading
from calotype.errors import InputError
from calotype.imaging.files import user_path
from calotype.imaging.types import Image, Mask

if TYPE_CHECKING:
    from calotype.methods.ovam.words import WatchedModel

WORD = "word:"
"""What a word's mask begins with, as in `word:red house`."""


def is_word(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a mask is to be made from a word.

    Example:
        >>> is_word("word:house"), is_word("house.png")
        (True, False)
    """
    return isinstance(source, str | os.PathLike) and os.fspath(source).startswith(WORD)


def mask_from(
    source: Mask | str | os.PathLike[str], picture: Image, model: WatchedModel | None = None, *, seed: int = 0, events: Events = SILENT
) -> Mask:
    """The mask that a source names, of the picture's size.

    Args:
        source: a mask, a path to a picture of one (see `calotype.data.masks`), or `word:` and a word or phrase.
        picture: what the mask belongs to.
        model: the text-to-image model that looks for a word.
        seed: of the noise with which it looks.
        events: hears notes.

    Raises:
        InputError: an empty mask, one of another size, a word that has no token or marks nothing, or a word without a model.
    """
    if is_word(source):
        if model is None:
            raise InputError(f"{os.fspath(source)!r} asks for a word's mask, which needs a text-to-image model; give a file, or a model")
        from calotype.methods.ovam import word_mask

        return word_mask(model, picture, os.fspath(source)[len(WORD) :], seed=seed, events=events)
    name = "the mask" if isinstance(source, Mask) else os.fspath(source)
    if not isinstance(source, Mask) and not os.path.isfile(user_path(mask_reading(source)[1])):
        raise InputError(f"no file is at {name}; check the path, or write {WORD}{os.path.basename(name)}")
    found = as_mask(source, events=events)
    if found.size != picture.size:
        (height, width), (h, w) = found.size, picture.size
        raise InputError(f"{name} has {width}x{height} px and the picture {w}x{h}; give a mask of the picture's size")
    if not bool(found.values.any()):
        raise InputError(f"{name} is empty: no pixel of it is bright; mark what it is about in white")
    return found
