"""The proof of Click to Grasp on ground truth: does a click on a limb find the same limb of another critter, in a picture and in space,
and is it that limb that the gripper raises?

A scene is a reference picture of a critter with clicks on both arms, both legs and the head; a picture of another critter that faces the
camera within 60 degrees; and a table with two or three further critters and other things, seen by four cameras with depth. Arms are alike
in colour and shape, and so are legs. All numbers of a row are means over a scene's clicks, so that intervals are over scenes. Margins are
not asked for (`min_margin` 0): every click gets an answer.

- `@2d`, in the picture: `hit` the clicked part; `left_right` given that such a limb was hit; `pck`: within a tenth of the critter's box.
- bare names, in space: the found place lies within 2 cm of the clicked part of some critter; `left_right` by the part that is nearest.
- `@grasp`: both pads touch the clicked part of a critter and the quasi-static test raises it by more than 5 cm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.core.grippers import GRIPPERS
from calotype.core.scene_fields import SceneField, surface_points
from calotype.errors import InputError
from calotype.evaluation.base import Evaluation
from calotype.evaluation.critter_clicks import (
    LIMBS,
    UNKNOWN,
    Case,
    Colours,
    Remembering,
    Shuffled,
    TrueParts,
    judge_pixel,
    judge_point,
    mirrored,
    sample_case,
)
from calotype.evaluation.experiment import Experiment, ResultTable
from calotype.evaluation.report import Claim, Report, Role
from calotype.features.correspondence import standardized
from calotype.imaging.rgbd import RGBDScene
from calotype.imaging.types import Image
from calotype.methods.click_to_grasp import ClickToGrasp
from calotype.methods.click_to_grasp.correspond import correspond
from calotype.methods.click_to_grasp.grounding import Grounding, Part, describe, similarities
from calotype.world.critters.grasping import RAISED, lift
from calotype.world.critters.simulation import simulate_lift
from calotype.world.critters.views import CLICKED

SLUG = ClickToGrasp.slug
LEAST_SCENES = 30
"""Of five clicks each; fewer give no verdict."""
GRIPPER: Literal["wsg50-long"] = "wsg50-long"
"""Its fingers fit between a critter's limbs."""
SPREAD = 0.02
"""Metres: standard deviation of the score about a place that is grasped without features."""
Numbers = Mapping[str, float]
Answer = Callable[[Case, str], Numbers]


class ClickedScenes(Experiment):
    """Rows of answers to clicks."""

    def __init__(self, model: Any, method: ClickToGrasp, cases: Sequence[Case], seed: int, events: Events, simulator: str) -> None:
        super().__init__(seed, events)
        self.method, self.cases, self.simulator = method, cases, simulator
        self.model, self.colours = Remembering(model), Remembering(Colours())
        self._found: dict[tuple[int, str], Grounding | None] = {}

    def clicked(self, variant: str, role: Role, answer: Answer, parts: Sequence[str] = CLICKED) -> None:
        """A row: every metric's mean over the clicks of a scene."""
        rows = []
        for case in self.cases:
            rows.append(_mean(answer(case, part) for part in parts))
            self.events.step()
            self.events.check()
        self.add(variant, role, rows)

    def in_picture(self, model: Any, mix: float) -> Answer:
        """Answers in the target picture."""

        def answer(case: Case, part: str) -> Numbers:
            found = correspond(model, case.reference.image, case.reference.clicks[part], case.target.image, mix=mix, min_margin=0.0)
            x, y = found.points.coordinates[0].tolist()
            return judge_pixel(case, part, (x, y))

        return answer

    def in_scene(self, model: Callable[[Case], Any], method: ClickToGrasp, views: int | None = None) -> Answer:
        """Answers in space, by the first `views` cameras."""

        def answer(case: Case, part: str) -> Numbers:
            scene = case.views if views is None else RGBDScene(case.views.views[:views])
            try:
                found = method.ground(model(case), case.reference.image, case.reference.clicks[part], scene)
            except InputError:
                return {"within_2cm": 0.0, "distance_cm": UNKNOWN, "left_right": UNKNOWN}
            return judge_point(case, part, found.parts[0].point)

        return answer

    def grounding(self, case: Case, part: str) -> Grounding | None:
        """The method's own; None where it refuses."""
        key = (id(case), part)
        if key not in self._found:
            try:
                self._found[key] = self.method.ground(self.model, case.reference.image, case.reference.clicks[part], case.views)
            except InputError:
                self._found[key] = None
        return self._found[key]

    def own(self, case: Case, part: str) -> Numbers:
        """The method's answer in space."""
        found = self.grounding(case, part)
        if found is None:
            return {"within_2cm": 0.0, "distance_cm": UNKNOWN, "left_right": UNKNOWN, "margin": UNKNOWN}
        return {**judge_point(case, part, found.parts[0].point), "margin": found.margin}

    def flipped(self, case: Case, part: str) -> Numbers:
        """The answer to the same click on the mirrored reference: `flipped` is 1 if it is the other limb and 0 if it is the same one."""
        (x, y), width = case.reference.clicks[part], case.reference.part.shape[1]
        picture = Image(case.reference.image.pixels.flip(-1))
        found = correspond(self.model.model, picture, (width - x, y), case.target.image, mix=self.method.mix, min_margin=0.0)
        column, row = found.points.coordinates[0].tolist()
        return {"flipped": judge_pixel(case, mirrored(part), (column, row))["left_right"]}

    def unfused(self, case: Case, part: str) -> Numbers:
        """The one pixel of all views whose score is highest, and its depth."""
        place = case.reference.clicks[part]
        query = describe(self.model.maps(case.reference.image), case.reference.image.size, place)
        best, point = -torch.inf, torch.zeros(3)
        for view in case.views.views:
            vit, _, diffusion = similarities(query, self.model.maps(view.image), 0)
            score = sum(
                share * torch.nn.functional.interpolate(standardized(one)[None, None], size=view.size, mode="bilinear")[0, 0]
                for share, one in ((1 - self.method.mix, vit), (self.method.mix, diffusion))
            )
            assert isinstance(score, Tensor)
            score = score.masked_fill(~view.valid, -torch.inf)
            if float(score.max()) > best:
                best, point = float(score.max()), view.points().reshape(-1, 3)[score.argmax()]
        return judge_point(case, part, point)

    def anywhere(self, case: Case, part: str) -> Numbers:
        """A random surface point of the object that the method chose."""
        found = self.grounding(case, part)
        points = surface_points(SceneField(case.views.views), self.method.surface_step) if found is None else found.points
        rng = np.random.default_rng([self.seed, len(points), CLICKED.index(part)])
        return judge_point(case, part, points[int(rng.integers(len(points)))])

    def grasped(self, case: Case, part: str, grounding: Grounding | None) -> Numbers:
        """What becomes of the grasp at the best part."""
        nothing = {"right_and_raised": 0.0, "right": 0.0, "raised": 0.0, "free": 0.0}
        if grounding is None:
            return nothing
        try:
            best = self.method.grasp(case.views, grounding, seed=self.seed)
        except InputError:
            return nothing
        gripper = GRIPPERS[self.method.gripper]()
        tried = lift(case.things, gripper, best.pose, best.width)
        raised = tried.raised
        if self.simulator == "pybullet":
            raised = simulate_lift(case.things, gripper, best.pose, best.width)[0] > RAISED
        right = bool(tried.parts) and all(touched == part for touched in tried.parts)
        return {"right_and_raised": float(right and raised), "right": float(right), "raised": float(raised), "free": 1.0}

    def with_features(self, case: Case, part: str) -> Numbers:
        """The method's grasp."""
        return self.grasped(case, part, self.grounding(case, part))

    def geometry_alone(self, case: Case, part: str) -> Numbers:
        """A grasp at a random place of the same object."""
        found = self.grounding(case, part)
        if found is None:
            return self.grasped(case, part, None)
        rng = np.random.default_rng([self.seed, len(found.points), CLICKED.index(part)])
        return self.grasped(case, part, _about(found, found.points[int(rng.integers(len(found.points)))]))

    def true_parts(self, case: Case, part: str) -> Grounding:
        """By oracle features."""
        key = (id(case), f"true {part}")
        found = self._found.get(key)
        if found is None:
            found = self.method.ground(TrueParts(case), case.reference.image, case.reference.clicks[part], case.views)
            self._found[key] = found
        return found

    def by_true_parts(self, case: Case, part: str) -> Numbers:
        """The answer in space by oracle features."""
        return judge_point(case, part, self.true_parts(case, part).parts[0].point)

    def with_true_parts(self, case: Case, part: str) -> Numbers:
        """The grasp by oracle features."""
        return self.grasped(case, part, self.true_parts(case, part))


def _about(found: Grounding, place: Float[Tensor, 3]) -> Grounding:
    """The same object with a score that falls off around a place."""
    away = (found.points - place).norm(dim=-1)
    scores = standardized(torch.exp(-((away / SPREAD) ** 2) / 2))
    part = Part(place, float(scores.max()), (away < SPREAD).nonzero()[:, 0])
    return replace(found, scores=scores, parts=(part,))


def _mean(numbers: Iterable[Numbers]) -> dict[str, float]:
    """Of each metric over those clicks that have it."""
    rows = list(numbers)
    made = {}
    for name in rows[0]:
        known = [row[name] for row in rows if np.isfinite(row[name])]
        made[name] = float(np.mean(known)) if known else UNKNOWN
    return made


def claims(table: ResultTable) -> list[Claim]:
    """What is claimed; the bars were fixed before anything was measured."""
    return [
        Claim.at_least(
            "A: left and right are told apart, given that such a limb was hit: at least 0.85", table.mean("method@2d", "left_right"), 0.85,
        ),
        Claim.at_most("A: the vision transformer alone at most 0.6", table.mean("transformer@2d", "left_right"), 0.6),
        Claim.at_least("A: a mirrored reference gives the other limb: at least 0.85", table.mean("mirrored-reference@2d", "flipped"), 0.85),
        Claim.at_least("B: within 2 cm of the clicked part: at least 0.8", table.mean("method", "within_2cm"), 0.8),
        Claim.at_least("B: above a single view", table.difference("method", "single-view", "within_2cm"), 0.0),
        Claim.at_least("B: above the best pixel of unfused views", table.difference("method", "unfused", "within_2cm"), 0.0),
        Claim.at_least("B: oracle features find every part", table.mean("oracle", "within_2cm"), 1.0),
        Claim.at_least("C: the right part is held and raised by 5 cm: at least 0.6", table.mean("method@grasp", "right_and_raised"), 0.6),
        Claim.at_most("C: without features at most 0.27", table.mean("geometry-alone@grasp", "right_and_raised"), 0.27),
        Claim.at_most(
            "D: shuffled descriptors at most 0.1 above a random place", table.difference("shuffled", "random-place", "within_2cm"), 0.1
        ),
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClickToGraspEvaluation(Evaluation):
    """Does a click on a limb find the same limb of another critter, and does the gripper raise it there?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-critters"
    default_count: ClassVar[int] = 30
    quick_count: ClassVar[int] = 2

    simulator: Literal["quasi-static", "pybullet"] = "quasi-static"
    """What tries the grasps: the test on exact solids, or a simulator of rigid bodies (extra `sim`)."""

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        return self.report(self.load(device), seed=seed, scenes=self.scenes(count, quick), quick=quick, events=events)

    def report(self, model: Any, *, seed: int, scenes: int, quick: bool, events: Events) -> Report:
        """The whole table for a model of descriptors."""
        method = replace(ClickToGrasp.toy(), min_margin=0.0, min_similarity=0.0, gripper=GRIPPER)
        events.stage("make scenes", scenes)
        cases = []
        for index in range(scenes):
            cases.append(sample_case("eval", seed, index))
            events.step()
        table = ClickedScenes(model, method, cases, seed, events, self.simulator)
        events.stage("click", ROWS * scenes)
        few = LIMBS[:2]
        table.clicked("method@2d", "method", table.in_picture(table.model, method.mix))
        table.clicked("transformer@2d", "ablation", table.in_picture(table.model, 0.0))
        table.clicked("diffusion@2d", "ablation", table.in_picture(table.model, 1.0), few)
        table.clicked("colours@2d", "baseline", table.in_picture(table.colours, method.mix), few)
        table.clicked("mirrored-reference@2d", "ablation", table.flipped, LIMBS)
        table.clicked("method", "method", table.own)
        table.clicked("single-view", "ablation", table.in_scene(lambda _: table.model, method, views=1))
        table.clicked("unfused", "baseline", table.unfused)
        table.clicked("shuffled", "ablation", table.in_scene(lambda case: Shuffled(table.model, case.reference.image, seed), method), few)
        table.clicked("random-place", "baseline", table.anywhere, few)
        table.clicked("oracle", "ceiling", table.by_true_parts, few)
        table.clicked("method@grasp", "method", table.with_features)
        table.clicked("geometry-alone@grasp", "baseline", table.geometry_alone, few)
        table.clicked("oracle@grasp", "ceiling", table.with_true_parts, few)
        notes = [
            "diffusion@2d, colours@2d, shuffled, random-place, oracle, geometry-alone and oracle@grasp are clicked on the two arms alone"
        ]
        if quick or scenes < LEAST_SCENES:
            what = "a quick look" if quick else f"{scenes} scenes"
            return table.report(SLUG, scenes, model, notes=[*notes, f"{what}: too few for a verdict; {LEAST_SCENES} scenes are the least"])
        return table.report(SLUG, scenes, model, claims(table), notes)


ROWS = 14
"""For which clicks are answered."""
