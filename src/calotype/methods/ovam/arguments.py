"""What the user asks for, checked before anything is computed: something to look in, words to look for, and a mask to fit a token to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from calotype.data import as_image, as_mask
from calotype.errors import InputError
from calotype.imaging.files import refuse_existing
from calotype.imaging.types import Image, Mask
from calotype.methods.ovam.tokens import Token, check_token_path
from calotype.methods.ovam.words import listed


def as_token(source: Token | str | os.PathLike[str] | None) -> Token | None:
    """A fitted token, or the one in a file; "" is none."""
    return source if source is None or isinstance(source, Token) else Token.load(source) if os.fspath(source) else None


def check_arguments(arguments: Mapping[str, Any], asks_later: bool) -> None:
    """A call's arguments, as far as they are there, before a model is loaded; see `check_fit`.

    Raises:
        InputError: nothing to look for or in, a token file or a mask that can't be used.
    """
    image, mask, token, prompt = (
        arguments.get("image"),
        arguments.get("mask"),
        as_token(arguments.get("token")),
        arguments.get("prompt", ""),
    )
    words = token.words if token is not None else listed(arguments.get("words", ""))
    picture = None if image is None else as_image(image, name="image")
    given = None if mask is None else as_mask(mask)
    check_fit(words, picture, prompt, given, token, arguments.get("save_token", ""), asks_later=asks_later)


def check_fit(
    words: Sequence[str], picture: Image | None, prompt: str, mask: Mask | None, token: Token | None, save_token: str, *, asks_later: bool
) -> None:
    """There must be something to look in, and a token's mask must fit what there is.

    Args:
        words: that are asked for.
        picture: that is looked at, or None for one that is made from the prompt.
        prompt: may be empty where there is a picture.
        mask: to fit a token to, if any.
        token: a fitted one that is asked for.
        save_token: file to write a fitted one to; empty for none.
        asks_later: whether anything can be asked after the look.

    Raises:
        InputError: it doesn't.
    """
    if picture is None and not prompt:
        raise InputError("neither a picture nor a prompt was given; give --image FILE, or --prompt TEXT to make one")
    if (token is not None or mask is not None) and not asks_later:
        raise InputError("tokens need mode open and store queries: they are asked for after the look")
    if save_token:
        check_token_path(save_token)
        refuse_existing(save_token)
        if mask is None:
            raise InputError("--save-token was given without --mask; a token is fitted to the mask of one word in a picture")
    if mask is None:
        return
    if picture is None or token is not None or len(words) != 1:
        raise InputError(
            "a token is fitted to the mask of one word in a given picture: give --image, --mask and one word in --words, no --token"
        )
    if mask.size != picture.size:
        (height, width), (h, w) = mask.size, picture.size
        raise InputError(f"the mask has {width}x{height} px and the picture {w}x{h}; give a mask of the picture's size")
    if not bool(mask.values.any()):
        raise InputError("the mask is empty: no pixel of it is bright; mark the word's pixels in white")
