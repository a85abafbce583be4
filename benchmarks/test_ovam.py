"""Watching should cost next to nothing beside sampling."""

from __future__ import annotations

import dataclasses
import time

import pytest

import calotype
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.noise import batch_noise
from calotype.core.samplers import sample
from calotype.methods.ovam import OpenVocabularyAttentionMaps

PROMPTS = ["a red house left of a green tree on sand"] * 2


@pytest.fixture(scope="module")
def model():
    return calotype.load("toy-t2i", device="cpu")


def test_capture(benchmark, record, model):
    """Sampling with the queries of the 16x16 layers kept, over plain sampling of the same pictures."""
    method = dataclasses.replace(OpenVocabularyAttentionMaps.toy(), factors=(1,), num_inference_steps=8)
    sigmas = model.sigmas(method.num_inference_steps)

    def plain() -> float:
        before = time.perf_counter()
        condition = model.condition(PROMPTS)
        conditions = {"cond": condition, "uncond": model.unconditional(condition)}
        start = batch_noise(model.latent_shape(), 0, len(PROMPTS)) * model.init_noise_sigma(sigmas)
        model.decode(sample(model.denoiser(conditions, ClassifierFreeGuidance(method.guidance_scale)), start, sigmas))
        return time.perf_counter() - before

    def watched() -> float:
        before = time.perf_counter()
        method.generate(model, PROMPTS)
        return time.perf_counter() - before

    plain(), watched()
    ratios = sorted(watched() / plain() for _ in range(5))
    benchmark.pedantic(watched, rounds=1)
    ratio = ratios[len(ratios) // 2]
    record("ovam, sampling with 16x16 queries kept over plain sampling", ratio, "ratio", "<= 1.05", ratio <= 1.05)
