"""From words to the tokens that are asked about: which rows of the text encoder's output belong to which word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.core.roles import HasAttention, HasText, TextToImage
from calotype.errors import InputError, refuse_half_characters


class WatchedModel(TextToImage, HasText, HasAttention, Protocol):
    """A text-to-image model whose tokens and cross-attention are looked at."""


@dataclass(frozen=True, eq=False)
class TokenQuery:
    """Tokens that compete for each pixel's attention, and the words that they spell."""

    words: tuple[str, ...]
    embeddings: Float[Tensor, "batch tokens channels"]
    """One row of tokens for all pictures, or one for each."""
    rows: tuple[tuple[int, ...], ...]
    """Which tokens belong to each word; a word of several tokens has their mean."""
    allowed: Bool[Tensor, "batch tokens"] | None = None
    """Which tokens take part, where pictures differ in the number of theirs; all if None."""

    def against(self, phrases: Sequence[Float[Tensor, "tokens channels"]]) -> TokenQuery:
        """The same question with further tokens that compete: one set for all pictures, or one for each."""
        most = max((len(phrase) for phrase in phrases), default=0)
        if most == 0:
            return self
        padded = torch.stack([F.pad(phrase, (0, 0, 0, most - len(phrase))) for phrase in phrases]).to(self.embeddings)
        count, old = max(len(phrases), self.embeddings.shape[0]), self.embeddings.shape[1]
        own = torch.ones(len(phrases), old, dtype=torch.bool)
        there = torch.stack([torch.arange(most) < len(phrase) for phrase in phrases])
        allowed = torch.cat([own, there], dim=1).expand(count, -1)
        embeddings = torch.cat([self.embeddings.expand(count, -1, -1), padded.expand(count, -1, -1)], dim=1)
        return TokenQuery(self.words, embeddings, self.rows, None if bool(allowed.all()) else allowed)

    def gather(self, shares: Float[Tensor, "batch tokens height width"]) -> Float[Tensor, "batch words height width"]:
        """The words' maps from the tokens' maps."""
        return torch.stack([shares[:, list(rows)].mean(dim=1) for rows in self.rows], dim=1)


def listed(words: str | Sequence[str]) -> tuple[str, ...]:
    """Words as the command line has them: separated by commas; each may be a phrase.

    Raises:
        InputError: there is none, one comes twice, or one is no text.

    Example:
        >>> listed("house, red ball")
        ('house', 'red ball')
    """
    parts = words.split(",") if isinstance(words, str) else list(words)
    found = tuple(" ".join(part.split()) for part in parts)
    for word in found:
        refuse_half_characters(word, "words")
    if not any(found):
        raise InputError("no words were given; name what to look for, such as --words 'house,red ball'")
    if not all(found):
        raise InputError(f"the words {words!r} have an empty entry; separate them by single commas")
    twice = [word for word in found if found.count(word) > 1]
    if twice:
        raise InputError(f"the word {twice[0]!r} was given twice; name each once")
    return found


def token_ids(model: HasText, text: str) -> list[int]:
    """A text's token ids without start and end."""
    ids: list[int] = model.modules["tokenizer"](text, verbose=False).input_ids
    return ids[1:-1]


def check_word(model: HasText, word: str) -> int:
    """How many tokens a word has.

    Raises:
        InputError: none, or only unknown ones.
    """
    tokenizer = model.modules["tokenizer"]
    ids = token_ids(model, word)
    known = [number for number in ids if number not in set(tokenizer.all_special_ids)]
    if not known:
        raise InputError(f"the word {word!r} has no token in {model.name}'s vocabulary; write it with letters that the model knows")
    return len(ids)


def ask(model: HasText, words: Sequence[str], context: str = "{}", size: tuple[int, int] | None = None) -> TokenQuery:
    """The question about some words in one text: start token, the words' tokens, end token.

    CLIP's causal mask makes the start token the same for every text, so that it serves as the background.

    Args:
        model: a text-to-image model; its text encoders read the text.
        words: all of them compete in one softmax.
        context: a text with `{}` in it where the words go, separated by spaces. Its own words are read but don't compete.
        size: of the picture, for SDXL.

    Raises:
        InputError: a word without a token, a context without `{}`, or more tokens than the encoder reads.
    """
    if context.count("{}") != 1:
        raise InputError(f"the context is {context!r}; it must have {{}} once, where the word goes, as in 'a photograph of a {{}}'")
    counts = [check_word(model, word) for word in words]
    before, _ = context.split("{}")
    text = context.replace("{}", " ".join(words))
    number = len(token_ids(model, text)) + 2
    most = model.modules["tokenizer"].model_max_length
    if number > most:
        raise InputError(f"the words have {number} tokens with start and end and {model.name} reads {most}; ask about fewer at once")
    # Padding comes after these rows and the encoder's attention is causal, so the padded text has the rows of the bare one.
    states = model.condition([text], size=size).tensors["text"].float()
    first = 1 + len(token_ids(model, before))
    rows: list[tuple[int, ...]] = []
    kept = [0]
    for count in counts:
        rows.append(tuple(range(len(kept), len(kept) + count)))
        kept += range(first, first + count)
        first += count
    return TokenQuery(tuple(words), states[:, [*kept, number - 1]], tuple(rows))


def competing_rows(
    model: WatchedModel, phrases: Sequence[str], words: Sequence[str], size: tuple[int, int] | None = None
) -> Float[Tensor, "tokens channels"]:
    """The tokens of phrases that compete with the words asked about, each phrase read on its own; the words' own tokens are left out.

    Args:
        model: see `ask`.
        phrases: such as the prompt of the picture.
        words: what is asked about.
        size: of the picture, for SDXL.
    """
    own = {number for word in words for number in token_ids(model, word)}
    found = []
    for phrase in phrases:
        ids = token_ids(model, phrase)
        kept = [
            place for place, number in enumerate(ids, start=1) if number not in own and place < model.modules["tokenizer"].model_max_length
        ]
        if kept:
            found.append(model.condition([phrase], size=size).tensors["text"][0, kept].float())
    return torch.cat(found) if found else torch.zeros(0, attention_width(model), device=model.device)


def attention_width(model: HasAttention) -> int:
    """Width of the tokens that the network's cross-attention reads."""
    config: Any = model.unet.config
    return int(config.cross_attention_dim)


def places_in_prompt(model: HasText, prompt: str, word: str) -> tuple[int, ...]:
    """Where a word's tokens are among those of a prompt, every time that it comes; the start token is number 0.

    Raises:
        InputError: the word has no token, or isn't in the prompt.
    """
    check_word(model, word)
    ids, wanted = token_ids(model, prompt), token_ids(model, word)
    most = model.modules["tokenizer"].model_max_length - 2
    starts = [i for i in range(min(len(ids), most) - len(wanted) + 1) if ids[i : i + len(wanted)] == wanted]
    if not starts:
        raise InputError(f"the word {word!r} is not in the prompt {prompt!r}; in-prompt maps know its words only, mode open knows any")
    return tuple(1 + start + i for start in starts for i in range(len(wanted)))


def whole_prompts(model: HasText, prompts: Sequence[str], size: tuple[int, int] | None = None, words: Sequence[str] = ()) -> TokenQuery:
    """The prompts with their padding, one row per picture, as a question without words of its own.

    Raises:
        InputError: one of the words isn't in each prompt.
    """
    for prompt in prompts:
        for word in words:
            places_in_prompt(model, prompt, word)
    return TokenQuery((), model.condition(list(prompts), size=size).tensors["text"].float(), ())
