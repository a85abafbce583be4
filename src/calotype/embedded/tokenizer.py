"""The toy family's tokenizer: a CLIP tokenizer in which every word of the toy world is one token and unknown words fall to letters."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 24

WORDS: tuple[str, ...] = (
    *(
        "a",
        "an",
        "the",
        "and",
        "on",
        "at",
        "in",
        "of",
        "with",
        "left",
        "right",
        "above",
        "below",
        "behind",
        "front",
        "to",
        "nothing",
        "picture",
        "photo",
    ),
    *(
        "ball",
        "star",
        "tree",
        "house",
        "mushroom",
        "rocket",
        "boat",
        "car",
        "fish",
        "cup",
        "cube",
        "flower",
        "bird",
        "cloud",
        "arrow",
        "key",
        "lamp",
    ),
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "cyan", "white", "black", "brown", "grey"),
    *("snow", "night", "sand", "grass", "sea", "sky", "brick", "water", "flat", "outlined", "pastel", "small", "big", "moving", "turning"),
)
"""Words that are one token whatever the world's presets hold today, so that a preset may grow without a new tokenizer."""


def world_words() -> tuple[str, ...]:
    """`WORDS` and every other word that a caption of the toy world can hold."""
    from calotype.world import PRESETS

    words = dict.fromkeys(WORDS)
    for preset in PRESETS.values():
        words.update(dict.fromkeys((*preset.categories, *preset.colours, *preset.backgrounds, *preset.styles)))
    return tuple(words)


def merge_rules(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, first the most urgent, that make each word one token.

    Each word is first cut as the rules so far cut it; rules that join the pieces from left to right are added below all others. So a new
    rule never changes how an earlier word is cut.

    >>> merge_rules(["and", "sand"])
    [('a', 'n'), ('an', 'd</w>'), ('s', 'and</w>')]
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _cut([*word[:-1], word[-1] + END_OF_WORD], ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _cut(pieces, ranks)
    return list(ranks)


def _cut(pieces: Sequence[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    made = list(pieces)
    while True:
        pairs = [(ranks[pair], place) for place, pair in enumerate(pairwise(made)) if pair in ranks]
        if not pairs:
            return made
        _, place = min(pairs)
        made[place : place + 2] = [made[place] + made[place + 1]]


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """The tokenizer of these words.

    >>> build_tokenizer(["sand", "and", "red"])("red and sand").input_ids
    [143, 142, 140, 138, 144]
    """
    from transformers import CLIPTokenizer

    letters = [character for character in string.printable if not character.isspace() and not character.isupper()]
    entries = dict.fromkeys([*letters, *(letter + END_OF_WORD for letter in letters)])
    rules = merge_rules(words)
    entries.update(dict.fromkeys(first + second for first, second in rules))
    entries.update(dict.fromkeys((START, END)))
    # The end marker has the highest number: CLIP's pooled output looks for it that way.
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return CLIPTokenizer(
        vocab=vocabulary, merges=rules, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=LENGTH
    )


def caption_tokens(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Int[Tensor, "captions length"]:
    """Captions as int32 token ids, cut or filled up to the tokenizer's length.

    >>> caption_tokens(build_tokenizer(["red", "star"]), ["red star", ""]).shape
    torch.Size([2, 24])
    """
    ids = tokenizer(list(captions), padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    return torch.tensor(ids, dtype=torch.int32)
