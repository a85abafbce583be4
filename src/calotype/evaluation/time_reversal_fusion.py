"""The proof of Time Reversal Fusion on ground truth: does it reach the end picture, on the true path, with one object; where does it fail.

Three experiments, on the embedded model and on an exact one (`@exact`: the posterior mean over rendered clips, a perfect model of them):

- T1 (bare names): motion that looks the same backwards. The method must beat plain image-to-video, a cross-fade and a cut.
- T2 (`@directed`): the same paths by things that always go nose-first. The method must fail here: its backward path, too, goes nose-first.
- T3 (`@loop`): the same picture at both ends. The clip must close, and move.

Every row sees the same scenes, noise, frame rate, motion bucket and steps, and no caption; nothing is taken from the truth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.core.roles import ImageToVideo
from calotype.core.timetravel import Reinject
from calotype.evaluation.base import Evaluation
from calotype.evaluation.baselines import cross_fade, cut, image_to_video
from calotype.evaluation.experiment import CallCounter, Experiment, ResultTable, pieces
from calotype.evaluation.pairs import FRAMES, SIZE, Pair, at_end, bank_of, directed_twin, symmetric_pairs
from calotype.evaluation.report import Claim, Report, Role
from calotype.imaging.types import Image, Video
from calotype.methods.time_reversal_fusion import TimeReversalFusion
from calotype.metrics import Interval, bootstrap, difference, psnr, ratio, rmse
from calotype.world import PRESETS
from calotype.world.scenes.exact import ExactImageToVideo

SLUG = TimeReversalFusion.slug
COUNT = 24
BATCH = 6
"""Pairs that are sampled together."""
EXACT_SIZE = 32
"""Side in pixels of the exact model's clips."""
EXACT_BANK = 384
"""Rendered clips in the bank of each picture."""

Clips = list[Float[Tensor, "frames 3 height width"]]
Maker = Callable[[Sequence[Pair], int, Events], Clips]
"""Makes the clips of some pairs with the noise of that seed."""


class PairExperiment(Experiment):
    """Runs variants on pairs."""

    def run(
        self,
        variant: str,
        role: Role,
        pairs: Sequence[Pair],
        make: Maker,
        measure: Callable[[Pair, Tensor], dict[str, float]] = Pair.measure,
        batch: int = BATCH,
    ) -> None:
        """One row: the clips of all pairs, measured."""
        self.measured(variant, role, pieces(pairs, batch), lambda some, events: make(some, self.seed + some[0].index, events), measure)


def _frames(videos: Sequence[Video]) -> Clips:
    return [video.frames for video in videos]


def fused(model: ImageToVideo, settings: TimeReversalFusion, loop: bool = False) -> Maker:
    """The method, on the pairs or on loops from their start pictures."""

    def make(pairs: Sequence[Pair], seed: int, events: Events) -> Clips:
        starts = [pair.start for pair in pairs]
        ends = starts if loop else [pair.end for pair in pairs]
        return _frames(settings.between(model, starts, ends, seed=seed, events=events))

    return make


def continued(model: ImageToVideo, settings: TimeReversalFusion, replace_last: bool = False, captions: bool = False) -> Maker:
    """Plain image-to-video from the start pictures, or with the last frame replaced at every step; told the scenes' captions or not."""

    def make(pairs: Sequence[Pair], seed: int, events: Events) -> Clips:
        starts, ends = [pair.start for pair in pairs], [pair.end for pair in pairs] if replace_last else None
        prompts = [pair.scene.caption for pair in pairs] if captions else ()
        return _frames(image_to_video(model, settings, starts, ends, prompts=prompts, seed=seed, events=events))

    return make


def fixed(make: Callable[[Image, Image, int], Tensor]) -> Maker:
    """A clip that needs no model."""
    return lambda pairs, seed, events: [make(pair.start, pair.end, FRAMES) for pair in pairs]


def loop_measure(model: ImageToVideo) -> Callable[[Pair, Tensor], dict[str, float]]:
    """Metrics of a loop: how far its last frame is from its first, beside the autoencoder's own error, and how far the object goes."""

    def measure(pair: Pair, frames: Float[Tensor, "frames 3 size size"]) -> dict[str, float]:
        rebuilt = model.decode(model.encode(pair.clip[:1]), 1.0).frames[0]
        found = pair.follow(frames)
        away = np.linalg.norm(found.centroids[1:-1] - found.centroids[0], axis=1)
        return {
            "start_psnr_db": psnr(frames[0], pair.clip[0]).item(),
            "loop_rmse": rmse(frames[-1], frames[0]).item(),
            "autoencoder_rmse": rmse(rebuilt, pair.clip[0]).item(),
            "motion_px": float(away[np.isfinite(away)].mean() if np.isfinite(away).any() else 0.0) * SIZE / pair.size,
        }

    return measure


def main_rows(
    test: PairExperiment, model: ImageToVideo, settings: TimeReversalFusion, pairs: Sequence[Pair], at: str = "", batch: int = BATCH
) -> None:
    """T1: the method, its baselines and its ablations."""
    bare = dataclasses.replace(settings, reinject=Reinject(repeats=0))
    test.run("method" + at, "method", pairs, fused(model, settings))
    test.run("image-to-video" + at, "baseline", pairs, continued(model, settings))
    test.run("crossfade" + at, "baseline", pairs, fixed(cross_fade))
    test.run("cut" + at, "baseline", pairs, fixed(cut))
    test.run("replace-last" + at, "baseline", pairs, continued(model, settings, replace_last=True))
    test.run("no-reinjection" + at, "ablation", pairs, fused(model, bare))
    test.run("sequential" + at, "ablation", pairs, fused(model, dataclasses.replace(bare, fusion="sequential")))


def trained_rows(test: PairExperiment, model: ImageToVideo, settings: TimeReversalFusion, pairs: Sequence[Pair], nosed: str) -> None:
    """T1, T2 and T3 on a trained model."""
    main_rows(test, model, settings, pairs)
    straight = [pair for pair in pairs if pair.family == "straight"]
    test.run("method@directed", "limit", [directed_twin(pair, nosed) for pair in straight], fused(model, settings))
    loops = straight
    measure = loop_measure(model)
    test.run("method@loop", "method", loops, fused(model, settings, loop=True), measure)
    test.run("image-to-video@loop", "baseline", loops, continued(model, settings), measure)
    test.run("frozen@loop", "baseline", loops, fixed(lambda start, _, frames: cut(start, start, frames)), measure)


def exact_rows(test: PairExperiment, settings: TimeReversalFusion, pairs: Sequence[Pair], nosed: str, bank: int = EXACT_BANK) -> None:
    """T1, T2 and T3 on an exact model of each pair: banks of clips that start with its first and with its last picture."""
    found: dict[str, tuple[Role, list[dict[str, float]]]] = {}

    def keep(test_of_one: PairExperiment) -> None:
        for row in test_of_one.rows:
            found.setdefault(row.variant, (row.role, []))[1].extend(test_of_one.scenes(row.variant))

    for pair in pairs:
        small = Pair(pair.scene, pair.index, EXACT_SIZE)
        one = PairExperiment(test.seed, CallCounter(test.events))
        model = exact_model(small, bank)
        main_rows(one, model, settings, [small], "@exact")
        loop, measure = ExactImageToVideo([model.banks[0]]), loop_measure(model)
        one.run("method@exact-loop", "method", [small], fused(loop, settings, loop=True), measure)
        one.run("image-to-video@exact-loop", "baseline", [small], continued(loop, settings), measure)
        if pair.family == "straight":
            twin = directed_twin(small, nosed)
            one.run("method@exact-directed", "limit", [twin], fused(exact_model(twin, bank), settings))
        keep(one)
        test.events.step(1)
        test.events.check()
    for variant, (role, numbers) in found.items():
        test.add(variant, role, numbers)


def exact_model(pair: Pair, bank: int = EXACT_BANK) -> ExactImageToVideo:
    """What a perfect model knows of a pair: all that may follow its first and its last picture."""
    first = pair.scene.objects[0]
    return ExactImageToVideo([bank_of(pair, thing, bank, seed=0) for thing in (first, at_end(first))])


def claims(table: ResultTable, exact: bool = False) -> list[Claim]:
    """The claims, with bars fixed beforehand; each is decided by the 90 % bootstrap interval over scenes (the limit: 95 %).

    The exact model answers for T1 only: it is told no motion bucket, so its things may go as slowly as they need to.
    """
    at, where = ("@exact", "exact model: ") if exact else ("", "")
    of = table.of

    def over(other: str, metric: str) -> Interval:
        return table.ratio("method" + at, other + at, metric)

    gain = table.difference("method" + at, "image-to-video" + at, "end_psnr_db")
    found = [
        Claim.at_least(f"{where}last frame better than plain image-to-video's, in dB", gain, 6.0),
        Claim.at_most(f"{where}mid-frame error over plain image-to-video's", over("image-to-video", "mid_centroid_error_px"), 0.6),
        Claim.at_most(f"{where}mid-frame error over a cut's", over("cut", "mid_centroid_error_px"), 0.7),
        Claim.at_most(f"{where}ghosts over a cross-fade's", over("crossfade", "ghost_share"), 0.5),
        Claim.at_most(f"{where}largest over mean step (jump_ratio)", table.mean("method" + at, "jump_ratio"), 2.5),
    ]
    if exact:
        return found
    closes = bootstrap(ratio, of("method@loop", "loop_rmse"), of("method@loop", "autoencoder_rmse"))
    one_way = [value for value in of("method", "monotonicity") if math.isfinite(value)]
    lower = bootstrap(difference, one_way, of("method@directed", "monotonicity"), level=0.95)
    return [
        *found,
        Claim.at_most("loop: first to last frame over the autoencoder's own error, RMSE", closes, 1.5),
        Claim.at_least("loop: the object moves, in pixels", table.mean("method@loop", "motion_px"), 1.0),
        Claim.at_least("limit: nose-first things ping-pong, monotonicity below that of the same paths without a nose", lower, 0.15),
    ]


def notes(table: ResultTable) -> list[str]:
    """What the table says about re-injection, whichever way it comes out."""
    lines = []
    for at, where in (("", "on the trained model"), ("@exact", "on the exact model")):
        if "method" + at not in table:
            continue
        found = table.difference("method" + at, "no-reinjection" + at, "ghost_share")
        word = "fewer" if found.high < 0 else "more" if found.low > 0 else "no fewer"
        interval = f"{found.value:+.3f}, 90 % interval {found.low:+.3f} to {found.high:+.3f}"
        lines.append(f"re-injection {where}: {word} ghosts than without it (share {interval})")
    return lines


def measure(
    model: ImageToVideo,
    *,
    seed: int,
    count: int = COUNT,
    exact: bool = True,
    split: str = "eval",
    preset: str = "small",
    settings: TimeReversalFusion | None = None,
    events: Events = SILENT,
) -> Report:
    """The whole experiment on a model.

    Args:
        model: an image-to-video model of 8 frames of 64 px of the toy world.
        seed: of scenes and noise.
        count: pairs of T1; half of them are straight and make T2 and T3.
        exact: whether to add the rows of the exact model.
        split: `eval`, or `tune` for whoever chooses settings.
        preset: the world that the model was trained on.
        settings: the method; `TimeReversalFusion.toy()` by default.
        events: hears one step per clip, or per pair of the exact model.
    """
    test, settings = PairExperiment(seed, events), settings or TimeReversalFusion.toy()
    pairs = symmetric_pairs(preset, split, seed, count)
    straight = sum(pair.family == "straight" for pair in pairs)
    events.stage(f"evaluate {SLUG}", 7 * count + 4 * straight + (count if exact else 0))
    nosed = PRESETS[preset].directed[0]
    trained_rows(test, model, settings, pairs, nosed)
    found = claims(test)
    if exact:
        exact_rows(test, settings, pairs, nosed)
        found += claims(test, exact=True)
    return test.report(SLUG, count, model, found, notes(test))


@dataclass(frozen=True, kw_only=True)
class TimeReversalFusionEvaluation(Evaluation):
    """Does the clip reach the end picture, on the true path, with one object; and where does it fail?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-i2v"
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = 4

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        return measure(self.load(device), seed=seed, count=self.scenes(count, quick), exact=not quick, events=events)
