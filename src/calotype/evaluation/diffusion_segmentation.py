"""The study of diffusion segmentation: what does removing noise add to a network that finds masks, and at which noise level?

Five networks of one architecture, on pictures of one big object and of many small ones, whose soft borders two readers draw differently:

- `feed-forward`: the picture to a mask at once (the paper's E1).
- `method`: a mask from noise given the picture, trained to predict the mask; the mean of eight samples. `one-sample`: one of them.
- `noise`: the same trained to predict the noise, as in the paper (E2). `noise-one-sample`: one of them.
- `mask-alone`: the mask from its noisy self, without the picture (E3): how long a noisy mask can be read.
- `image-alone`: the picture from its noisy self (E4).
- `exact`: no network, but the exact denoiser that knows the masks of all possible readers of a picture, and not whose mask it is.

A pixel's truth is what one reader, drawn at random, says. So an honest probability at a border isn't 0 or 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from calotype.backbones.diffusion_segmenter import DiffusionSegmenter, noise_schedule
from calotype.core.events import SILENT, Events
from calotype.data.raw import Intensity
from calotype.data.segmentation_folder import SegmentationFolder
from calotype.data.windows import SegmentationWindows
from calotype.errors import InputError, MissingError
from calotype.evaluation.base import Evaluation
from calotype.evaluation.experiment import LEAST_SCENES
from calotype.evaluation.report import Claim, Report, Role, Row
from calotype.evaluation.segmentation_study import (
    NUM_SAMPLES,
    NUM_STEPS,
    SHOWN,
    SWAPPED,
    TIMESTEPS,
    Array,
    StudyCase,
    StudyResult,
    calibration_error,
    crossover,
    exact_losses,
    identity_gap,
    oracle_gap,
    profile,
    quality,
    resampled,
    swapped_overlaps,
)
from calotype.evaluation.study_report import write_report
from calotype.methods.diffusion_segmentation.study import PARTS, load_parts, load_study
from calotype.methods.diffusion_segmentation.theory import advised_scaling, half_time, object_area
from calotype.methods.diffusion_segmentation.training import DiffusionSegmentationTraining
from calotype.metrics import Interval
from calotype.train.training import SPLIT_SEED
from calotype.world.tissue import paint_tissue, sample_tissue

SLUG = "diffusion-segmentation"
TISSUE = "of the tissue world: half of them with one big object, half with many small ones, soft borders that two readers draw differently"
COUNT = 48
"""Pictures of each kind."""
HARDER = 0.5
"""Input scaling of the schedule that the swaps are repeated in."""
READINGS: tuple[tuple[str, str, Role], ...] = (
    ("feed-forward", "feed_forward", "baseline"),
    ("method", "segmenter", "method"),
    ("one-sample", "segmenter", "ablation"),
    ("noise", "noise", "method"),
    ("noise-one-sample", "noise", "ablation"),
)
"""Variant, network and role of the rows with masks."""


def tissue_cases(size: int, *, split: str, seed: int, count: int) -> list[StudyCase]:
    """New pictures of the tissue world with one big object, and with many small ones; the reader changes from picture to picture."""
    cases = []
    for number, name in enumerate(("big", "small")):
        scenes = [sample_tissue(name, split=split, seed=seed, index=2 * row + number, pictures_per_patient=2) for row in range(count)]
        painted = paint_tissue(scenes, size)
        readers = torch.from_numpy(np.random.default_rng([seed, number]).integers(0, 2, count))
        masks = painted.annotators[torch.arange(count), readers].long()
        cases.append(StudyCase(name=name, images=painted.image, masks=masks, coverage=painted.coverage[:, 1]))
    return cases


def measure(models: Mapping[str, DiffusionSegmenter], cases: Sequence[StudyCase], *, seed: int, events: Events = SILENT) -> StudyResult:
    """Everything that the table and the report need.

    Args:
        models: the networks by their names in `calotype.methods.diffusion_segmentation.study.PARTS`.
        cases: pictures with masks.
        seed: of the noise.
        events: hears steps.
    """
    result = StudyResult(cases)
    denoising = [part for part in models if part != "feed_forward"]
    total = len(cases) * (3 + sum(TIMESTEPS_STEPS for _ in denoising)) + 2 * len(SWAPPED) * len(cases)
    events.stage(f"evaluate {SLUG}", total)
    for case in cases:
        result.areas[case.name] = object_area(case.masks)
        if case.coverage is not None:
            result.exact[case.name] = exact_losses(case.coverage, SHOWN, seed=seed)
        for part in ("feed_forward", "segmenter", "noise"):
            began = time.perf_counter()
            samples = models[part].samples(case.images, num_samples=NUM_SAMPLES, num_inference_steps=NUM_STEPS, seed=seed)
            seconds = (time.perf_counter() - began) / len(case)
            result.shown[f"{part}/{case.name}"] = samples
            for variant, made_by, _ in READINGS:
                if made_by == part:
                    taken = samples[:, :1] if variant.endswith("one-sample") else samples
                    result.quality.setdefault(variant, {})[case.name] = quality(taken.mean(1), case.masks)
                    share = taken.shape[1] / samples.shape[1]
                    calls = 1.0 if part == "feed_forward" else float(taken.shape[1] * NUM_STEPS)
                    result.cost[f"{variant}@{case.name}"] = (seconds * share, calls)
            events.step()
        for part in denoising:
            result.profiles.setdefault(part, {})[case.name] = profile(models[part], case, seed=seed, events=events)
    for scaling in (1.0, HARDER):
        found = [swapped_overlaps(models["segmenter"], case, scaling, seed=seed, events=events) for case in cases]
        own, other = (np.concatenate([pair[place] for pair in found], 1) for place in (0, 1))
        result.swaps[scaling] = (own, other)
    result.identity = max(identity_gap(models[part], cases[0], seed=seed) for part in denoising)
    result.oracle = oracle_gap(noise_schedule(), seed=seed)
    return result


TIMESTEPS_STEPS = 2 * len(TIMESTEPS)


def rows(result: StudyResult) -> list[Row]:
    """The table: masks and their calibration, then what the networks lose at some timesteps, then the fingerprints."""
    made = []
    for variant, _, role in READINGS:
        for case, found in result.quality[variant].items():
            seconds, calls = result.cost[f"{variant}@{case}"]
            numbers = {
                "iou": float(np.nanmean(found.iou)), "dice": float(np.nanmean(found.dice)),
                "ece": float(calibration_error(found.bins)), "ece_band": float(calibration_error(found.band)),
                "seconds": seconds, "model_calls": calls,
            }  # fmt: skip
            spread = (
                {"iou": float(np.nanstd(found.iou, ddof=1)), "dice": float(np.nanstd(found.dice, ddof=1))} if len(found.iou) > 1 else {}
            )
            made.append(Row(f"{variant}@{case}", role, numbers, spread, len(found.iou)))
    for part, by_case in result.profiles.items():
        weighting = "sample" if part in ("mask_alone", "segmenter") else "epsilon"
        for case, measured in by_case.items():
            values = measured.mean(weighting).tolist()
            numbers = {f"t_{t}": values[TIMESTEPS.index(t)] for t in SHOWN}
            made.append(Row(f"{part.replace('_', '-')}-loss@{case}", "ablation", numbers, {}, measured.errors.shape[1]))
    for name, exact in result.exact.items():
        made.append(
            Row(f"exact-loss@{name}", "limit", {f"t_{t}": value for t, value in zip(SHOWN, exact, strict=True)}, {}, len(result.cases[0]))
        )
    for case in (case.name for case in result.cases):
        half = result.half_time(case)
        numbers = {
            "object_pixels": result.areas[case], "t_half": half, "t_half_predicted": result.predicted(case),
            "advised_scaling": advised_scaling(half, noise_schedule()),
        }  # fmt: skip
        made.append(Row(f"fingerprint@{case}", "limit", numbers, {}, result.profiles["mask_alone"][case].errors.shape[1]))
    return made


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    """A statistic with the 90 % interval of what resampling gave."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.05, 0.95]) if len(drawn) else (float("nan"), float("nan"))
    return Interval(value, float(low), float(high))


def claims(result: StudyResult) -> list[Claim]:
    """Each claim on the tissue world's pictures must hold at the unfavourable end of its 90 % bootstrap interval over pictures."""
    big, small = (case.name for case in result.cases)
    count = min(len(case) for case in result.cases)
    picks = resampled(count)

    def half(case: str, rows: NDArray[np.int64]) -> float:
        return half_time(TIMESTEPS, result.errors("mask_alone", "sample", case)[:, rows].mean(1))

    everyone = np.arange(count)
    earlier = _interval(half(big, everyone) - half(small, everyone), np.array([half(big, pick) - half(small, pick) for pick in picks]))

    def missed(case: str, rows: NDArray[np.int64]) -> float:
        return abs(half(case, rows) - result.predicted(case))

    off = {case: _interval(missed(case, everyone), np.array([missed(case, pick) for pick in picks])) for case in (big, small)}
    mask, picture = (result.errors(part, "epsilon")[_low_noise()] for part in ("noise", "image_alone"))
    both = resampled(mask.shape[1])
    share = _interval(float((mask.mean(1) / picture.mean(1)).max()),
                      np.array([(mask[:, pick].mean(1) / picture[:, pick].mean(1)).max() for pick in both]))  # fmt: skip
    whole = result.errors("noise", "epsilon")
    rise = _interval(_rise(whole.mean(1)), np.array([_rise(whole[:, pick].mean(1)) for pick in both]))
    swapped = resampled(result.swaps[1.0][0].shape[1], times=400)

    def earlier_by(rows: NDArray[np.int64]) -> float:
        plain, harder = (crossover(*(overlap[:, rows] for overlap in result.swaps[scaling])) for scaling in (1.0, HARDER))
        return plain - harder

    moved = _interval(earlier_by(np.arange(result.swaps[1.0][0].shape[1])), np.array([earlier_by(pick) for pick in swapped]))

    def calibration(variant: str, other: str) -> Interval:
        first, second = result.bins(variant), result.bins(other)
        return _interval(float(calibration_error(first) - calibration_error(second)),
                         np.array([calibration_error(first[pick]) - calibration_error(second[pick]) for pick in both]))  # fmt: skip

    return [
        Claim(
            "loss of the noise and SNR x loss of the mask are one: largest relative difference",
            result.identity,
            1e-3,
            result.identity <= 1e-3,
        ),
        Claim(
            "closed form of the least loss against an exact denoiser: largest relative difference",
            result.oracle,
            0.02,
            result.oracle <= 0.02,
        ),
        Claim.at_least("a small object's mask is half lost earlier than a big one's, in timesteps", earlier, 100.0),
        *(Claim.at_most(f"that timestep from the object's size alone, {case}: off by", off[case], 150.0) for case in (big, small)),
        Claim.at_most("loss of the noise in a mask over that in a picture, largest for timesteps 20 to 200", share, 1 / 3),
        Claim.at_least("that loss rises again: highest for timesteps 100 to 300 over the lowest before", rise, 1.0),
        Claim.at_least(f"the picture decides earlier with input scaling {HARDER:g}, in timesteps", moved, 50.0),
        Claim.at_most(
            "calibration error of eight samples' mean less the feed-forward network's", calibration("method", "feed-forward"), 0.0
        ),
        Claim.at_most("calibration error of eight samples' mean less one sample's", calibration("method", "one-sample"), 0.0),
    ]


def study_figures(folder: Path, *, seed: int, count: int | None, device: str, events: Events) -> dict[str, float]:
    """The claims as figures of a folder's networks: toy-segmenter's gates; of `count` pictures of each kind."""
    models = load_study(folder, device=device)
    cases = tissue_cases(models["segmenter"].window[0], split="eval", seed=seed, count=count or COUNT)
    result = measure(models, cases, seed=seed, events=events)
    errors = {variant: float(calibration_error(result.bins(variant))) for variant, _, _ in READINGS}
    losses = [result.errors(part, "epsilon").mean(1) for part in ("noise", "image_alone")]
    return {
        **{f"iou_{case}": float(np.nanmean(found.iou)) for case, found in result.quality["method"].items()},
        **{f"iou_{case}_feed_forward": float(np.nanmean(found.iou)) for case, found in result.quality["feed-forward"].items()},
        "calibration_over_feed_forward": errors["method"] / errors["feed-forward"],
        "calibration_over_one_sample": errors["method"] / errors["one-sample"],
        "half_time_gap": result.half_time("big") - result.half_time("small"),
        "mask_loss_over_picture_loss": max(losses[0][place] / losses[1][place] for place in _low_noise()),
        "count": float(count or COUNT),
    }


def _low_noise() -> list[int]:
    """Where `TIMESTEPS` lie between 20 and 200."""
    return [place for place, timestep in enumerate(TIMESTEPS) if 20 <= timestep <= 200]


def _rise(losses: Array) -> float:
    """The highest loss between timestep 100 and 300 over the lowest at a smaller timestep."""
    places = [place for place, timestep in enumerate(TIMESTEPS) if 100 <= timestep <= 300]
    return max(float(losses[place] / losses[:place].min()) for place in places)


def trained_on(data: Path, folder: Path, window: tuple[int, ...], budget: str, *, seed: int, device: str, events: Events) -> Path:
    """The study's networks, trained on a user's folder one after the other; what is there already is finished or gone on with.

    Returns:
        The folder that `load_study` reads.
    """
    home = folder / "models"
    for name, part in PARTS.items():
        prediction: Literal["sample", "epsilon"] = "epsilon" if part.prediction == "epsilon" else "sample"
        training = DiffusionSegmentationTraining(objective=part.objective, prediction=prediction, window=window)
        events.note(f"{part.words}: {budget}")
        training(data, home / name, seed=seed, budget=budget, device=device, events=events)
    return home


def folder_case(data: Path, model: DiffusionSegmenter, count: int, *, events: Events) -> StudyCase:
    """Windows of a folder's held-out pictures, read as the model was trained to see them."""
    rule = Intensity.of_json(model.intensity)
    found = SegmentationFolder.open(
        data, classes=model.class_values, intensity=(rule.low, rule.high), size_at_least=model.window, events=events
    )
    _, held_out = SegmentationWindows(found, model.window).split(DiffusionSegmentationTraining().held_out_share, SPLIT_SEED)
    rows = held_out.rows(range(count))
    return StudyCase(name="data", images=rows["image"], masks=rows["mask"])


@dataclass(frozen=True, kw_only=True)
class DiffusionSegmentationEvaluation(Evaluation):
    """What does diffusion add to a network that finds masks, and at which noise level is the picture needed?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-segmenter"
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = 6

    data: Path | None = None
    """Your folder with images/ and masks/: five small networks are trained on it, and measured on the patients that are held out."""
    budget: str = "5m"
    """With data: for each of the five trainings, time or steps (2000steps)."""
    window: tuple[int, ...] = (64, 64)
    """With data: sides in pixels or voxels that the networks see."""
    report: Path | None = None
    """Folder of the report, study.html and study.md; by default in ./runs, and none with --quick."""

    def check(self, *, count: int | None, record: bool) -> None:
        """Refuse to record what is measured on the user's own pictures."""
        if self.data is not None and record:
            raise InputError("data holds your own pictures, and the docs' tables are of the tissue world; leave out record")

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        began, scenes = time.perf_counter(), self.scenes(count, quick)
        notes: list[str] = []
        if self.data is not None:
            folder = self.report or Path("runs") / f"study-{self.data.expanduser().resolve().name}"
            home = trained_on(self.data, folder, self.window, self.budget, seed=seed, device=device, events=events)
            models = load_parts({name: str(home / name) for name in PARTS}, device=device)
            cases = [folder_case(self.data, models["segmenter"], scenes, events=events)]
            notes.append("no claims: these are about the tissue world, whose truth is known")
        else:
            folder = self.report or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{SLUG}-study"
            models = load_study(self.model, device=device)
            cases = tissue_cases(models["segmenter"].window[0], split="eval", seed=seed, count=scenes)
        result = measure(models, cases, seed=seed, events=events)
        found: list[Claim] = []
        if self.data is None and scenes >= LEAST_SCENES:
            found = claims(result)
        elif self.data is None:
            notes.append(f"{scenes} pictures of each kind are too few for a verdict; {LEAST_SCENES} are the least")
        place = str(models["segmenter"].device)
        made = Report(SLUG, seed, scenes, place, time.perf_counter() - began, rows(result), found, notes)
        if self.report is not None or not quick:
            try:
                write_report(result, made, folder, data=f"held-out windows of {self.data}" if self.data else TISSUE)
                notes.append(f"the report with its plots: {folder / 'study.html'}")
            except MissingError as error:
                if self.report is not None:
                    raise
                notes.append(f"no report: {error}")
        return made
