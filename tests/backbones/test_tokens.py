"""Prompts to tokens: as the tokenizer pads and cuts, without touching what it keeps between calls."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import calotype
from calotype.backbones.text import tokenize
from tests.tiny import cached


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return calotype.load("toy-t2i", device="cpu").modules["tokenizer"]


@pytest.mark.parametrize("prompts", [["a red ball"], ["", "a blue star and a red ball on sand"], ["a red ball " * 20]])
def test_tokens_are_those_of_the_tokenizers_own_padding_and_cutting(tokenizer: Any, prompts: list[str]) -> None:
    ids, mask = tokenize(tokenizer, prompts)
    length = tokenizer.model_max_length
    own = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokenizer(prompts)
    assert torch.equal(ids, own.input_ids)
    assert torch.equal(mask, own.attention_mask)


def test_a_borrowed_pipelines_tokenizer_keeps_its_state() -> None:
    """A call that cuts and one that doesn't, at the same time, get each other's length: the pipeline may run in another thread."""
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(cached("toy-t2i"))
    pipeline.tokenizer(["a"], padding="max_length", max_length=7, truncation=True)
    backend = pipeline.tokenizer.backend_tokenizer
    before = (dict(backend.padding), dict(backend.truncation))
    calotype.load(pipeline).condition("a red ball")
    assert (backend.padding, backend.truncation) == before


def test_two_threads_share_a_models_tokenizer(tokenizer: Any) -> None:
    expected = {prompt: tokenize(tokenizer, [prompt])[0] for prompt in ("a red ball", "a blue star on sand " * 9)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(lambda number: (prompt := list(expected)[number % 2], tokenize(tokenizer, [prompt])[0]), range(300)))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(ids, expected[prompt]) for prompt, ids in made)
