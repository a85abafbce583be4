"""The proof of UMed on ground truth: what do segmenters that were trained on protected pictures find in clean ones?

Victims are trained from scratch, until they fit the protected pictures (`protected_dice`), and measured on clean ones of others (`dice`).
Pictures are stored in 256 levels before anything is measured. The data are the tissue world's smooth grey pictures with one subtle lesion.

- `clean`: trained on the pictures as they are.
- `contour`, `interior`: one perturbator alone.
- `em`, `tap`, `lsp`, `ar`, `random-signs`, `constant`, `checkerboard`: baselines at the least budget with which their PSNR is no higher
  than the method's, so that each spends at least as much (`epsilon`). `checkerboard` is no published method: it is the pattern that the fit
  tends to, without a fit.
- `null`: random signs over the whole picture. `shuffled`: each picture with the perturbation of another.
- `@noise-16`: sensor noise of four budgets. `@jpeg75`, ...: victims that do something against it. `@segresnet`, ...: other victims.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from calotype.backbones.placement import place
from calotype.core.events import SILENT, Events
from calotype.data.segmentation_folder import SegmentationFolder
from calotype.errors import InputError
from calotype.evaluation.base import Evaluation
from calotype.evaluation.experiment import LEAST_SCENES, Experiment
from calotype.evaluation.report import Claim, Report, Role
from calotype.evaluation.umed_victims import (
    COUNTER_MEASURES,
    PATIENTS_SPLIT,
    VICTIMS,
    Attack,
    Pairs,
    chosen,
    clean_share,
    folder_pairs,
    levels,
    tissue_pairs,
)
from calotype.methods.umed import UMed
from calotype.methods.umed.baselines import BASELINES, shuffled
from calotype.methods.umed.method import NOISE_LIMIT
from calotype.methods.umed.regions import regions, sensor_noise
from calotype.metrics import psnr

SLUG = UMed.slug
COUNT, TRAIN, CLEAN = 96, 192, 64
"""Test pictures, pictures that are protected, and clean pictures that a victim may have besides."""
SIZE, SMOOTH, NOISY = 32, 0.004, 16 / 255
"""Sides of the pictures, and standard deviations of their sensor noise."""
STEPS, SEEDS = 400, (0, 1)
QUICK_STEPS, QUICK_COUNT = 60, 8
MOST_EPSILON = 32
LOUD = "@noise-16"
"""End of the names of the rows with sensor noise of `NOISY`."""
FRONTIER, FIT_SEEDS = (2, 4, 8), (0, 1, 2)
"""Of --full: budgets, and seeds of the fit."""
PSNR_BAR = 38.0
"""At 8/255, in dB."""
MATCHED = ("em", "tap", "lsp", "ar", "random-signs", "constant", "checkerboard")
LEARNT = ("em", "tap")
"""Baselines whose fit takes a while: their budget is not searched below that of the whole-picture patterns."""


class Poisoning(Experiment):
    """Protects a training set in several ways and trains victims on each."""

    def __init__(self, train: Pairs, test: Pairs, spare: Pairs, method: UMed, attack: Attack, seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.train, self.test, self.spare, self.method, self.attack = train, test, spare, method, attack

    def protected(self, method: UMed | None = None, train: Pairs | None = None, *, seed: int | None = None) -> Tensor:
        """The training pictures with the method's noise, in levels."""
        pairs, seed = train or self.train, self.seed if seed is None else seed
        drawn = (method or self.method).perturbation(
            pairs.images, pairs.masks, seed=seed, device=self.attack.device, events=Inner(self.events)
        )
        return levels(pairs.images + drawn)

    def baseline(self, name: str, epsilon: float) -> Tensor:
        """The training pictures with a baseline's, in levels."""
        drawn = BASELINES[name](self.train.images, self.train.masks, epsilon / 255, seed=self.seed, events=Inner(self.events))
        return levels(self.train.images + drawn)

    def row(self, variant: str, role: Role, images: Tensor, *, attack: Attack | None = None, epsilon: float | None = None) -> None:
        """Victims of one training set."""
        self.trained(variant, role, self.train.with_images(images), images, attack=attack, epsilon=epsilon)

    def trained(
        self, variant: str, role: Role, pairs: Pairs, images: Tensor, *, test: Pairs | None = None, clean: Tensor | None = None,
        attack: Attack | None = None, epsilon: float | None = None,
    ) -> None:  # fmt: skip
        """Victims of `pairs`; `images` are the protected pictures themselves, whose PSNR is that to `clean`."""
        scores, learnt = (attack or self.attack)(pairs, test or self.test, self.events)
        before = self.train.images if clean is None else clean
        about = {
            "psnr_db": float(psnr(images, before).mean()), "changed_share": float((images != before).any(1).float().mean()),
            "protected_dice": sum(learnt) / len(learnt), "epsilon": self.method.epsilon if epsilon is None else epsilon,
        }  # fmt: skip
        self.add(variant, role, [{"dice": float(score), **about} for score in scores])

    def psnr_of(self, images: Tensor) -> float:
        """Mean over the training pictures."""
        return float(psnr(images, self.train.images).mean())

    def matched(self, name: str, most_psnr: float) -> tuple[Tensor, float]:
        """A baseline's pictures at the least whole budget whose PSNR is no higher, and that budget."""
        for epsilon in range(1, MOST_EPSILON + 1):
            # Noise within epsilon can't have a lower PSNR than epsilon everywhere.
            if name in LEARNT and -20 * math.log10(epsilon / 255) > most_psnr:
                continue
            made = self.baseline(name, epsilon)
            if self.psnr_of(made) <= most_psnr:
                break
        return made, float(epsilon)


class Inner(Events):
    """Lets a stop through, and keeps the steps of a fit to itself."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def check(self) -> None:
        """Pass on."""
        self._events.check()


def rows(test: Poisoning, protected: Tensor) -> None:
    """Ablations and baselines of the method, whose protected pictures are given."""
    for part in ("contour", "interior"):
        test.row(part, "ablation", test.protected(dataclasses.replace(test.method, parts=part)))
    paper = dataclasses.replace(UMed.paper(), fit_steps=test.method.fit_steps, epsilon=test.method.epsilon)
    test.row("paper-settings", "ablation", test.protected(paper))
    most = test.psnr_of(protected)
    for name in MATCHED:
        made, epsilon = test.matched(name, most)
        test.row(name, "baseline", made, epsilon=epsilon)
    test.row("null", "baseline", test.baseline("null", test.method.epsilon))
    test.row("shuffled", "baseline", levels(test.train.images + shuffled(protected - test.train.images)))


def frontier(test: Poisoning) -> None:
    """Dice against PSNR: every method at every budget, and the method from further seeds of the fit."""
    for epsilon in FRONTIER:
        for seed in FIT_SEEDS:
            method = dataclasses.replace(test.method, epsilon=epsilon)
            test.row(f"method@{epsilon}-fit-{seed}", "method", test.protected(method, seed=test.seed + seed), epsilon=epsilon)
        for name in MATCHED:
            test.row(f"{name}@{epsilon}", "baseline", test.baseline(name, epsilon), epsilon=epsilon)


def countered(test: Poisoning, protected: Tensor, names: Sequence[str]) -> None:
    """Victims who do something against the protection; what they do to their own pictures they do to the test pictures."""
    for name in names:
        share = clean_share(name)
        if share is None:
            act = COUNTER_MEASURES[name]
            pairs, seen = test.train.with_images(act(protected)), test.test.with_images(act(test.test.images))
            test.trained(f"method@{name}", "limit", pairs, protected, test=seen)
        else:
            count = max(1, round(share * len(test.train.images)))
            some = Pairs(test.spare.images[:count], test.spare.masks[:count])
            test.trained(f"method@{name}", "limit", test.train.with_images(protected).and_also(some), protected)


def claims(table: Poisoning, noise: float, loud: float) -> list[Claim]:
    """Each must hold at the unfavourable end of its 90 % bootstrap interval over test pictures."""
    method = next(row for row in table.rows if row.variant == "method").metrics
    lower = [
        Claim.at_least(f"{name} at no higher PSNR: its clean Dice is above the method's by", table.difference(name, "method", "dice"), 0.0)
        for name in MATCHED
    ]
    return [
        Claim.at_least("clean-trained victims' Dice (the task can be learnt)", table.mean("clean", "dice"), 0.8),
        Claim.at_least("victims fit the protected pictures: Dice there", table.mean("method", "protected_dice"), 0.9),
        Claim.at_most("Dice on clean pictures as a share of clean-trained victims'", table.ratio("method", "clean", "dice"), 0.5),
        Claim.at_least(
            "the null doesn't protect: its Dice as a share of clean-trained victims'", table.ratio("null", "clean", "dice"), 0.9
        ),
        *lower,
        Claim.at_least("shuffled: its clean Dice is above the method's by", table.difference("shuffled", "method", "dice"), 0.0),
        *(
            Claim.at_least(f"{part} alone: its clean Dice is above the method's by", table.difference(part, "method", "dice"), 0.0)
            for part in ("contour", "interior")
        ),
        _at_least(
            f"PSNR of the protected pictures at {table.method.epsilon:g}/255, dB (38 at 8/255)",
            method["psnr_db"],
            PSNR_BAR + 20 * math.log10(8 / table.method.epsilon),
        ),
        Claim.at_least(
            "sensor noise of four budgets: nothing protects, Dice as a share", table.ratio(f"method{LOUD}", f"clean{LOUD}", "dice"), 0.9
        ),
        _at_least("the warning's measure there, in budgets", loud / table.method.epsilon, NOISE_LIMIT),
        Claim(
            "the warning's measure on the smooth pictures, in budgets",
            noise / table.method.epsilon,
            NOISE_LIMIT,
            noise < NOISE_LIMIT * table.method.epsilon,
        ),
    ]


def _at_least(claim: str, value: float, bar: float) -> Claim:
    return Claim(claim, value, bar, value >= bar)


@dataclass(frozen=True, kw_only=True)
class UMedEvaluation(Evaluation):
    """What do segmenters that were trained on protected pictures find in clean ones, and what do they find after other perturbations?"""

    slug: ClassVar[str] = SLUG
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = QUICK_COUNT

    data: Path | None = None
    """A folder with images/ and masks/, part of whose patients measure, in place of the tissue world."""
    victims: str = "unet"
    """Segmenters that are trained, separated by commas: unet, attention-unet, segresnet, unetr, basic-unet. The first one has all rows."""
    counter_measures: str = "jpeg75,blur,clean10%"
    """What victims do against the protection, separated by commas: jpeg75, blur, grey, or clean pictures beside it, such as clean10%."""
    epsilon: float = 4.0
    """Budget of the method in grey levels of 255."""
    full: bool = False
    """The frontier besides: the method at budgets of 2, 4 and 8 from three seeds of the fit each, and every baseline: 30 more rows."""

    def check(self, *, count: int | None, record: bool) -> None:
        """Refuse unknown names, and a count where a folder's pictures are measured."""
        chosen(self.victims, tuple(VICTIMS), "victims")
        self._counter_measures()
        if self.data is not None and (count is not None or record):
            raise InputError("data holds the pictures that are measured; leave out count and record")

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        count = self.scenes(count, quick)
        first, *others = chosen(self.victims, tuple(VICTIMS), "victims") or ["unet"]
        attack = Attack(first, QUICK_STEPS if quick else STEPS, SEEDS[:1] if quick else SEEDS, str(place(device, "auto", None).device))
        method = dataclasses.replace(UMed(), epsilon=self.epsilon)
        if quick:
            method = dataclasses.replace(method, fit_steps=QUICK_STEPS, tries=1)
        train, test, spare = self._pairs(seed, count, TRAIN // 4 if quick else TRAIN)
        table = Poisoning(train, test, spare, method, attack, seed, events)
        noise = 255 * sensor_noise(train.images, regions(train.masks, int(train.masks.max()) + 1, method.band, method.side).support)
        notes = [
            f"sensor noise and fine texture of the pictures where they are changed: {noise:.1f}/255, at a budget of {self.epsilon:g}/255"
        ]
        events.stage(f"evaluate {SLUG}")
        protected = table.protected()
        table.row("clean", "limit", train.images, epsilon=0)
        table.row("method", "method", protected)
        if quick:
            return table.report(SLUG, len(test.images), None, notes=[*notes, "a quick look: too few pictures and steps for a verdict"])
        rows(table, protected)
        countered(table, protected, self._counter_measures())
        for name in others:
            other = dataclasses.replace(attack, architecture=name)
            table.row(f"clean@{name}", "limit", train.images, attack=other, epsilon=0)
            table.row(f"method@{name}", "method", protected, attack=other)
        if self.full:
            frontier(table)
        if self.data is not None:
            return table.report(SLUG, len(test.images), None, notes=notes)
        loud = self._noisy(table, seed, count)
        if len(test.images) < LEAST_SCENES:
            return table.report(SLUG, len(test.images), None, notes=[*notes, f"too few: a verdict needs {LEAST_SCENES} test pictures"])
        return table.report(SLUG, len(test.images), None, claims(table, noise, loud), notes)

    def _pairs(self, seed: int, count: int, train: int) -> tuple[Pairs, Pairs, Pairs]:
        """Pictures to protect, clean ones to measure on, and clean ones that a victim may have besides."""
        if self.data is None:
            first, second, third = (
                tissue_pairs(number, split="eval", seed=seed, noise=SMOOTH, size=SIZE, first=begin)
                for number, begin in ((train, 0), (count, train), (CLEAN, train + count))
            )
            return first, second, third
        kept, held = SegmentationFolder.open(self.data).split(PATIENTS_SPLIT)
        whole, measured = folder_pairs(kept), folder_pairs(held)
        spare = max(1, len(whole.images) // 5)
        return Pairs(whole.images[spare:], whole.masks[spare:]), measured, Pairs(whole.images[:spare], whole.masks[:spare])

    def _noisy(self, table: Poisoning, seed: int, count: int) -> float:
        """The same on pictures with sensor noise of some budgets; the measure that the method warns by, in grey levels."""
        train, test = (
            tissue_pairs(number, split="eval", seed=seed, noise=NOISY, size=SIZE, first=first)
            for number, first in ((len(table.train.images), 0), (count, TRAIN))
        )
        images = table.protected(train=train)
        table.trained(f"clean{LOUD}", "limit", train, train.images, test=test, clean=train.images, epsilon=0)
        table.trained(f"method{LOUD}", "method", train.with_images(images), images, test=test, clean=train.images)
        return 255 * sensor_noise(
            train.images, regions(train.masks, int(train.masks.max()) + 1, table.method.band, table.method.side).support
        )

    def _counter_measures(self) -> list[str]:
        names = [name.strip() for name in self.counter_measures.split(",") if name.strip()]
        chosen(",".join(name for name in names if clean_share(name) is None), (*COUNTER_MEASURES, "clean10%"), "counter_measures")
        return names
