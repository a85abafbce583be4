"""The proof of open-vocabulary attention maps on ground truth: is a thing found that the caption doesn't name, and what else would find it.

Each scene has two things of different kinds. The caption names one of them, the word of the other is asked for, and the mask is compared
with the pixels where that thing is the foremost. Scenes are rendered, so the network looks at noised latents, not at samples.

- `method`: OVAM; the caption's words compete. `method@alone` without that, `method@cond` with the queries of the captioned branch,
  `method@plain` without the picture's edges.
- `best-in-prompt`: DAAM's map of whichever of the caption's own words fits best, chosen by the truth. `daam`: its map of the asked word
  with a caption that names both things.
- `other-word`: a word for neither thing. `centre-disc`: a disc in the middle with the true area. `random-weights`: an untrained UNet.
- `optimised`: one token per kind of thing, fitted to one annotated scene of the split `tune` and asked alone. `shuffled-mask`: the same
  with the mask's pixels in random order.

All rows share scenes, noise, scaling, threshold and refinement; these were chosen for `method` on the split `tune`.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.evaluation.base import Evaluation
from calotype.evaluation.experiment import CallCounter, Experiment
from calotype.evaluation.report import Claim, Report, Role
from calotype.imaging.types import Image
from calotype.methods.ovam import AttentionQueries, OpenVocabularyAttentionMaps
from calotype.methods.ovam.maps import resize
from calotype.methods.ovam.tokens import Token, fit_token
from calotype.metrics import bootstrap, ratio
from calotype.metrics.regions import area_under_curve, iou
from calotype.world import PRESETS, Scene, ground_truth, paint, sample_scene

SLUG = OpenVocabularyAttentionMaps.slug
COUNT = 200
BATCH = 20
"""Scenes that the network looks at together."""
SIZE = 64
TUNE_SEED = 4100
"""Of the annotated scenes, which are of the split `tune`."""
FIT_STEPS, FIT_RATE = 100, 0.1
RECOLOURED = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2))
"""Orders of the colour channels: the one annotated picture is also looked at so recoloured, every other time mirrored."""
Settings = OpenVocabularyAttentionMaps
Maps = Float[Tensor, "scenes height width"]


@dataclass(frozen=True)
class AbsentWord:
    """A scene of two different things: one is named, the other is looked for."""

    scene: Scene
    asked: int
    """Number of the thing that is looked for."""

    @property
    def word(self) -> str:
        """Its category."""
        return self.scene.objects[self.asked].category

    @property
    def other_word(self) -> str:
        """A category that isn't in the scene."""
        there = {thing.category for thing in self.scene.objects}
        absent = [name for name in PRESETS[self.scene.preset].categories if name not in there]
        return absent[self.scene.index % len(absent)]

    @property
    def caption(self) -> str:
        """Names the other thing and the ground."""
        named = self.scene.objects[1 - self.asked]
        return dataclasses.replace(self.scene, objects=(named,), mentions=(0,), relation="and").caption

    @cached_property
    def truth(self) -> Bool[Tensor, "height width"]:
        """Where the asked thing is the foremost."""
        return ground_truth(self.scene, SIZE).masks[0, self.asked]


def cases(split: str, seed: int, count: int, preset: str = "small") -> list[AbsentWord]:
    """The first scenes of a stream that have two things of different categories; the asked one is by turns the hind and the fore one."""
    found: list[AbsentWord] = []
    for index in itertools.count():
        scene = sample_scene(preset, split=split, seed=seed, index=index, objects=2)
        if len({thing.category for thing in scene.objects}) == 2:
            found.append(AbsentWord(scene, len(found) % 2))
        if len(found) == count:
            return found
    raise AssertionError("the stream of scenes has no end")


def pictures(some: Sequence[AbsentWord]) -> list[Image]:
    """The rendered scenes."""
    return [Image(picture) for picture in paint([case.scene for case in some], size=SIZE)]


class MaskExperiment(Experiment):
    """Rows of per-scene numbers, under one rule for masks."""

    def __init__(self, settings: Settings, some: Sequence[AbsentWord], seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.settings, self.cases = settings, list(some)
        self.pictures = paint([case.scene for case in some], size=SIZE)
        self.masks: dict[str, Bool[Tensor, "scenes height width"]] = {}

    def look(self, model: Any, settings: Settings, captions: Sequence[str]) -> tuple[list[AttentionQueries], float]:
        """All scenes in batches, and the seconds that one took."""
        began, looks = time.perf_counter(), []
        for start in range(0, len(self.cases), BATCH):
            part = slice(start, start + BATCH)
            looks.append(
                settings.look(
                    model, pictures(self.cases[part]), prompts=captions[part], seed=self.seed + start, events=CallCounter(self.events)
                )
            )
            self.events.step(len(captions[part]))
        return looks, (time.perf_counter() - began) / len(self.cases)

    def cut(
        self,
        variant: str,
        role: Role,
        maps: Maps,
        *,
        seconds: float = float("nan"),
        peak_mb: float = float("nan"),
        settings: Settings | None = None,
    ) -> None:
        """A row from one map per scene, cut by the common rule."""
        began = time.perf_counter()
        rule = settings or self.settings
        masks = torch.cat([rule.cut(one[None, None], picture[None])[0] for one, picture in zip(maps, self.pictures, strict=True)])
        seconds += (time.perf_counter() - began) / len(self.cases)
        self.compare(variant, role, masks, maps, seconds=seconds, peak_mb=peak_mb)

    def compare(
        self, variant: str, role: Role, masks: Tensor, maps: Maps, *, seconds: float = float("nan"), peak_mb: float = float("nan")
    ) -> None:
        """A row from masks, and the maps that they were cut from."""
        self.masks[variant] = masks
        same = {"seconds": seconds, "peak_mb": peak_mb}
        self.add(
            variant,
            role,
            (
                {"miou": iou(mask, case.truth), "auc": area_under_curve(one, case.truth), **same}
                for case, mask, one in zip(self.cases, masks, maps, strict=True)
            ),
        )


def word_maps(looks: Sequence[AttentionQueries], words: Sequence[str], settings: Settings) -> Maps:
    """Each scene's map of its own word."""
    found, place = [], 0
    for look in looks:
        several = words[place : place + look.rows]
        if settings.mode == "in-prompt":  # Each prompt knows its own words only.
            found += [settings.maps(look.select([row]), [word])[0, 0] for row, word in enumerate(several)]
        else:
            names = sorted(set(several))
            maps = settings.maps(look, names)
            found += [maps[row, names.index(word)] for row, word in enumerate(several)]
        place += look.rows
    return torch.stack(found)


def token_maps(looks: Sequence[AttentionQueries], words: Sequence[str], tokens: dict[str, Token]) -> Maps:
    """The same with fitted tokens."""
    found, place = [], 0
    for look in looks:
        for row, word in enumerate(words[place : place + look.rows]):
            one, question = look.select([row]), tokens[word].question(look.model)
            found.append(resize(question.gather(one.shares(question)), (SIZE, SIZE))[0, 0])
        place += look.rows
    return torch.stack(found)


def best_in_prompt(test: MaskExperiment, looks: Sequence[AttentionQueries], settings: Settings) -> tuple[Tensor, Maps]:
    """Masks and maps of whichever of the caption's words has the best mask in the end."""
    masks, maps, place = [], [], 0
    for look in looks:
        for row in range(look.rows):
            case, one = test.cases[place], look.select([row])
            words = list(dict.fromkeys(one.prompts[0].split()))
            several = settings.maps(one, words)
            cut = test.settings.cut(several, test.pictures[place][None])[0]
            best = max(range(len(words)), key=lambda k: iou(cut[k], case.truth))
            masks.append(cut[best])
            maps.append(several[0, best])
            place += 1
    return torch.stack(masks), torch.stack(maps)


def centre_disc(truth: Bool[Tensor, "height width"]) -> tuple[Tensor, Tensor]:
    """A disc in the middle with the true mask's area, and the nearness to the middle that it was cut from."""
    middles = torch.arange(truth.shape[0]) + 0.5 - truth.shape[0] / 2
    nearness = -(middles[:, None].square() + middles[None].square())
    ordered = nearness.flatten().argsort(descending=True, stable=True)
    disc = torch.zeros(truth.numel(), dtype=torch.bool)
    disc[ordered[: int(truth.sum())]] = True
    return disc.view(truth.shape), nearness


def annotated(category: str, preset: str = "small", seed: int = TUNE_SEED) -> AbsentWord:
    """The one annotated scene of a category: the first of the tune split's two-thing scenes that has it once."""
    for index in itertools.count():
        scene = sample_scene(preset, split="tune", seed=seed, index=index, objects=2)
        names = [thing.category for thing in scene.objects]
        if names.count(category) == 1 and len(set(names)) == 2:
            return AbsentWord(scene, names.index(category))
    raise AssertionError("the stream of scenes has no end")


def fit_tokens(
    model: Any, settings: Settings, categories: Sequence[str], *, shuffled: bool, seed: int, events: Events, steps: int
) -> dict[str, Token]:
    """One token per category from one annotated scene, which is also looked at recoloured and mirrored."""
    tokens = {}
    for number, category in enumerate(categories):
        case = annotated(category)
        (picture,) = pictures([case])
        views, masks = [], []
        for k, order in enumerate(RECOLOURED):
            mask = case.truth
            if shuffled:
                pixels = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(number))
                mask = mask.flatten()[pixels].view(mask.shape)
            view = picture.pixels[list(order)]
            views.append(Image(view.flip(-1) if k % 2 else view.contiguous()))
            masks.append(mask.flip(-1) if k % 2 else mask)
        look = settings.look(model, views, seed=seed, events=CallCounter(events))
        tokens[category] = fit_token(
            look,
            [category],
            torch.stack(masks)[:, None],
            context=settings.context,
            num_steps=steps,
            learning_rate=FIT_RATE,
            branch=settings.branch,
            events=CallCounter(events),
        )
        events.step()
        events.check()
    return tokens


def untrained(model: Any, seed: int = 0) -> Any:
    """The same model with a UNet of random weights."""
    network = type(model.unet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = network.from_config(model.unet.config).to(model.device, model.dtype).eval()
    other = copy.copy(model)
    other.modules = {**model.modules, "unet": unet}
    return other


def chance(masks: Bool[Tensor, "scenes height width"], truths: Sequence[Tensor]) -> list[float]:
    """What each mask scores on the other scenes' truths: nothing but area and habit of place."""
    every = torch.stack(list(truths)).flatten(1).float()
    found = masks.flatten(1).float()
    both = found @ every.T
    either = found.sum(1)[:, None] + every.sum(1)[None] - both
    table = both / either.clamp(min=1)
    table.fill_diagonal_(0)
    return [float(value) for value in table.sum(1) / max(1, len(truths) - 1)]


def sum_error(looks: Sequence[AttentionQueries], words: Sequence[str], settings: Settings) -> list[float]:
    """Per scene: how far the tokens' attention at any pixel is from its closed-form total, levels x heads x layers, as a share of it."""
    found: list[float] = []
    for look in looks:
        for row, word in enumerate(words[len(found) : len(found) + look.rows]):
            one = look.select([row])
            with torch.no_grad():
                parts = one.attended(one.question((word,), settings.context, settings.competitors(one.prompts)))
            summed = torch.stack([resize(part.sums.double().sum(dim=(1, 2))[:, None], (SIZE, SIZE)) for part in parts]).sum(dim=0)
            found.append(float((summed / one.total - 1).abs().max()))
    return found


def claims(test: MaskExperiment, sums: Sequence[float]) -> list[Claim]:
    """The claims, with bars fixed beforehand; each is decided by the 90 % bootstrap interval over scenes."""
    luck = chance(test.masks["shuffled-mask"], [case.truth for case in test.cases])
    return [
        Claim.at_least(
            "a word that is not in the prompt: IoU over the best in-prompt map's", test.ratio("method", "best-in-prompt", "miou"), 2.0
        ),
        Claim.at_least("IoU over a centre disc's of the true area", test.ratio("method", "centre-disc", "miou"), 2.0),
        Claim.at_least(
            "one fitted token (one annotated scene): gain over the plain word asked alike (method@alone), IoU",
            test.difference("optimised", "method@alone", "miou"),
            0.10,
        ),
        Claim.at_most(
            "a token fitted to a shuffled mask: IoU over that of the same masks on other scenes",
            bootstrap(ratio, test.of("shuffled-mask", "miou"), luck),
            1.25,
        ),
        Claim("every word's map: largest distance from the closed-form total", max(sums), 1e-4, max(sums) <= 1e-4),
    ]


def measure(
    model: Any,
    *,
    seed: int,
    count: int = COUNT,
    split: str = "eval",
    preset: str = "small",
    settings: Settings | None = None,
    fit_steps: int = FIT_STEPS,
    events: Events = SILENT,
) -> Report:
    """The whole experiment on a model.

    Args:
        model: a text-to-image model of the toy world, 64 px.
        seed: of scenes and noise.
        count: scenes.
        split: `eval`, or `tune` for whoever chooses settings.
        preset: the world that the model was trained on.
        settings: the method; `OpenVocabularyAttentionMaps.toy()` by default.
        fit_steps: gradient steps of each fitted token.
        events: hears one step per scene and look, and per token.
    """
    settings = settings or OpenVocabularyAttentionMaps.toy()
    some = cases(split, seed, count, preset)
    words, captions = [case.word for case in some], [case.caption for case in some]
    categories = sorted(set(words))
    events.stage(f"evaluate {SLUG}", 4 * count + 2 * len(categories))
    test = MaskExperiment(settings, some, seed, events)
    prompted = dataclasses.replace(settings, mode="in-prompt", branch="cond", self_attention=1.0)

    def timed(make: Callable[[], Any]) -> tuple[Any, float]:
        start = time.perf_counter()
        made = make()
        return made, (time.perf_counter() - start) / count

    def held(looks: Sequence[AttentionQueries]) -> float:
        return max(look.megabytes / look.rows for look in looks)

    looks, spent = test.look(model, settings, captions)
    maps, asking = timed(lambda: word_maps(looks, words, settings))
    test.cut("method", "method", maps, seconds=spent + asking, peak_mb=held(looks))
    sums = sum_error(looks, words, settings)

    captioned, spent_cond = test.look(model, dataclasses.replace(settings, branch="cond"), captions)
    (masks, best), asking = timed(lambda: best_in_prompt(test, captioned, prompted))
    test.compare("best-in-prompt", "baseline", masks, best, seconds=spent_cond + asking, peak_mb=held(captioned))
    maps, asking = timed(lambda: word_maps(looks, [case.other_word for case in some], settings))
    test.cut("other-word", "baseline", maps, seconds=spent + asking, peak_mb=held(looks))
    discs = [centre_disc(case.truth) for case in some]
    test.compare("centre-disc", "baseline", torch.stack([disc for disc, _ in discs]), torch.stack([near for _, near in discs]))
    full, spent_full = test.look(model, prompted, [case.scene.caption for case in some])
    maps, asking = timed(lambda: word_maps(full, words, prompted))
    test.cut("daam", "baseline", maps, seconds=spent_full + asking, peak_mb=held(full))
    for variant, shuffled in (("optimised", False), ("shuffled-mask", True)):
        tokens = fit_tokens(model, settings, categories, shuffled=shuffled, seed=TUNE_SEED, events=events, steps=fit_steps)
        maps, asking = timed(partial(token_maps, looks, words, tokens))
        test.cut(variant, "ablation" if shuffled else "method", maps, seconds=spent + asking, peak_mb=held(looks))
    random, spent_random = test.look(untrained(model), settings, captions)
    maps, asking = timed(lambda: word_maps(random, words, settings))
    test.cut("random-weights", "ablation", maps, seconds=spent_random + asking, peak_mb=held(random))
    alone = dataclasses.replace(settings, prompt_competes=False, competing_phrases="")
    test.cut("method@alone", "ablation", word_maps(looks, words, alone), seconds=spent, peak_mb=held(looks))
    maps = word_maps(captioned, words, settings)
    test.cut("method@cond", "ablation", maps, seconds=spent_cond, peak_mb=held(captioned))
    test.cut(
        "method@plain", "ablation", word_maps(looks, words, settings), seconds=spent, settings=dataclasses.replace(settings, refine="none")
    )
    return test.report(SLUG, count, model, claims(test, sums), notes(test))


def notes(test: MaskExperiment) -> list[str]:
    """How the numbers are to be read."""
    rule = test.settings
    luck = float(np.mean(chance(test.masks["method"], [case.truth for case in test.cases])))
    return [
        f"one rule for all rows: scaling {rule.scaling}, threshold {rule.threshold}, refinement {rule.refine}",
        f"the masks of `method` on other scenes: IoU {luck:.3f}; peak_mb is what the capture of one scene holds",
        "best-in-prompt chooses its word by the truth",
    ]


@dataclass(frozen=True, kw_only=True)
class OVAMEvaluation(Evaluation):
    """Is a thing found that the caption doesn't name, and what else would find it?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-t2i"
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = 8

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        return measure(self.load(device), seed=seed, count=self.scenes(count, quick), fit_steps=10 if quick else FIT_STEPS, events=events)
