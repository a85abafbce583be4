"""Harmonized customization: the projection's closed forms, the swap's two ends, every switch, and what a user may do wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import calotype
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.noise import batch_noise
from calotype.core.samplers import sample
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image, Mask
from calotype.methods.harmonized_customization import HarmonizedCustomization
from calotype.methods.harmonized_customization.method import _both
from calotype.methods.harmonized_customization.pictures import prepare_subject
from calotype.methods.harmonized_customization.projection import EmbeddingMixer, orthogonalise, random_basis, text_basis
from calotype.methods.harmonized_customization.prompts import build_prompt
from calotype.world import paint
from calotype.world.creatures.drawing import PLAIN, on_plain_ground, sample_creature
from tests.recorder import Recorder
from tests.tiny_subject import cached_subject
from tests.tolerance import ENDS, close, in_float64

FAST = HarmonizedCustomization(num_inference_steps=2, guidance_scale=2.0, prompt_repetitions=1)
PROMPT = "lying on sand"


@pytest.fixture(scope="module")
def exact_model() -> Any:
    return in_float64(calotype.load(str(cached_subject("toy-subject")), device="cpu"))


@pytest.fixture(scope="module", name="model")
def _model() -> Any:
    return calotype.load(str(cached_subject("toy-subject")), device="cpu")


@pytest.fixture(scope="module", name="blip")
def _blip() -> Any:
    return calotype.load(str(cached_subject("blip")), device="cpu")


@pytest.fixture(scope="module", name="decided")
def _decided() -> Any:
    """The same with attention that decides: random weights look at all words and places alike, so where they look wouldn't matter."""
    model = calotype.load(str(cached_subject("blip")), device="cpu")
    for name, parameter in model.unet.named_parameters():
        if "attn" in name and ("to_q" in name or "to_out" in name):
            parameter.mul_(8.0)
    return model


@pytest.fixture(scope="module", name="subject")
def _subject() -> Image:
    return Image(paint([on_plain_ground(sample_creature(index=1))])[0])


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The projection.


def test_what_is_left_is_orthogonal_to_every_textual_row() -> None:
    v, text = rows(2, 4, 48), rows(2, 7, 48, seed=1)
    made, ratio = orthogonalise(v, text)
    assert float((made @ text.transpose(1, 2)).abs().max()) < 1e-4
    assert torch.allclose(made.norm(dim=-1) ** 2, v.norm(dim=-1) ** 2 * (1 - ratio**2), rtol=1e-4)


def test_a_second_projection_changes_nothing() -> None:
    v, text = rows(1, 4, 48), rows(1, 7, 48, seed=1)
    once, _ = orthogonalise(v, text)
    twice, ratio = orthogonalise(once, text)
    assert torch.allclose(once, twice, atol=1e-5)
    assert float(ratio.max()) < 1e-5


def test_a_repeated_prompt_takes_away_no_more() -> None:
    """The rank trap: 20 repetitions of 5 words have rank 5; a QR decomposition of the 100 rows would remove 48 of 48 directions."""
    v, text = rows(1, 4, 48), rows(1, 5, 48, seed=1)
    once, _ = orthogonalise(v, text)
    repeated, _ = orthogonalise(v, text.repeat(1, 20, 1))
    assert torch.allclose(once, repeated, atol=1e-4)
    assert len(text_basis(text[0].repeat(20, 1))) == 5
    noisy = text.repeat(1, 20, 1) + 1e-6 * rows(1, 100, 48, seed=2)
    assert torch.allclose(once, orthogonalise(v, noisy)[0], atol=1e-3)


def test_eta_is_linear_between_nothing_and_all() -> None:
    v, text = rows(1, 4, 48), rows(1, 7, 48, seed=1)
    none, half, whole = (orthogonalise(v, text, eta=eta)[0] for eta in (0.0, 0.5, 1.0))
    assert torch.equal(none, v)
    assert torch.allclose(half, (v + whole) / 2, atol=1e-6)


def test_norm_energy_and_rank_switches() -> None:
    v, text = rows(1, 4, 48), rows(1, 7, 48, seed=1)
    assert torch.allclose(orthogonalise(v, text, keep_norm=True)[0].norm(dim=-1), v.norm(dim=-1), rtol=1e-5)
    assert len(text_basis(text[0], max_rank=3)) == 3
    strong = torch.cat([10 * rows(1, 48), 0.01 * rows(5, 48, seed=3)])
    assert len(text_basis(strong, energy=0.99)) == 1
    assert len(text_basis(strong)) == 6
    basis = random_basis(5, 48, seed=0)
    assert torch.allclose(basis @ basis.T, torch.eye(5), atol=1e-5)
    assert len(text_basis(torch.zeros(3, 48))) == 0
    with pytest.raises(ShapeError):
        orthogonalise(v, rows(1, 7, 40))


def test_a_mixer_of_branches_changes_the_image_tokens_only() -> None:
    text, image = rows(1, 5, 48), rows(1, 4, 48, seed=1)
    mixer = EmbeddingMixer.of_branches(text, image)
    made, _ = mixer.orthogonal()
    assert torch.equal(made.rows[:, :5], text)
    assert torch.allclose(made.rows[:, 5:], orthogonalise(image, text)[0], atol=1e-5)
    assert torch.equal(mixer.rows[:, 5:], image)


# Prompts.


def test_the_span_is_the_words_of_the_first_repetition(blip: Any) -> None:
    prompt = build_prompt(blip, "ball", "on sand", repetitions=20)
    assert prompt.ids.shape[1] == 77 - 4
    first = prompt.span("first", class_word=True, special_rows=False)
    assert [prompt.kinds[token] for token in first] == ["class", "word", "word"]
    assert len(prompt.span("first", class_word=False, special_rows=False)) == 2
    assert len(prompt.span("all", class_word=True, special_rows=True)) == 73
    tokenizer = blip.modules["tokenizer"]
    whole = tokenizer(", ".join(["a ball on sand"] * 20), truncation=True, max_length=73).input_ids
    assert prompt.ids[0].tolist() == whole
    assert prompt.visual_places == (2, 3, 4, 5)
    assert prompt.places(first) == (6, 7, 8)


# The run.


def plain(model: Any, subject: Image, method: HarmonizedCustomization, prompt: str, seed: int) -> torch.Tensor:
    """BLIP-Diffusion's own pipeline, written out."""
    ids = build_prompt(model, model.subject_word, prompt).ids
    states = model.encode_rows(ids, model.subject_rows(subject, model.subject_word))
    denoise = model.denoiser(_both(model, states, ""), ClassifierFreeGuidance(method.guidance_scale))
    sigmas = model.sigmas(method.num_inference_steps)
    x = batch_noise(model.latent_shape(), seed, 1) * (float(sigmas[0]) ** 2 + 1) ** 0.5
    made: torch.Tensor = model.decode(sample(denoise, x, sigmas))[0]
    return made


def test_without_projection_and_swap_it_is_the_plain_model(model: Any, subject: Image) -> None:
    method = dataclasses.replace(FAST, eta=0.0, swap="off")
    assert torch.equal(method(model, subject, PROMPT, seed=4).pixels, plain(model, subject, method, PROMPT, 4))
    assert not torch.allclose(FAST(model, subject, PROMPT, seed=4).pixels, plain(model, subject, method, PROMPT, 4), atol=1e-3)


def test_a_swap_between_equal_runs_changes_nothing(exact_model: Any, subject: Image) -> None:
    """Main and auxiliary run have one condition here, so each reads the keys and values that it has itself."""
    same = dataclasses.replace(FAST, conditioning="visual")
    off = dataclasses.replace(same, swap="off")
    for form in ("kv", "concat"):
        swapped = dataclasses.replace(same, swap=form)(exact_model, subject, PROMPT)
        close(swapped.pixels, off(exact_model, subject, PROMPT).pixels, depth=2 * ENDS, scale=3)


def test_the_swap_reads_the_auxiliary_run_in_its_time(model: Any, subject: Image) -> None:
    other = Image(paint([on_plain_ground(sample_creature(index=5))])[0])
    for changes, same in (({}, False), ({"swap_start": 1.0}, True), ({"swap": "off"}, True)):
        method = (
            dataclasses.replace(FAST, swap_start=0.0, **changes) if "swap_start" not in changes else dataclasses.replace(FAST, **changes)
        )
        one, two = (method.generate(model, [subject], [PROMPT], word="creature", auxiliary=[auxiliary]) for auxiliary in (subject, other))
        assert torch.allclose(one, two, atol=1e-6) is same


@pytest.mark.parametrize(
    "changes",
    [
        {"swap": "blend"}, {"swap": "concat", "subject_mask": "on"}, {"subject_mask": "on", "mask_threshold": 0.9}, {"level": "input"},
        {"level": "both", "keep_norm": True}, {"span": "all", "special_rows": True, "energy": 0.9}, {"class_word": False},
        {"subspace": "random"}, {"visual_only": "alone"}, {"visual_only": "masked"}, {"swap_layers": "all"}, {"swap_layers": "mid-up"},
        {"swap_halves": "both"}, {"auxiliary_noise": "independent"}, {"visual_scale": 0.5}, {"conditioning": "text"},
    ],
    ids=str,
)  # fmt: skip
def test_every_switch_changes_the_picture_and_leaves_the_model_alone(model: Any, subject: Image, changes: dict[str, Any]) -> None:
    base = dataclasses.replace(FAST, swap_start=0.0)
    before = {name: type(module) for name, module in model.unet.named_modules()}
    made = dataclasses.replace(base, **changes)(model, subject, PROMPT, seed=1).pixels
    assert bool(torch.isfinite(made).all())
    assert not torch.equal(made, base(model, subject, PROMPT, seed=1).pixels)
    assert {name: type(module) for name, module in model.unet.named_modules()} == before
    assert all("forward" not in module.__dict__ for module in model.unet.modules())


def test_pictures_of_a_batch_are_those_made_alone(exact_model: Any, subject: Image) -> None:
    model = exact_model
    other = Image(paint([on_plain_ground(sample_creature(index=5))])[0])
    both = FAST.generate(model, [subject, other], [PROMPT, "curled on snow"], word="creature", seed=7)
    alone = FAST.generate(model, [other], ["curled on snow"], word="creature", seed=8)
    close(both[1:], alone, depth=2 * ENDS, scale=3)


PROMPTS = ("on red sand and grass", "on grass", "star")


@pytest.mark.parametrize(
    ("repetitions", "changes"),
    [
        (20, {"swap": "concat", "subject_mask": "on"}), (20, {"swap": "kv", "subject_mask": "on"}), (20, {"swap": "blend"}),
        (20, {"swap": "blend", "visual_only": "masked"}), (3, {"swap": "kv", "subject_mask": "on", "visual_only": "masked"}),
        (3, {"swap": "blend", "conditioning": "text"}), (1, {"swap": "blend"}),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "-".join(value.values()),
)  # fmt: skip
def test_prompts_of_several_lengths_in_one_batch_are_those_made_alone(
    decided: Any, subject: Image, repetitions: int, changes: dict[str, Any]
) -> None:
    """Their words stand at other places, repeated or not: each row looks at its own."""
    method = dataclasses.replace(FAST, num_inference_steps=3, swap_start=0.0, prompt_repetitions=repetitions, **changes)
    subjects = [Image(subject.pixels.roll(7 * i, -1)) for i in range(len(PROMPTS))]
    words = {build_prompt(decided, "ball", prompt, repetitions=repetitions).class_places for prompt in PROMPTS}
    assert len(words) == (len(PROMPTS) if repetitions > 1 else 1)
    together = method.generate(decided, subjects, PROMPTS, word="ball", seed=7)
    for i, prompt in enumerate(PROMPTS):
        alone = method.generate(decided, subjects[i : i + 1], [prompt], word="ball", seed=7 + i)
        assert float((together[i : i + 1] - alone).abs().max()) < 1e-3, prompt


def test_it_runs_on_blip_diffusion_and_logs_what_it_took_away(blip: Any) -> None:
    heard = Recorder()
    method = HarmonizedCustomization(num_inference_steps=2)
    picture = Image(torch.rand((3, 50, 70), generator=torch.Generator().manual_seed(0)))
    made = method(blip, picture, "on sand", word="ball", target_word="house", seed=1, events=heard)
    assert made.size == blip.size
    assert 0 < heard.metrics["projected_output"] <= 1
    assert 0 < heard.metrics["projected_input"] <= 1
    assert heard.metrics["model_calls"] == 2 * 2 * 2
    with pytest.raises(InputError, match="--word dog"):
        method(blip, picture, "on sand")


# What a user gives.


def test_any_size_is_resized_with_a_message(model: Any, subject: Image) -> None:
    heard = Recorder()
    large = Image(torch.nn.functional.interpolate(subject.pixels[None], size=(90, 130))[0])
    assert FAST(model, large, PROMPT, events=heard).size == (64, 64)
    assert any("resized and centre-cropped to 64x64" in note for note in heard.notes)


def test_a_plain_ground_becomes_the_models_own_and_a_mask_cuts_out(subject: Image) -> None:
    grey = torch.tensor(PLAIN)[:, None, None]
    inside = (subject.pixels - grey).abs().amax(0) > 0.02
    white = Image(torch.where(inside, subject.pixels, torch.ones(3, 1, 1)))
    made = prepare_subject(white, PLAIN)
    assert float((made.pixels - subject.pixels).abs().mean()) < 0.01
    busy = Image(torch.where(inside, subject.pixels, torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(0))))
    with pytest.raises(InputError, match="--mask FILE"):
        prepare_subject(busy, PLAIN)
    assert torch.equal(prepare_subject(busy, PLAIN, Mask(inside)).pixels, torch.where(inside, subject.pixels, grey))
    with pytest.raises(InputError, match="mask is empty"):
        prepare_subject(busy, PLAIN, Mask(torch.zeros(64, 64, dtype=torch.bool)))
    assert prepare_subject(busy, None) is busy


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"), ({"guidance_scale": 0.5}, "guidance_scale"), ({"eta": 1.5}, "eta"),
        ({"energy": 0.0}, "energy"), ({"swap": "both"}, "swap"), ({"level": "middle"}, "level"), ({"prompt_repetitions": 0}, "repetitions"),
        ({"height": 8}, "height"), ({"visual_scale": -1.0}, "visual_scale"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        HarmonizedCustomization(**changes)


def test_empty_prompts_and_other_models_are_refused(model: Any, subject: Image) -> None:
    with pytest.raises(InputError, match="prompt is empty"):
        FAST(model, subject, "  ")
    with pytest.raises(InputError, match="prompt is empty"):
        FAST.check({"prompt": ""})
    with pytest.raises(InputError, match="toy-subject or a BLIP-Diffusion folder"):
        FAST(object(), subject, PROMPT)  # type: ignore[arg-type]
