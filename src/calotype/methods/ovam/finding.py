"""Where a word is in a picture, in one call: what other methods and chains use."""

from __future__ import annotations

from calotype.backbones.preprocessing import is_embedded
from calotype.core.events import SILENT, Events
from calotype.data import as_image
from calotype.data.images import ImageLike
from calotype.errors import InputError
from calotype.imaging.types import Mask
from calotype.methods.ovam.method import CAPABILITIES, NEEDS, OpenVocabularyAttentionMaps
from calotype.methods.ovam.words import WatchedModel, ask, listed


def word_mask(
    model: WatchedModel,
    image: ImageLike,
    word: str,
    *,
    method: OpenVocabularyAttentionMaps | None = None,
    prompt: str = "",
    seed: int = 0,
    events: Events = SILENT,
) -> Mask:
    """Where a word is in a picture.

    Args:
        model: a text-to-image model.
        image: the picture, of any size.
        word: a word or phrase.
        method: the settings; by default those for the model (`default_settings`).
        prompt: what the network is told about the picture, if anything.
        seed: of the noise that is added.
        events: hears notes.

    Returns:
        The mask, of the picture's size.

    Raises:
        InputError: the word has no token, or its mask is empty.
    """
    OpenVocabularyAttentionMaps.refuse_other_roles(model, needs=NEEDS, capabilities=CAPABILITIES)
    method = method or default_settings(model)
    (asked,) = listed([word])
    picture = as_image(image, name="image", events=events)
    ask(model, (asked,), method.context)
    look = method.look(model, [picture], prompts=[prompt], words=(asked,), seed=seed, events=events)
    values = method.masks(look, method.maps(look, (asked,)))[0, 0]
    if not bool(values.any()):
        raise InputError(f"the word {asked!r} marks no pixel of the picture; try another word, or a threshold below {method.threshold}")
    return Mask(values)


def default_settings(model: WatchedModel) -> OpenVocabularyAttentionMaps:
    """`toy()` for an embedded model, `fast()` for any other."""
    return OpenVocabularyAttentionMaps.toy() if is_embedded(model) else OpenVocabularyAttentionMaps.fast()
