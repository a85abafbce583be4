"""Prompts as rows: which token is a word of the prompt, the subject's word, a mark or padding, with the visual rows among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from calotype.backbones.subject import SubjectToImage

Kind = Literal["start", "article", "class", "word", "mark", "end", "padding"]
Span = Literal["first", "all"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt's tokens, without the visual rows."""

    ids: Int[Tensor, "1 tokens"]
    kinds: tuple[Kind, ...]
    repetitions: tuple[int, ...]
    """Which repetition of the prompt each token belongs to."""
    begin: int
    visual: int
    """How many visual rows enter at `begin`; 0 for a prompt without a subject."""
    lost: int
    """Tokens of the first repetition that don't fit."""

    @property
    def visual_places(self) -> tuple[int, ...]:
        """Of the visual rows in the conditioning."""
        return tuple(range(self.begin, self.begin + self.visual))

    def places(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Where tokens are in the conditioning."""
        return tuple(token if token < self.begin else token + self.visual for token in tokens)

    def span(self, which: Span, *, class_word: bool, special_rows: bool) -> tuple[int, ...]:
        """The tokens that span the textual subspace: the words of the first repetition, or every row of all of them.

        Args:
            which: `first` or `all`; with `all`, articles and commas count too.
            class_word: whether the subject's own word counts.
            special_rows: whether start, end and padding count.
        """
        wanted: set[str] = {"word"} | ({"article", "mark"} if which == "all" else set())
        wanted |= {"class"} if class_word else set()
        wanted |= {"start", "end", "padding"} if special_rows else set()
        return tuple(
            token
            for token, (kind, repetition) in enumerate(zip(self.kinds, self.repetitions, strict=True))
            if kind in wanted and (which == "all" or repetition == 0 or kind in ("start", "end", "padding"))
        )

    @property
    def class_places(self) -> tuple[int, ...]:
        """Of the subject's word in the conditioning, all repetitions."""
        return self.places(tuple(token for token, kind in enumerate(self.kinds) if kind == "class"))


def build_prompt(model: SubjectToImage, word: str, text: str, *, repetitions: int = 1, subject: bool = True, whole: bool = True) -> Prompt:
    """ "a {word} {text}", repeated with commas and cut to what the text encoder reads beside the visual rows.

    Args:
        model: for its tokenizer and lengths.
        word: the subject's word.
        text: the rest of the prompt; "" is "a {word}".
        repetitions: how often (BLIP-Diffusion: 20).
        subject: whether visual rows will enter.
        whole: false is the article alone: "a" and the visual rows.
    """
    pieces: list[tuple[Kind, str, int]] = []
    for number in range(repetitions):
        if number:
            pieces.append(("mark", ",", number))
        pieces.append(("article", "a", number))
        if whole:
            pieces += [("class", piece, number) for piece in word.split()] + [("word", piece, number) for piece in text.split()]
    visual = model.num_visual_rows if subject else 0
    length = model.text_length - visual
    tokens: list[tuple[int, Kind, int]] = []
    for (kind, _, number), ids in zip(pieces, model.piece_ids([piece for _, piece, _ in pieces]), strict=True):
        tokens += [(token, kind, number) for token in ids]
    start, end, padding = model.special_ids
    lost = sum(number == 0 for _, _, number in tokens[length - 2 :])
    rows: list[tuple[int, Kind, int]] = [(start, "start", 0), *tokens[: length - 2]]
    rows.append((end, "end", rows[-1][2]))
    rows += [(padding, "padding", rows[-1][2])] * (length - len(rows))
    return Prompt(
        ids=torch.tensor([[token for token, _, _ in rows]]),
        kinds=tuple(kind for _, kind, _ in rows),
        repetitions=tuple(number for _, _, number in rows),
        begin=model.begin,
        visual=visual,
        lost=lost,
    )
