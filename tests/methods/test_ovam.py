"""Open-vocabulary attention maps: parity with a short DAAM of our own, closed forms, late words, tokens, masks, checkpoints' shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype import load
from calotype.backbones.preprocessing import working_size
from calotype.chains import mask_from
from calotype.core.denoiser import Condition
from calotype.core.guidance import NoGuidance
from calotype.core.noise import RENOISE, batch_noise
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask
from calotype.methods.ovam import AttentionQueries, OpenVocabularyAttentionMaps, Token, fit_token, word_mask
from calotype.methods.ovam.maps import AttentionLayer, attend, open_vocabulary, resize
from calotype.methods.ovam.masks import dense_field, guided_filter, scaled, to_mask
from calotype.methods.ovam.tokens import PERFECT_MINMAX, distance
from calotype.methods.ovam.words import TokenQuery, ask, competing_rows
from tests import tiny
from tests.recorder import Recorder

KINDS = ("sd", "sd21", "sdxl")
PLAIN = OpenVocabularyAttentionMaps(
    num_inference_steps=2, guidance_scale=2.0, levels=2, self_attention=1.0, refine="none", scaling="minmax", threshold=0.5
)


def noisy_picture(seed: int = 0, height: int = 64, width: int = 64) -> Image:
    return Image(torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return load(tiny.cached(request.param), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def sd() -> Any:
    return load(tiny.cached("sd"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def small_look(sd: Any) -> AttentionQueries:
    return PLAIN.look(sd, [noisy_picture(0), noisy_picture(1)], prompts=["a red ball", "a blue house"], seed=3)


class Explicit:
    """An attention processor with an explicit softmax, which it sums over calls."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None) -> Tensor:
        tokens = (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        q, k, v = (attn.head_to_batch_dim(part) for part in tokens)
        probabilities = (attn.scale * q.float() @ k.float().transpose(1, 2)).softmax(-1)
        self.sums = probabilities if self.sums is None else self.sums + probabilities
        output: Tensor = attn.to_out[0](attn.batch_to_head_dim(probabilities.to(v.dtype) @ v))
        return output


class ReferenceDaam:
    """DAAM in a few lines."""

    def __init__(self, unet: Any, latent: tuple[int, int]) -> None:
        self.latent = latent
        self.before = unet.attn_processors
        watched = {name: Explicit() for name in self.before if ".attn2." in name and not name.startswith("mid")}
        self.processors = list(watched.values())
        unet.set_attn_processor({**self.before, **watched})

    def maps(self, calls: int) -> Tensor:
        """[tokens, h, w] of one picture."""
        found = []
        for sums in (processor.sums for processor in self.processors):
            assert sums is not None
            factor = round((self.latent[0] * self.latent[1] / sums.shape[1]) ** 0.5)
            grid = (self.latent[0] // factor, self.latent[1] // factor)
            per_head = (sums / calls).transpose(1, 2).unflatten(-1, grid)
            found.append(F.interpolate(per_head, size=self.latent, mode="bicubic", align_corners=False).clamp(min=0))
        return torch.cat(found).mean(0)


def test_maps_of_prompt_words_equal_daam(model: Any) -> None:
    method = dataclasses.replace(PLAIN, mode="in-prompt", branch="cond")
    picture, prompt = noisy_picture(2, *model.size), "a red ball on sand"
    seen = method.look(model, [picture], prompts=[prompt], seed=4)
    ours = seen.prompt_maps(["ball", "sand", "red"], size=seen.latent_size)[0]
    latents = model.encode(picture.pixels[None]).float()
    condition = model.condition([prompt], size=model.size)
    reference = ReferenceDaam(model.unet, seen.latent_size)
    try:
        denoise = model.denoiser({"cond": condition}, NoGuidance())
        for place, sigma in enumerate(method.noise_levels()):
            denoise(latents + sigma * batch_noise(latents.shape[1:], 4, 1, stream=RENOISE + place), sigma)
    finally:
        model.unet.set_attn_processor(reference.before)
    expected = reference.maps(method.levels)
    places = {word: prompt.split().index(word) + 1 for word in ("ball", "sand", "red")}
    # "a" is one token, and the tiny vocabulary has each of these words as one.
    for row, word in enumerate(places):
        assert torch.allclose(ours[row], expected[places[word]], atol=2e-5), word
    assert float(expected.std()) > 0


def test_attention_sums_to_the_closed_form_total(model: Any) -> None:
    seen = PLAIN.look(model, [noisy_picture(5, *model.size)], seed=1)
    question = ask(model, ("red ball",), "a photograph of a {}", model.size)
    parts = seen.attended(question)
    heads = sum(layer.heads for layer in seen.layers)
    assert seen.total == PLAIN.levels * heads
    for part, layer in zip(parts, seen.layers, strict=True):
        assert torch.allclose(part.sums.sum(dim=2), torch.full_like(part.sums[:, :, 0], float(PLAIN.levels)), atol=1e-4)
        assert part.sums.shape[-2:] == layer.grid
    shares = seen.shares(question)
    assert torch.allclose(shares.sum(dim=1), torch.ones_like(shares[:, 0]), atol=1e-5)
    assert not any("mid_block" in layer.name for layer in seen.layers)


@pytest.mark.parametrize("mode", ["open", "in-prompt"])
def test_sums_kept_meanwhile_are_those_of_the_kept_queries(sd: Any, mode: Any) -> None:
    words, prompts = ("ball", "red"), ["a red ball", "a red ball on grass"]
    pictures = [noisy_picture(0), noisy_picture(1)]
    late = dataclasses.replace(PLAIN, mode=mode, branch="cond", prompt_competes=True)
    known = dataclasses.replace(late, store="maps")
    queries = late.look(sd, pictures, prompts=prompts, seed=3)
    sums = known.look(sd, pictures, prompts=prompts, words=words, seed=3)
    # Queries are kept in half precision.
    assert torch.allclose(late.maps(queries, words), known.maps(sums, words), atol=5e-4)
    assert not sums.layers
    if mode == "open":
        with pytest.raises(InputError, match="store='queries'"):
            known.maps(sums, ("house",))


def test_late_words_need_no_call_of_the_network(sd: Any, small_look: AttentionQueries) -> None:
    calls: list[int] = []
    handle = sd.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    maps = small_look.maps(["house", "star", "sand"])
    handle.remove()
    assert maps.shape == (2, 3, 64, 64)
    assert calls == []
    assert not torch.equal(maps[:, 0], maps[:, 1])


def test_a_picture_is_seen_alike_alone_and_in_a_batch(sd: Any, small_look: AttentionQueries) -> None:
    alone = PLAIN.look(sd, [noisy_picture(1)], prompts=["a blue house"], seed=4)
    # Queries are kept in half precision, and a last digit of float32 may decide how one is rounded.
    assert torch.allclose(alone.maps(["ball"])[0], small_look.maps(["ball"])[1], atol=1e-3)


def test_a_watched_generation_makes_the_unwatched_picture(sd: Any) -> None:
    prompts = ["a red ball", "a blue house"]
    seen = PLAIN.generate(sd, prompts, seed=2)
    coarse = dataclasses.replace(PLAIN, factors=(4,), every=2).generate(sd, prompts, seed=2)
    assert torch.equal(seen.pictures, coarse.pictures)
    assert seen.rows == 2
    assert {layer.queries.shape[0] for layer in coarse.layers} == {1}
    assert coarse.megabytes < 0.2 * seen.megabytes


def test_the_two_branches_ask_differently(sd: Any) -> None:
    pictures = [noisy_picture(0)]
    free, told = (
        dataclasses.replace(PLAIN, branch=branch).look(sd, pictures, prompts=["a red ball"], seed=1).maps(["ball"])
        for branch in ("uncond", "cond")
    )
    assert float((free - told).abs().max()) > 1e-4


def test_pictures_of_any_shape_keep_their_size(sd: Any) -> None:
    heard = Recorder()
    picture = noisy_picture(3, 50, 90)
    seen = PLAIN.look(sd, [picture], seed=1, events=heard)
    assert seen.latent_size[1] > seen.latent_size[0]
    assert seen.maps(["ball"]).shape == (1, 1, 50, 90)
    assert "90x50" in heard.notes[0]
    for size in ((64, 64), (480, 640), (16, 2000), (3000, 4000)):
        height, width = working_size(sd, size)
        sd.latent_shape((height, width))
        assert height * width <= 4 * sd.size[0] * sd.size[1]


def test_inversion_sees_each_level_once_but_for_the_last_that_it_only_arrives_at(sd: Any) -> None:
    method = dataclasses.replace(PLAIN, source="invert", num_inference_steps=3)
    seen = method.look(sd, [noisy_picture(0)], seed=1)
    assert {layer.queries.shape[0] for layer in seen.layers} == {2}


def test_words_that_compete_share_one_softmax(small_look: AttentionQueries, sd: Any) -> None:
    together = small_look.maps(["house", "star"], together=True)
    alone = small_look.maps(["house", "star"])
    assert float((together - alone).mean()) < 0
    method = dataclasses.replace(PLAIN, together=True, threshold=0.0)
    masks = method.masks(small_look, together)
    assert not bool((masks[:, 0] & masks[:, 1]).any())


def test_rivals_take_shares_and_leave_the_words_own_tokens_out(small_look: AttentionQueries, sd: Any) -> None:
    competing_phrases = [[prompt] for prompt in small_look.prompts]
    question = small_look.question(("ball",), "a {}", competing_phrases)
    assert question.allowed is not None  # "a red ball" has two competing phrases left, "a blue house" three.
    assert question.allowed.sum(dim=1).tolist() == [5, 6]
    shares = small_look.shares(question)
    assert torch.allclose(shares.sum(dim=1), torch.ones_like(shares[:, 0]), atol=1e-5)
    assert float(shares[0, -1].abs().max()) == 0
    single = small_look.select([0]).maps(["ball"], context="a {}", competing_phrases=competing_phrases[:1])
    assert torch.allclose(single[0], small_look.maps(["ball"], context="a {}", competing_phrases=competing_phrases)[0], atol=1e-5)
    assert len(competing_rows(sd, ["red ball"], ["red ball"])) == 0


def test_the_gradient_by_a_token_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [
        AttentionLayer("a", (4, 4), torch.randn(2, 1, 2, 16, 8, generator=generator)),
        AttentionLayer("b", (2, 2), torch.randn(2, 1, 2, 4, 8, generator=generator)),
    ]
    project = torch.randn(2, 6, 16, generator=generator)

    def value(x: Tensor) -> Tensor:
        keys = [(x @ weight).view(1, 2, 2, 8).transpose(1, 2) for weight in project]
        shares = open_vocabulary([attend(layer, key) for layer, key in zip(layers, keys, strict=True)])
        return shares[0, 1, 1, 2]

    start = torch.randn(1, 2, 6, generator=generator)
    x = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(x), [x])
    for place in ((0, 0, 1), (0, 1, 3)):
        step = torch.zeros_like(start)
        step[place] = 1e-2
        difference = (value(start + step) - value(start - step)) / 2e-2
        assert torch.allclose(gradient[place], difference, atol=1e-4)


def separable_look(sd: Any) -> tuple[AttentionQueries, Tensor]:
    """Queries that know where the thing is: a direction of their own inside of the mask, and noise."""
    generator = torch.Generator().manual_seed(1)
    seen = PLAIN.look(sd, [noisy_picture(0)], seed=1)
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., 16:40, 8:32] = True
    layers = []
    for layer in seen.layers:
        inside = resize(mask.float(), layer.grid)[0, 0].flatten()[:, None]
        direction = torch.randn(layer.heads, 1, layer.queries.shape[-1], generator=generator)
        queries = (2 * inside - 1) * 3 * direction + 0.1 * torch.randn(layer.queries.shape, generator=generator)
        layers.append(AttentionLayer(layer.name, layer.grid, queries))
    return dataclasses.replace(seen, layers=tuple(layers)), mask


def test_a_fitted_token_finds_what_the_word_does_not_and_comes_back_from_its_file(sd: Any, tmp_path: Path) -> None:
    seen, mask = separable_look(sd)
    token = fit_token(seen, "house", mask, num_steps=40, learning_rate=0.1, branch="uncond")
    path = tmp_path / "house.safetensors"
    token.save(path)
    again = Token.load(path)
    assert again.words == ("house",)
    assert again.provenance["branch"] == "uncond"
    assert again.provenance["model"] == sd.name
    assert torch.equal(again.embeddings, token.embeddings)
    with pytest.raises(InputError, match="exists already"):
        token.save(path)

    inside = mask[0, 0]
    fitted, plain = PLAIN.maps(seen, (), again)[0, 0], PLAIN.maps(seen, ["house"])[0, 0]
    found = to_mask(fitted, threshold=0.5)
    assert float((found & inside).sum() / (found | inside).sum()) > 0.8
    contrast = {name: float(one[inside].mean() - one[~inside].mean()) for name, one in (("fitted", fitted), ("plain", plain))}
    assert contrast["fitted"] > contrast["plain"] + 0.4
    shuffled = mask.flatten()[torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(0))].view_as(mask)
    lost = fit_token(seen, "house", shuffled, num_steps=40, learning_rate=0.1)
    assert float(lost.provenance["token_loss"]) > 3 * float(again.provenance["token_loss"])


def test_several_words_are_fitted_together(sd: Any) -> None:
    seen, mask = separable_look(sd)
    token = fit_token(seen, "house,star", torch.cat([mask, ~mask], dim=1), num_steps=3, loss="minmax", learning_rate=100.0)
    assert token.embeddings.shape[0] == 3
    assert PLAIN.maps(seen, (), token).shape == (1, 2, 64, 64)


def test_the_official_loss_ends_at_its_floor() -> None:
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None]
    assert float(distance(target, target, "minmax")) == pytest.approx(PERFECT_MINMAX, abs=1e-6)
    assert float(distance(target, target, "shares")) == pytest.approx(0, abs=1e-6)


def test_masks_follow_the_pictures_edges() -> None:
    picture = torch.full((3, 48, 48), 0.2)
    picture[:, 12:36, 12:36] = 0.9
    truth = picture[0] > 0.5
    soft = F.avg_pool2d(truth.float()[None, None], 13, stride=1, padding=6)[0, 0]
    soft = soft + 0.1 * torch.rand(48, 48, generator=torch.Generator().manual_seed(0))

    def overlap(found: Tensor) -> float:
        return float((found & truth).sum() / (found | truth).sum())

    rough = overlap(to_mask(soft, threshold=0.75))
    assert rough < 0.8
    assert overlap(to_mask(soft, picture, threshold=0.5, refine="guided")) > 0.95
    assert overlap(to_mask(soft, picture, threshold=0.6, refine="crf")) > 0.95
    assert dense_field(soft.clamp(0, 1), picture).shape == (48, 48)
    assert torch.allclose(guided_filter(torch.full((48, 48), 0.3), picture, 4, 1e-3), torch.full((48, 48), 0.3), atol=1e-6)
    assert float(scaled(torch.full((4, 4), 0.5), "minmax").abs().max()) == 0


def test_self_attention_is_watched_where_it_refines(sd: Any) -> None:
    seen = dataclasses.replace(PLAIN, self_attention=0.85, self_attention_factors=(2,)).look(sd, [noisy_picture(0)], seed=1)
    assert seen.received is not None
    assert seen.received.shape[0] == 1
    assert float(seen.received.mean()) == pytest.approx(1, abs=1e-4)
    assert dataclasses.replace(PLAIN, self_attention=0.85).masks(seen, seen.maps(["ball"])).shape == (1, 1, 64, 64)


def test_one_call_makes_pictures_maps_and_masks(model: Any) -> None:
    heard = Recorder()
    found = PLAIN(model, None, words="ball,red house", prompt="a red ball on sand", seed=1, events=heard)
    assert list(found) == ["picture", "ball-map", "ball-mask", "red-house-map", "red-house-mask"]
    assert {item.size for item in found.values()} == {model.size}
    assert heard.metrics["model_calls"] == 4
    again = PLAIN(model, found["picture"], words="ball", seed=1)
    assert isinstance(again["ball-mask"], Mask)


@pytest.mark.parametrize(
    ("words", "stems"),
    [
        ("red ball,red-ball", ["red-ball-2", "red-ball"]),
        ("ball,Ball", ["ball", "Ball-2"]),
        ("picture,red/ball,red ball", ["picture", "red-ball", "red-ball-2"]),
        (" ".join(["ball"] * 70), ["-".join(["ball"] * 24)]),
    ],
)
def test_words_of_one_file_name_keep_their_results(sd: Any, words: str, stems: list[str]) -> None:
    found = PLAIN(sd, None, words=words, prompt="a red ball on sand", seed=1)
    assert list(found) == ["picture", *(f"{stem}-{what}" for stem in stems for what in ("map", "mask"))]
    assert len({name.casefold() for name in found}) == len(found)


def test_a_fitted_token_is_a_result_and_an_input(sd: Any, tmp_path: Path) -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, :32] = True
    found = PLAIN(sd, noisy_picture(0), words="ball", mask=Mask(mask))
    assert list(found) == ["picture", "ball-map", "ball-mask", "token"]
    token = found["token"]
    assert isinstance(token, Token)
    token.save(tmp_path / "ball.safetensors")
    asked = [
        PLAIN(sd, noisy_picture(0), token=given) for given in (token, tmp_path / "ball.safetensors", str(tmp_path / "ball.safetensors"))
    ]
    for each in asked:
        assert list(each) == ["picture", "ball-map", "ball-mask"]
        assert torch.equal(each["ball-map"].pixels, found["ball-map"].pixels)


REFUSED: Sequence[tuple[dict[str, Any], str]] = (
    ({"words": ""}, "no words were given"),
    ({"words": "ball,,red"}, "empty entry"),
    ({"words": "ball,ball"}, "given twice"),
    ({"words": "ball", "image": None}, "neither a picture nor a prompt"),
    ({"words": "ball", "mask": Mask(torch.ones(8, 8, dtype=torch.bool))}, "8x8 px and the picture 64x64"),
    ({"words": "ball", "mask": Mask(torch.zeros(64, 64, dtype=torch.bool))}, "mask is empty"),
    ({"words": "ball,red", "mask": Mask(torch.ones(64, 64, dtype=torch.bool))}, "one word"),
    ({"words": "ball", "save_token": "token.safetensors"}, "without --mask"),
    ({"words": "ball", "save_token": "token.npy"}, "ends in .safetensors"),
    ({"token": "nowhere.safetensors"}, "nowhere"),
    ({"words": " ".join(["ball"] * 90)}, "fewer at once"),
)


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_can_not_be_used_is_said_in_one_line(sd: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        PLAIN(sd, **{"image": noisy_picture(0), **given})
    assert "\n" not in str(refused.value)


def test_a_word_without_a_token_and_one_outside_of_the_prompt_are_refused(sd: Any) -> None:
    toy = load("toy-t2i", device="cpu")
    with pytest.raises(InputError, match="has no token"):
        PLAIN(toy, noisy_picture(0), words="€")
    with pytest.raises(InputError, match="not in the prompt"):
        dataclasses.replace(PLAIN, mode="in-prompt")(sd, noisy_picture(0), words="house", prompt="a red ball")
    with pytest.raises(InputError, match="can't be used"):
        PLAIN(load(tiny.cached("svd"), device="cpu"), noisy_picture(0), words="house")
    with pytest.raises(InputError, match="width"):
        Token(("ball",), torch.zeros(2, 7)).question(sd)


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": 0},
        {"factors": ()},
        {"sigma_min": 2.0, "sigma_max": 1.0},
        {"threshold": 1.0},
        {"self_attention": 0.0},
        {"height": 8},
        {"mode": "in-prompt", "together": True},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        OpenVocabularyAttentionMaps(**settings)


def test_without_guidance_the_one_branch_is_watched(sd: Any) -> None:
    heard = Recorder()
    seen = dataclasses.replace(PLAIN, guidance_scale=1.0).generate(sd, ["a red ball"], seed=1, events=heard)
    assert "without guidance" in heard.notes[0]
    assert seen.rows == 1


def test_a_word_of_the_toy_world_is_found_and_serves_as_a_mask() -> None:
    from calotype.evaluation.ovam import cases
    from calotype.metrics import iou
    from calotype.world import paint

    toy = load("toy-t2i", device="cpu")
    found = []
    for case in cases("tune", 77, 4):
        picture = Image(paint([case.scene])[0])
        mask = mask_from(f"word:{case.word}", picture, toy, seed=1)
        assert mask.size == picture.size
        found.append(iou(mask.values, case.truth))
    assert sum(found) / len(found) > 0.4
    assert torch.equal(word_mask(toy, picture, case.word, seed=1).values, mask.values)
    with pytest.raises(InputError, match="text-to-image model"):
        mask_from("word:ball", picture)
    with pytest.raises(InputError, match="picture's size"):
        mask_from(Mask(torch.ones(8, 8, dtype=torch.bool)), picture)


def test_a_condition_of_a_question_has_the_words_rows(sd: Any) -> None:
    question = ask(sd, ("ball", "red"), "a {} on sand")
    assert isinstance(question, TokenQuery)
    assert question.rows == ((1,), (2,))
    states = Condition({"text": sd.condition(["a ball red on sand"]).tensors["text"]}).tensors["text"][0]
    assert torch.allclose(question.embeddings[0], states[[0, 2, 3, 6]], atol=1e-6)
