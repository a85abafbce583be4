"""What the call is given: what moves, and how, as masks, words, drawings and files, each checked against the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.backbones.landscape_generator import SKY, STATIC, WATER, Inversion, LandscapeGenerator
from calotype.backbones.preprocessing import is_embedded
from calotype.core.events import SILENT, Events
from calotype.core.motion_fields import resize_field, without_outliers
from calotype.core.roles import TextToImage
from calotype.data import as_image, as_mask
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask
from calotype.index import SOURCES
from calotype.methods.stylecinegan.motion import PREDICTED, Motion, is_words, read_motion, read_words
from calotype.metrics import psnr

WORD = "word:"
CLASSES = {"sky": SKY, "water": WATER}
"""What the model's own classifier knows."""
FEW = 0.01
"""A mask that covers a smaller share of the picture than this is told of."""
FAR = 0.25
"""Motion over the loop, as a share of a side, from which on it is told of: what flows in over the border is mirrored."""
FAMILIAR_PSNR_DB = 26.0
"""An embedded model rebuilds pictures of its own world at least about this well."""


def recorded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as a run keeps them: files that `mask` and `motion` name are inputs, and named by number."""
    given = dict(arguments)
    for name, several, own in (("mask", "masks", _is_own_mask), ("motion", "motions", is_words)):
        value, files = given.get(name, ""), list(given.get(several) or ())
        if isinstance(value, str) and (own(value) or _number(value, several) is not None):
            continue
        given[several] = [*files, value]
        given[name] = f"{several}:{len(files)}"
    return given


def named_files(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The files that the arguments name without being inputs, each with the argument.

    Example:
        >>> named_files({"mask": "word:sky", "motion": "flow.npy"})
        [('motion', 'flow.npy')]
    """
    found = []
    for name, several, own in (("mask", "masks", _is_own_mask), ("motion", "motions", is_words)):
        value = str(arguments.get(name) or "")
        if not own(value) and _number(value, several) is None:
            found.append((name, value))
    return found


def check(arguments: Mapping[str, Any], *, drawn_speed: float) -> None:
    """A look at a call's arguments before a model is loaded.

    Raises:
        InputError: what can't be read, or doesn't fit the picture.
    """
    picture = as_image(arguments["image"], name="image")
    mask = str(arguments.get("mask") or "")
    if mask.startswith(WORD) and mask.removeprefix(WORD).strip() not in CLASSES and arguments.get("word_model") is None:
        raise InputError(_unknown_word(mask))
    known = _given_mask(mask, arguments.get("masks") or (), picture, SILENT)
    motion = _given_motion(str(arguments.get("motion") or ""), arguments.get("motions") or (), picture.size, SILENT)
    if motion is not None:
        everywhere = Mask(torch.ones(picture.size, dtype=torch.bool))
        motion.field(known or everywhere, (64, 64), drawn_speed=drawn_speed)


def moving(
    mask: str, masks: Sequence[Mask], model: LandscapeGenerator, inversion: Inversion, picture: Image, word_model: TextToImage | None,
    events: Events,
) -> Mask:  # fmt: skip
    """What moves, of the picture's size.

    Raises:
        InputError: a mask of another size, an empty one, or a word that nothing looks for.
    """
    found = _given_mask(mask, masks, picture, events)
    if found is None and mask.startswith(WORD) and mask.removeprefix(WORD).strip() not in CLASSES:
        if word_model is None:
            raise InputError(_unknown_word(mask))
        found = _word_mask(word_model, picture, mask.removeprefix(WORD).strip())
    if found is None:
        classes = model.predict_mask(inversion)
        word = mask.removeprefix(WORD).strip() if mask.startswith(WORD) else ""
        chosen = classes == CLASSES[word] if word else classes != STATIC
        # A picture that isn't square was seen pressed into one.
        share = functional.interpolate(chosen.float()[None, None], size=picture.size, mode="bilinear", antialias=True)[0, 0]
        found = Mask(share >= 0.5)
        if not bool(found.values.any()):
            raise InputError(f"mask: {model.name} sees no {word or 'sky and no water'} in the picture; give a mask of what moves")
    covered = float(found.values.float().mean())
    if covered < FEW:
        events.note(f"mask: only {100 * covered:.2g} % of the picture moves")
    return found


def field(
    motion: str, motions: Sequence[Motion], model: LandscapeGenerator, square: Image, moving: Mask, size: tuple[int, int], *,
    drawn_speed: float, outliers: float, events: Events,
) -> Float[Tensor, "2 height width"]:  # fmt: skip
    """The motion field on a square that stands for the whole picture, 0 where nothing moves.

    Raises:
        InputError: a motion that can't be read or doesn't fit the picture.
    """
    given = _given_motion(motion, motions, moving.size, events)
    if given is None:
        # The network saw the square, so its field has the square's shape and not the picture's.
        own = resize_field(model.predict_motion(square).float().cpu(), size)
        region = Mask(torch.ones(size, dtype=torch.bool))
        share = functional.interpolate(moving.values.float()[None, None], size=size, mode="area")[0, 0] >= 0.5
        made = Motion(own * share).field(region, size, drawn_speed=drawn_speed)
    else:
        made = given.field(moving, size, drawn_speed=drawn_speed)
    if outliers:
        made = without_outliers(made, made.square().sum(0) > 0, limit=outliers)
    return made


def note_inversion(model: LandscapeGenerator, square: Image, inversion: Inversion, events: Events) -> None:
    """Tell how near the inversion is, and warn the user of a model that doesn't know such pictures."""
    found = psnr(inversion.reconstruction.pixels[None], square.pixels[None]).item()
    events.metric("inversion_psnr_db", found)
    if found < FAMILIAR_PSNR_DB and is_embedded(model):
        events.note(
            f"image: {model.name} was trained on drawn landscapes and rebuilds this picture with only {found:.1f} dB (its own world:"
            f" {FAMILIAR_PSNR_DB:.0f} or more), so what moves will be blurred; what is still stays as it is"
        )


def note_speed(field: Float[Tensor, "2 height width"], size: tuple[int, int], frames: int, events: Events) -> None:
    """Tell how fast it flows, in pixels of the picture, and how far over the loop."""
    scale = torch.tensor([size[1] / field.shape[2], size[0] / field.shape[1]]).view(2, 1, 1)
    fastest = float((field.cpu() * scale).square().sum(0).sqrt().max())
    farthest = float((field.abs().amax((1, 2)).cpu() / torch.tensor([field.shape[2], field.shape[1]])).max()) * frames
    told = f"motion: at most {fastest:.3g} px a frame of {size[1]}x{size[0]} px, {fastest * frames:.3g} px over the loop"
    if fastest * frames < 1:
        told += "; that is hardly seen"
    elif farthest > FAR:
        told += f", {100 * farthest:.0f} % of a side; what is torn there is filled from the rim, so less speed or fewer frames look better"
    events.note(told)


def _is_own_mask(text: str) -> bool:
    return text in ("", PREDICTED) or text.startswith(WORD)


def _number(text: str, several: str) -> int | None:
    """Of `masks:2`, 2."""
    number = text.removeprefix(f"{several}:")
    return int(number) if number != text and number.isdigit() else None


def _unknown_word(mask: str) -> str:
    known = " and ".join(f"{WORD}{name}" for name in CLASSES)
    return f"mask {mask!r} asks for a word; the model itself knows {known}, others need a text-to-image model: give --word-model"


def _chosen(text: str, given: Sequence[Any], name: str, several: str, own: Callable[[str], bool]) -> Any:
    """The object or the path that a text names; None where it names something else."""
    if not text and given:
        if len(given) > 1:
            raise InputError(f"{len(given)} {several} are given; say which one with {name} {several}:0")
        return given[0]
    number = _number(text, several)
    if number is not None:
        if number >= len(given):
            raise InputError(f"{name} {text!r} names none of the {len(given)} {several} that are given; the first one is {several}:0")
        return given[number]
    return None if own(text) else Path(text)


def _given_mask(text: str, masks: Sequence[Mask], picture: Image, events: Events) -> Mask | None:
    chosen = _chosen(text, masks, "mask", "masks", _is_own_mask)
    if chosen is None:
        return None
    found = as_mask(chosen, events=events)
    if found.size != picture.size:
        (height, width), (h, w) = found.size, picture.size
        raise InputError(f"mask: it has {width}x{height} px and the picture {w}x{h}; give a mask of the picture's size")
    if not bool(found.values.any()):
        raise InputError("mask: it is empty, no pixel of it is bright; mark what moves in white")
    return found


def _given_motion(text: str, motions: Sequence[Motion], size: tuple[int, int], events: Events) -> Motion | None:
    chosen = _chosen(text, motions, "motion", "motions", is_words)
    if isinstance(chosen, str | Path):
        return read_motion(chosen, events=events)
    if chosen is not None:
        return chosen if isinstance(chosen, Motion) else Motion(torch.as_tensor(chosen, dtype=torch.float32))
    return None if text in ("", PREDICTED) else read_words(text, size)


def _word_mask(model: TextToImage, picture: Image, word: str) -> Mask:
    """With the method that the index names for words."""
    module, _, name = SOURCES["word"].partition(":")
    found: Mask = getattr(import_module(module), name)(model, picture, word)
    return found
