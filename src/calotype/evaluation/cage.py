"""The proof of CAGE on ground truth: do sprites go where they are told to, come where they are put, and push each other?

Scenes are of the collisions world, which toy-cage was trained on; the judge finds sprites by templates (`recognise_sprites`) and counts
one only if its identity is right. Three experiments on unseen scenes:

- bare names: a picture is given and a sprite's cells are moved by two cells (16 to 18 px) in three frames. A hit is its identity within one
  cell (8 px) of where it was told to go. Beside the strict rate stands where its template fits best, found or not (`location_hit`).
- `@compose`: one to three sprites of as many pictures on an empty canvas; found within one cell and a half. `-one-ground`: the pictures
  have the same ground, so that the sprites' features don't tell different ones.
- `@collision`, `@no-collision`: two sprites at rest for three frames; one is moved into the other, or at a right angle to that. Without
  guidance.

`whole-frames`, ...: a model that was trained without random crops, where one is given.

Further rows: `@rollout`, frame after frame with times of their own, against a network that receives one time for all; `@far` and
`@enlarged`, a sprite that is put across the picture, or whose features are of a picture in which it is half as large again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from calotype.backbones.composable_video import ComposableVideo
from calotype.backbones.loading import load
from calotype.core.events import SILENT, Events
from calotype.evaluation.base import Evaluation
from calotype.evaluation.cage_cases import FRAMES, Asked, Placed, animations, collisions, compositions
from calotype.evaluation.experiment import LEAST_SCENES, CallCounter, Experiment, ResultTable, pieces
from calotype.evaluation.report import Claim, Report, Role
from calotype.methods.cage.crops import Crops
from calotype.methods.cage.method import CAGE
from calotype.methods.cage.sampling import Controls
from calotype.world.collisions import FoundSprite, judge_accuracy, locate_sprites, recognise_sprites

SLUG = CAGE.slug
CELL = 8.0
"""Side of a cell in pixels."""
NEAR_PLACE = 1.5
"""Cells from where a composed sprite was put."""
MOVED = 4.0
"""Pixels from its place from which on a sprite at rest counts as moved."""
SEEDS = 1 << 32
"""Seeds of noise that there are."""
BATCH = 32
ENLARGED = 1.5
ROWS = 15
"""For which frames are made."""
CROPLESS = ("method", "method@compose", "method@far", "method@enlarged")
"""Of them, those that are also made with a model that was trained without random crops."""
JUDGED = 64
"""Scenes that the judge's own figures are of."""


class OneTime(ComposableVideo):
    """The same model, whose network is told the mean of the frames' times in place of each one's own."""

    @classmethod
    def of(cls, model: ComposableVideo) -> OneTime:
        """Shares the networks."""
        facts = {"size": list(model.size), "targets": model.targets, "stride": model.stride, "feature_layers": model.feature_layers}
        return cls(model.source, model.modules, device=model.device, facts=facts, max_rows=model.max_rows)

    def velocity(
        self, latents: Float[Tensor, "batch frames channels height width"], offsets: Int[Tensor, "batch frames"],
        times: Float[Tensor, "batch frames"], features: Float[Tensor, "batch targets numbers rows columns"],
        given: Float[Tensor, "batch targets rows columns"],
    ) -> Float[Tensor, "batch targets channels height width"]:  # fmt: skip
        """See `ComposableVideo.velocity`."""
        known, targets = times[:, : -self.targets], times[:, -self.targets :]
        return super().velocity(latents, offsets, torch.cat([known, targets.mean(1, keepdim=True).expand_as(targets)], 1), features, given)


def controls_of(method: CAGE, model: ComposableVideo, cases: Sequence[Asked]) -> Controls:
    """Of every case, in its order."""
    made = [method.controls(model, [(placed.command, placed.source.picture) for placed in case.placed], FRAMES) for case in cases]
    return Controls(*(torch.cat(parts) for parts in zip(*made, strict=True)))


def without(controls: Controls) -> Controls:
    """The same with no cell given."""
    return Controls(controls.features, torch.zeros_like(controls.given))


def turned(controls: Controls, count: int = 1) -> Controls:
    """Another case's features and cells for each one."""
    return Controls(*(part.roll(count, 0) for part in controls))


def wrong_objects(cases: Sequence[Asked]) -> list[Asked]:
    """For each animation the next case's sprite whose identity its scene doesn't have, sent the same way."""
    made = []
    for number, case in enumerate(cases):
        assert case.scene is not None
        known = {sprite.identity for sprite in case.scene.sprites}
        others = (cases[(number + step) % len(cases)].placed[0].source for step in range(1, len(cases)))
        other = next((source for source in others if source.sprite.identity not in known), case.placed[0].source)
        made.append(replace(case, placed=(Placed(other, case.placed[0].path),)))
    return made


def enlarged(cases: Sequence[Asked], model: ComposableVideo) -> Controls:
    """Controls of single sprites by features of views in which they are larger, brought back to their own cells."""
    made = [_of_view(case.placed[0], model) for case in cases]
    return Controls(*(torch.cat(parts) for parts in zip(*made, strict=True)))


def _of_view(placed: Placed, model: ComposableVideo) -> Controls:
    sprite, side = placed.source.sprite, float(model.size[0])
    shift = torch.tensor([[sprite.x, sprite.y]]) * 2.0 / side - 1.0
    crop = Crops(torch.full((1, 2), 1.0 / ENLARGED), shift * (1.0 - 1.0 / ENLARGED))
    known = crop.paste(model.features(crop.view(placed.source.picture[None])).float())[0]
    rows, columns = model.grid
    features, given = torch.zeros(1, FRAMES, len(known), rows, columns), torch.zeros(1, FRAMES, rows, columns)
    for frame in range(1, FRAMES + 1):
        for source, target in placed.command.at(frame, model.grid):
            features[0, frame - 1, :, target[0], target[1]] = known[:, source[0], source[1]]
            given[0, frame - 1, target[0], target[1]] = 1.0
    return Controls(features, given)


class ComposedScenes(Experiment):
    """Rows of made frames, judged against what was asked for."""

    def __init__(self, model: ComposableVideo, method: CAGE, seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.model, self.method = model, method

    def make(
        self, cases: Sequence[Asked], controls: Controls, *, method: CAGE | None = None, model: ComposableVideo | None = None
    ) -> Tensor:
        """The last frame of each case, [N, 3, H, W]."""
        made = []
        for part in pieces(range(len(cases)), BATCH):
            first, known = part[0], [cases[number].known for number in part]
            given = None if known[0] is None else torch.stack([frames for frames in known if frames is not None])
            seeds = [(self.seed * 10_000 + number) % SEEDS for number in part]
            some = Controls(*(each[first : first + len(part)] for each in controls))
            clip = (method or self.method).generate(model or self.model, given, some, seeds=seeds, events=CallCounter(self.events))
            made.append(clip[:, -1].clamp(0, 1))
            self.events.step(len(part))
            self.events.check()
        return torch.cat(made)

    def animated(self, variant: str, role: Role, cases: Sequence[Asked], frames: Tensor) -> None:
        """A row of sprites that were told to go somewhere."""
        best = locate_sprites(frames, torch.tensor([case.placed[0].source.sprite.identity for case in cases]))
        found = zip(cases, recognise_sprites(frames), best.tolist(), strict=True)
        self.add(variant, role, [self.reached(case, sprites, (place[0], place[1])) for case, sprites, place in found])

    def reached(self, case: Asked, found: Sequence[FoundSprite], best: tuple[float, float]) -> dict[str, float]:
        """One sprite against where it was told to go."""
        placed = case.placed[0]
        sprite, goal = placed.source.sprite, placed.goal(self.model.grid)
        own = [one for one in found if one.identity == sprite.identity]
        error = min((_away(one, goal) for one in own), default=float("nan"))
        return {
            "hit": float(error < CELL), "near_hit": float(error < CELL / 2),
            "location_hit": float(np.hypot(best[0] - goal[0], best[1] - goal[1]) < CELL), "found": float(bool(own)), "error_px": error,
            "stayed": float(any(_away(one, (sprite.x, sprite.y)) < CELL for one in own)),
        }  # fmt: skip

    def composed(self, variant: str, role: Role, cases: Sequence[Asked], frames: Tensor) -> None:
        """A row of sprites that were put on an empty canvas."""
        self.add(variant, role, [self.present(case, found) for case, found in zip(cases, recognise_sprites(frames), strict=True)])

    def present(self, case: Asked, found: Sequence[FoundSprite]) -> dict[str, float]:
        """One composed picture against what was asked of it."""
        limit, grid = NEAR_PLACE * CELL, self.model.grid
        right, anything = [], []
        for placed in case.placed:
            near = [one for one in found if _away(one, placed.goal(grid)) < limit]
            anything.append(bool(near))
            right.append(any(one.identity == placed.source.sprite.identity for one in near))
        share, wanted = float(np.mean(right)), len(case.placed)
        of = {f"found_of_{number}": share if number == wanted else float("nan") for number in (1, 2, 3)}
        return {"found": share, **of, "any_sprite": float(np.mean(anything)), "count": len(found), "count_error": abs(len(found) - wanted)}

    def collided(self, variant: str, role: Role, cases: Sequence[Asked], frames: Tensor) -> None:
        """A row of sprites at rest beside one that is moved."""
        rows = []
        for case, found in zip(cases, recognise_sprites(frames), strict=True):
            assert case.scene is not None
            hit = case.scene.sprites[1]
            away = min((_away(one, (hit.x, hit.y)) for one in found if one.identity == hit.identity), default=float("nan"))
            known = bool(np.isfinite(away))
            rows.append({
                "moved": float(known and away > MOVED), "moved_or_lost": float(not known or away > MOVED), "lost": float(not known),
                "away_px": away, "hitter_hit": self.reached(case, found, (float("nan"), float("nan")))["hit"],
            })  # fmt: skip
        self.add(variant, role, rows)


def _away(found: FoundSprite, place: tuple[float, float]) -> float:
    return float(np.hypot(found.x - place[0], found.y - place[1]))


def move(table: ComposedScenes, split: str, count: int, *, brief: bool = False) -> None:
    """The rows of sprites that are moved; `brief` makes the method's alone."""
    model, method = table.model, table.method
    cases = animations(split, table.seed, count, model.grid)
    controls = controls_of(method, model, cases)
    table.animated("method", "method", cases, table.make(cases, controls))
    if brief:
        return
    table.animated("copy-first-frame", "baseline", cases, torch.stack([case.placed[0].source.picture for case in cases]))
    table.animated("no-control", "ablation", cases, table.make(cases, without(controls)))
    table.animated("wrong-object", "ablation", cases, table.make(cases, controls_of(method, model, wrong_objects(cases))))
    table.animated("permuted", "ablation", cases, table.make(cases, turned(controls)))
    table.animated("no-guidance", "ablation", cases, table.make(cases, controls, method=replace(method, control_guidance=0.0)))
    rollout = replace(method, chunk="rollout")
    table.animated("method@rollout", "method", cases, table.make(cases, controls, method=rollout))
    table.animated("one-time@rollout", "ablation", cases, table.make(cases, controls, method=rollout, model=OneTime.of(model)))


def compose(table: ComposedScenes, split: str, count: int, *, brief: bool = False) -> None:
    """The rows of composed scenes; `brief` makes the method's alone."""
    model, method = table.model, table.method
    cases = compositions(split, table.seed, count, model.grid)
    controls = controls_of(method, model, cases)
    table.composed("method@compose", "method", cases, table.make(cases, controls))
    if brief:
        return
    alike = compositions(split, table.seed, count, model.grid, one_ground=True)
    table.composed("method@compose-one-ground", "method", alike, table.make(alike, controls_of(method, model, alike)))
    table.composed("no-control@compose", "ablation", cases, table.make(cases, without(controls)))
    table.composed("permuted@compose", "ablation", cases, table.make(cases, turned(controls)))
    shift(table, split, count)


def shift(table: ComposedScenes, split: str, count: int) -> None:
    """The rows of single sprites that are put far from where they were, or whose features are of a larger view."""
    model = table.model
    cases = compositions(split, table.seed, count, model.grid, most=1, far=True)
    table.composed("method@far", "method", cases, table.make(cases, controls_of(table.method, model, cases)))
    table.composed("method@enlarged", "method", cases, table.make(cases, enlarged(cases, model)))


def collide(table: ComposedScenes, split: str, count: int) -> None:
    """The rows of sprites that are hit, and of the same ones where nothing hits them. Guidance makes what isn't controlled fade: none."""
    plain = replace(table.method, control_guidance=0.0)
    for variant, hit in (("method@collision", True), ("method@no-collision", False)):
        cases = collisions(split, table.seed, count, table.model.grid, hit=hit)
        table.collided(variant, "method", cases, table.make(cases, controls_of(plain, table.model, cases), method=plain))


def claims(table: ResultTable) -> list[Claim]:
    """What is claimed; the bars were fixed before anything was measured."""
    return [
        Claim.at_least("a sprite that is told to go comes within one cell: at least 0.8", table.mean("method", "hit"), 0.8),
        Claim.at_most("without controls at most 0.15", table.mean("no-control", "hit"), 0.15),
        Claim.at_most("with a wrong object's features at most 0.15", table.mean("wrong-object", "hit"), 0.15),
        Claim.at_most("with features and cells of other scenes at most 0.15", table.mean("permuted", "hit"), 0.15),
        Claim.at_least("composed sprites are found within 1.5 cells: at least 0.7", table.mean("method@compose", "found"), 0.7),
        Claim.at_least("a sprite that is hit moves: in at least 0.6", table.mean("method@collision", "moved"), 0.6),
        Claim.at_most(
            "and without a hit in at most 0.2, lost ones counted as moved", table.mean("method@no-collision", "moved_or_lost"), 0.2
        ),
        Claim.at_least(
            "frame after frame works with times of their own only: hits at least 0.2 above one time for all",
            table.difference("method@rollout", "one-time@rollout", "hit"), 0.2,
        ),
    ]  # fmt: skip


def model_figures(folder: Path | str, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
    """What a model's gates are about, on the split `tune`."""
    model, scenes = load(str(folder), device=device), count or 64
    table = ComposedScenes(model, CAGE.toy(), seed, events)
    move(table, "tune", scenes, brief=True)
    compose(table, "tune", scenes, brief=True)
    cases = animations("tune", seed, scenes, model.grid)
    table.animated("no-control", "ablation", cases, table.make(cases, without(controls_of(table.method, model, cases))))
    return {
        "hit_rate": table.mean("method", "hit").value, "location_hit_rate": table.mean("method", "location_hit").value,
        "hit_rate_without_control": table.mean("no-control", "hit").value, "composed": table.mean("method@compose", "found").value,
        "count_error": table.mean("method@compose", "count_error").value,
    }  # fmt: skip


def crops(table: ComposedScenes, other: ComposableVideo, split: str, count: int) -> list[Claim]:
    """The rows of a model that was trained without random crops, and what is claimed of crops."""
    beside = ComposedScenes(other, table.method, table.seed, table.events)
    move(beside, split, count, brief=True)
    compose(beside, split, count, brief=True)
    shift(beside, split, count)
    for variant in CROPLESS:
        table.add(variant.replace("method", "whole-frames"), "ablation", beside.scenes(variant))
    gains = {
        "put across the picture": table.difference("method@far", "whole-frames@far", "found"),
        "by features of a larger view": table.difference("method@enlarged", "whole-frames@enlarged", "found"),
    }
    return [
        Claim.at_least(f"training with random crops: sprites {what} are found more often by", gain, 0.0) for what, gain in gains.items()
    ]


@dataclass(frozen=True, kw_only=True)
class CAGEEvaluation(Evaluation):
    """Do sprites go where they are told to, come where they are put, and push each other?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-cage"
    default_count: ClassVar[int] = 64
    quick_count: ClassVar[int] = 4

    whole_frames: str = ""
    """A checkpoint that was trained without random crops (`calotype train cage --whole-views 1`), whose rows then stand beside."""

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        model, method = self.load(device), CAGE.toy()
        scenes = self.scenes(count, quick)
        table = ComposedScenes(model, method, seed, events)
        events.stage("judge true pictures", 1)
        judged = _judge_rows(table, model, seed, min(JUDGED, 4 * scenes))
        events.step()
        events.stage("make frames", (ROWS + (len(CROPLESS) if self.whole_frames else 0)) * scenes)
        move(table, "eval", scenes)
        compose(table, "eval", scenes)
        collide(table, "eval", scenes)
        cropped = crops(table, load(self.whole_frames, device=device), "eval", scenes) if self.whole_frames else []
        notes = [judged]
        if quick or scenes < LEAST_SCENES:
            few = "a quick look" if quick else f"{scenes} scenes"
            return table.report(SLUG, scenes, model, notes=[*notes, f"{few}: too few for a verdict; {LEAST_SCENES} scenes are the least"])
        return table.report(SLUG, scenes, model, [*claims(table), *cropped], notes)


def _judge_rows(table: ComposedScenes, model: ComposableVideo, seed: int, count: int) -> str:
    """Rows of the judge on true pictures and on the autoencoder's reconstructions of them."""
    for variant, through in (("judge", None), ("judge@autoencoder", lambda pictures: model.decode(model.encode(pictures)).clamp(0, 1))):
        table.add(variant, "ceiling", [judge_accuracy(seed, count, through=through)])
    return f"the judge's rows are shares over {count} scenes"
