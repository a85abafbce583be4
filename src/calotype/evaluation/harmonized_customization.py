"""The proof of harmonized customization on ground truth: does the pose come from the prompt, and do the looks come from the subject.

Each scene has a creature that no training saw. Its subject picture shows it in pose A on a plain ground; the prompt asks for another pose B
and a ground. `calotype.world.creatures.recogniser` measures pictures against rendered poses; it knows neither A, B nor the subject.

- `pose_accuracy` and `pose_copy_rate`: the pose found is B, or A; shares of the pictures in which a creature is found at all.
- `not_found`: share of pictures without a creature. `prompt_accuracy`: a creature in pose B on the prompt's ground, of all pictures.
- `identity_error`: mean CIE 1976 distance of the three part colours from the subject's; `texture_accuracy`, `head_accuracy`: the rest of
  the identity. All three over found creatures.

Rows: `method` (projection and swap), `concatenation` (the plain model), `projection` and `swap-only` (one of the two), `text-only`,
`visual-only`, `half-scale` (visual rows times 0.5), `random-subspace` (the projection's control, of the same rank), `wrong-identity` (the
auxiliary run sees another creature). All rows see the same scenes, noise and steps. The last rows move one switch of `projection` or
`method` on the first scenes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from calotype.backbones.subject import SubjectToImage
from calotype.core.events import SILENT, Events
from calotype.evaluation.base import Evaluation
from calotype.evaluation.experiment import Experiment, ResultTable, pieces
from calotype.evaluation.report import Claim, Report, Role
from calotype.imaging.types import Image
from calotype.methods.harmonized_customization import HarmonizedCustomization
from calotype.metrics import Interval, bootstrap, difference
from calotype.world import paint
from calotype.world.creatures.drawing import POSES, CreatureScene, on_plain_ground, sample_creature
from calotype.world.creatures.recogniser import CreatureRecognition, identity_distance, recognise_creatures

SLUG = HarmonizedCustomization.slug
COUNT, FEW = 100, 24
BATCH = 10
VISIBLE = 2.3
"""The least CIE 1976 distance that a person sees."""
PLAIN: dict[str, Any] = {"eta": 0.0, "swap": "off"}
"""The settings of the plain model."""
MAIN = ("method", "concatenation", "projection", "random-subspace")
"""Rows over all scenes; the others see the first `FEW`."""


@dataclass(frozen=True, eq=False)
class PoseChange:
    """A creature in pose A, and a prompt for pose B."""

    subject: CreatureScene
    """In pose A, on the prompt's ground; its subject picture is on a plain one."""
    wanted: str
    """Pose B."""

    @classmethod
    def of(cls, split: str, seed: int, index: int) -> PoseChange:
        """Scene `index` of the stream; the pose asked for is one of the five others."""
        scene = sample_creature(split=split, seed=seed, index=index)
        others = [pose for pose in POSES if pose != scene.creature.pose]
        return cls(scene, others[np.random.default_rng(np.random.SeedSequence([seed, index, 5])).integers(len(others))])

    @cached_property
    def picture(self) -> Image:
        """The subject picture."""
        return Image(paint([on_plain_ground(self.subject)])[0])

    @property
    def prompt(self) -> str:
        """Pose and ground, without the creature."""
        words = sample_creature(split=self.subject.split, seed=self.subject.seed, index=self.subject.index, pose=self.wanted).caption
        return words.removeprefix("a creature ")

    def measure(self, seen: CreatureRecognition) -> dict[str, float]:
        """The metrics of one picture; NaN where no creature is found."""
        found, look = seen.creature, self.subject.creature.look
        ground = seen.background == self.subject.background.name
        if found is None:
            missing = dict.fromkeys(("pose_accuracy", "pose_copy_rate", "identity_error", "texture_accuracy", "head_accuracy"), math.nan)
            return {**missing, "not_found": 1.0, "prompt_accuracy": 0.0, "background_accuracy": float(ground)}
        return {
            "pose_accuracy": float(found.pose == self.wanted),
            "pose_copy_rate": float(found.pose == self.subject.creature.pose),
            "identity_error": identity_distance(found, look),
            "texture_accuracy": float(found.look.texture == look.texture),
            "head_accuracy": float(found.look.shape == look.shape),
            "not_found": 0.0,
            "prompt_accuracy": float(found.pose == self.wanted and ground),
            "background_accuracy": float(ground),
        }


class PoseExperiment(Experiment):
    """Runs variants on cases."""

    def __init__(self, model: SubjectToImage, settings: HarmonizedCustomization, seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.model, self.settings = model, settings

    def run(self, variant: str, role: Role, some: Sequence[PoseChange], *, wrong: bool = False, **changes: Any) -> None:
        """One row: a picture for each case, measured."""
        method = dataclasses.replace(self.settings, **changes)

        def make(batch: Sequence[PoseChange], events: Events) -> Iterable[dict[str, float]]:
            start, listener = some.index(batch[0]), Listener(events)
            others = [some[(start + i + 1) % len(some)].picture for i in range(len(batch))] if wrong else None
            pixels = method.generate(
                self.model, [case.picture for case in batch], [case.prompt for case in batch], word=self.model.subject_word,
                auxiliary=others, seed=self.seed + start, events=listener,
            )  # fmt: skip
            seen = recognise_creatures(pixels.cpu())
            return [{**case.measure(one), **listener.numbers} for case, one in zip(batch, seen, strict=True)]

        self.measured(variant, role, pieces(some, BATCH), make, lambda _, found: found)

    def limit(self, some: Sequence[PoseChange]) -> None:
        """The answer itself through the autoencoder: what the recogniser makes of the best that any method on these latents can do."""
        answers = paint([sample_creature(split=c.subject.split, seed=c.subject.seed, index=c.subject.index, pose=c.wanted) for c in some])
        pixels = self.model.decode(self.model.encode(answers)).cpu()
        seen = recognise_creatures(pixels)
        self.add("autoencoder", "ceiling", [case.measure(one) for case, one in zip(some, seen, strict=True)])


class Listener(Events):
    """Keeps the projection's numbers and passes on the rest that an experiment asks for."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.numbers: dict[str, float] = {}

    def metric(self, name: str, value: float) -> None:
        """Keep `projected_...`."""
        if name.startswith("projected"):
            self.numbers[name] = value
        else:
            self._events.metric(name, value)

    def check(self) -> None:
        """Pass on."""
        self._events.check()


def run_rows(test: PoseExperiment, some: Sequence[PoseChange]) -> None:
    """The method, its baselines, its controls, and single switches."""
    few = some[:FEW]
    test.run("method", "method", some)
    test.run("concatenation", "baseline", some, **PLAIN)
    test.run("projection", "ablation", some, swap="off")
    test.run("random-subspace", "ablation", some, swap="off", subspace="random")
    test.run("swap-only", "ablation", few, eta=0.0)
    test.run("text-only", "baseline", few, **PLAIN, conditioning="text")
    test.run("visual-only", "baseline", few, **PLAIN, conditioning="visual")
    test.run("half-scale", "baseline", few, **PLAIN, visual_scale=0.5)
    test.run("wrong-identity", "limit", few, wrong=True)
    test.run("projection@eta-0.5", "ablation", few, swap="off", eta=0.5)
    test.run("projection@input", "ablation", few, swap="off", level="input")
    test.run("projection@all-rows", "ablation", few, swap="off", span="all", special_rows=True)
    whole: dict[str, Any] = {"swap": "kv", "subject_mask": "off"}
    test.run("method@kv", "ablation", few, **whole)
    test.run("wrong-identity@kv", "limit", few, wrong=True, **whole)
    test.run("method@early-swap", "ablation", few, swap_start=0.0)
    test.limit(few)


def claims(table: ResultTable) -> list[Claim]:
    """Each claim must hold at the unfavourable end of its 90 % bootstrap interval over scenes in which both pictures show a creature."""

    def gap(metric: str, ours: str, theirs: str) -> Interval:
        first, second = table.of(ours, metric), table.of(theirs, metric)
        count = min(len(first), len(second))
        return bootstrap(difference, first[:count], second[:count])

    return [
        Claim.at_least("projection: fall of the pose-copy rate", gap("pose_copy_rate", "concatenation", "projection"), 0.15),
        Claim.at_most(
            "a random subspace of the same rank: fall of the rate", gap("pose_copy_rate", "concatenation", "random-subspace"), 0.15
        ),
        Claim.at_least("projection: gain in pose accuracy", gap("pose_accuracy", "projection", "concatenation"), 0.10),
        Claim.at_most("projection: more pictures without a creature, share", gap("not_found", "projection", "concatenation"), 0.05),
        Claim.at_most("method: identity error over concatenation's", gap("identity_error", "method", "concatenation"), 0.0),
        Claim.at_least(
            "a wrong identity's auxiliary run: rise of the identity error", gap("identity_error", "wrong-identity", "method"), VISIBLE
        ),
    ]


def measure(
    model: SubjectToImage,
    *,
    seed: int,
    count: int = COUNT,
    split: str = "eval",
    settings: HarmonizedCustomization | None = None,
    events: Events = SILENT,
) -> Report:
    """The whole experiment on a model.

    Args:
        model: a model of 64 px that knows creatures.
        seed: of scenes and noise.
        count: scenes of the main rows; the others have at most `FEW`.
        split: `eval`, or `tune` for whoever chooses settings.
        settings: the method; `HarmonizedCustomization.toy()` by default.
        events: hears one step per picture.
    """
    test = PoseExperiment(model, settings or HarmonizedCustomization.toy(), seed, events)
    some = [PoseChange.of(split, seed, index) for index in range(count)]
    events.stage(f"evaluate {SLUG}", len(MAIN) * count + 11 * min(count, FEW))
    run_rows(test, some)
    notes = ["This is a reconstruction: the paper has no public code and no numbers that could be compared with these."]
    return test.report(SLUG, count, model, claims(test), notes)


@dataclass(frozen=True, kw_only=True)
class HarmonizedCustomizationEvaluation(Evaluation):
    """Does the pose come from the prompt, and do the looks come from the subject?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-subject"
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = 4

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        return measure(self.load(device), seed=seed, count=self.scenes(count, quick), events=events)
