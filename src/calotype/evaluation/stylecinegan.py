"""The proof of StyleCineGAN on ground truth: does the still picture flow as it truly would, close to a loop, and stand still elsewhere?

Landscapes are of the world that toy-landscape was trained on, unseen; their masks, motion fields and later frames are known. A loop has
`FRAMES` frames; its motion is the true field, its mask the true one, but for the rows `@predicted`.

- bare names: the loop and others that are made of the same inversion, the same field and the same mask. Baselines: forward splatting
  alone, backward warping with a cross-fade, the photograph splatted in place of features, the inversion splatted at one scale. Controls
  that must fail: past field with its sign flipped, axes swapped, motion backwards, in a random direction, or none.
- `@inversion`: the picture again, from w+ alone, and from w+ and the feature. The last two rows fit the feature to the picture by gradient
  descent, on the trained generator and on an untrained one: the feature has more numbers than the picture.
- `@mask`: ten annotated pictures; the same classifier on the generator's features and on colours and places.
- `@exact`: three channels a level against all of them, at 64 px and, with the public checkpoints' widths (untrained), at 256 px.
- `@loop`: beside Time Reversal Fusion's loops, which are of its own world.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.backbones.feature_style_encoder import FeatureStyleEncoder
from calotype.backbones.landscape_generator import Inversion, LandscapeGenerator
from calotype.backbones.loading import load
from calotype.backbones.pixel_classifier import PixelClassifier, fit_pixel_classifier, pixel_centres, pixel_vectors, without_specks
from calotype.backbones.stylegan2 import StyleGAN2Generator
from calotype.core.events import SILENT, Events
from calotype.core.motion_fields import resize_field
from calotype.evaluation.base import Evaluation
from calotype.evaluation.experiment import Experiment, ResultTable, pieces
from calotype.evaluation.landscape_cases import (
    NEAR,
    SIDE,
    Case,
    CrossFadeLoop,
    ForwardLoop,
    as_kind,
    clip_of,
    landscape_cases,
    loop_figures,
    motion_figures,
    of_picture,
    turned,
)
from calotype.evaluation.pairs import symmetric_pairs
from calotype.evaluation.report import Claim, Report, Role
from calotype.evaluation.time_reversal_fusion import fused
from calotype.imaging.types import Image, Mask
from calotype.methods.stylecinegan.method import Loop, StyleCineGAN
from calotype.methods.time_reversal_fusion import TimeReversalFusion
from calotype.metrics import psnr, rmse
from calotype.metrics.loops import seam_ratio
from calotype.metrics.segmentation import iou

SLUG = StyleCineGAN.slug
FRAMES = 24
LEAST = 60
"""Landscapes of a verdict."""
ANNOTATED, ANNOTATED_SEED = 10, 7
"""Pictures that a classifier learns from; of the split `tune`."""
CLASSES = 3
FITTING_STEPS = 40
FITTED = 32
"""Pictures whose feature is fitted."""
BATCH = 16
TIMED = 3
"""Pictures whose frames are timed."""
LARGE = 256
LARGE_FEATURE_LAYER = 10
CLOSED = 4
"""Loops of Time Reversal Fusion."""


class LoopTable(Experiment):
    """Rows of loops, inversions and masks of the same landscapes."""

    def __init__(self, model: LandscapeGenerator, cases: Sequence[Case], seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.model, self.cases = model, cases
        self.inversions = [model.invert(case.image) for case in cases]
        self.method = StyleCineGAN(num_frames=FRAMES)

    def loop(self, number: int, *, field: Tensor | None = None, moving: Mask | None = None, method: StyleCineGAN | None = None) -> Loop:
        """The method's loop of a landscape; the true mask and the true motion unless others are given."""
        case = self.cases[number]
        return (method or self.method).loop(
            self.model, case.image, moving or case.moving, case.motion if field is None else field, inversion=self.inversions[number]
        )

    def loops(self, variant: str, role: Role, make: Callable[[int], Loop], *, whole: bool = False) -> None:
        """A row of loops; `whole` also renders the rest of each one and looks at how it closes."""
        rows = []
        for number, case in enumerate(self.cases):
            loop, began = make(number), time.perf_counter()
            clip = clip_of(loop, None if whole else NEAR + 1)
            seconds = (time.perf_counter() - began) / len(clip)
            found = motion_figures(case, clip)
            if whole:
                back = motion_figures(case, clip.flip(0), backwards=True)
                found |= loop_figures(case, loop, clip) | {"end_flow_error_px": back["flow_error_px"], "end_psnr_db": back["true_psnr_db"]}
            rows.append({**found, "seconds_a_frame": seconds})
            self.events.step()
            self.events.check()
        self.add(variant, role, rows)


def loop_rows(table: LoopTable) -> None:
    """The method, its baselines, and controls that must fail."""
    loop, cases = table.loop, table.cases
    table.loops("method", "method", loop, whole=True)
    table.loops("forward-only", "baseline", lambda number: as_kind(loop(number), ForwardLoop), whole=True)
    table.loops("cross-fade", "baseline", lambda number: as_kind(loop(number), CrossFadeLoop), whole=True)
    table.loops("photo", "baseline", lambda number: of_picture(loop(number), cases[number].image.pixels[None] * 2 - 1), whole=True)
    table.loops("one-scale", "ablation", lambda number: of_picture(loop(number), _whole(table, number)), whole=True)
    table.loops("propagate", "ablation", lambda number: loop(number, method=replace(table.method, mode="propagate")), whole=True)
    table.loops("no-composite", "ablation", lambda number: loop(number, method=replace(table.method, composite="none")), whole=True)
    table.loops("flipped-past", "ablation", lambda number: flipped_past(loop(number)), whole=True)
    table.loops("swapped-axes", "ablation", lambda number: loop(number, field=cases[number].motion.flip(0)))
    table.loops("flipped-motion", "ablation", lambda number: loop(number, field=-cases[number].motion))
    table.loops("random-direction", "ablation", lambda number: loop(number, field=turned(cases[number].motion, cases[number].angle)))
    table.loops("still", "baseline", lambda number: loop(number, field=torch.zeros_like(cases[number].motion)))
    table.loops("method@predicted", "method", lambda number: predicted(table, number), whole=True)
    table.add("true-frames", "ceiling", [motion_figures(case, case.later) for case in cases])


def _whole(table: LoopTable, number: int) -> Tensor:
    found = table.inversions[number]
    with torch.no_grad():
        made: Tensor = table.model.generator(found.w_plus, {table.model.feature_layer: found.feature})
    return made


def flipped_past(loop: Loop) -> Loop:
    """The past follows the motion and not its negative."""
    return replace(loop, past=loop.future)


def predicted(table: LoopTable, number: int) -> Loop:
    """With the model's own mask and motion; nothing moves where it sees nothing."""
    mask = Mask(table.model.predict_mask(table.inversions[number]) > 0)
    motion = resize_field(table.model.predict_motion(table.cases[number].image).cpu(), table.model.size)
    return table.loop(number, field=motion * mask.values, moving=mask)


def inversion_rows(table: LoopTable) -> None:
    """The picture again."""
    model, pictures = table.model, torch.stack([case.image.pixels for case in table.cases])

    def row(variant: str, role: Role, made: Float[Tensor, "pictures 3 height width"]) -> None:
        found = psnr((made.cpu() / 2 + 0.5).clamp(0, 1), pictures[: len(made)])
        table.add(f"{variant}@inversion", role, [{"inversion_psnr_db": float(value)} for value in found])

    with torch.no_grad():
        row("w-plus", "baseline", torch.cat([model.generator(each.w_plus) for each in table.inversions]))
        row("method", "method", torch.cat([_whole(table, number) for number in range(len(pictures))]))
    some = table.inversions[:FITTED]
    row("fitted", "ceiling", fitted(model.generator, some, model.feature_layer, pictures[: len(some)]))
    row("fitted-untrained", "ablation", fitted(untrained(model.generator), some, model.feature_layer, pictures[: len(some)]))


def untrained(generator: StyleGAN2Generator) -> StyleGAN2Generator:
    """The same network with random weights, as StyleGAN2 begins with them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: StyleGAN2Generator = StyleGAN2Generator.from_config(generator.config)
    ready: StyleGAN2Generator = made.to(generator.device).eval().requires_grad_(False)
    return ready


def fitted(
    generator: StyleGAN2Generator, inversions: Sequence[Inversion], layer: int, pictures: Float[Tensor, "pictures 3 height width"]
) -> Float[Tensor, "pictures 3 height width"]:
    """What the generator makes of w+ and a feature that `FITTING_STEPS` steps of Adam fit to each picture, from zeros."""
    made = []
    for part in pieces(range(len(inversions)), BATCH):
        w_plus = torch.cat([inversions[number].w_plus for number in part])
        wanted = (pictures[part[0] : part[-1] + 1] * 2 - 1).to(w_plus)
        with torch.no_grad():
            scale = float(generator.collect(w_plus).layers[layer - 1].std())
        feature = torch.zeros(len(part), *generator.input_shape(layer), device=w_plus.device, requires_grad=True)
        optimizer = torch.optim.Adam([feature], lr=0.2)
        for step in range(FITTING_STEPS):
            optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / FITTING_STEPS)
            loss = (generator(w_plus, {layer: scale * feature}) - wanted).square().mean((1, 2, 3)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            made.append(generator(w_plus, {layer: scale * feature}))
    return torch.cat(made)


def mask_rows(table: LoopTable) -> None:
    """Classes of pixels, learnt from ten pictures: on features, and on colours and places."""
    annotated = landscape_cases("tune", ANNOTATED_SEED, ANNOTATED)
    known = [table.model.pixel_features(table.model.invert(case.image)) for case in annotated]
    seen = [table.model.pixel_features(found) for found in table.inversions]
    for variant, role, (learnt, asked) in (
        ("features@mask", "method", (known, seen)),
        ("colour-and-place@mask", "baseline", ([_plain(case) for case in annotated], [_plain(case) for case in table.cases])),
    ):
        classifier = learn_masks(learnt, annotated)
        table.add(variant, role, [_overlap(classifier, maps, case) for maps, case in zip(asked, table.cases, strict=True)])  # type: ignore[arg-type]
    if "pixel_classifier" in table.model.modules:
        table.add(
            "shipped@mask", "method",
            [_agreement(table.model.predict_mask(found), case) for found, case in zip(table.inversions, table.cases, strict=True)],
        )  # fmt: skip


def learn_masks(maps: Sequence[Sequence[Tensor]], cases: Sequence[Case], *, members: int = 10) -> PixelClassifier:
    """A classifier from some annotated pictures' maps."""
    places = pixel_centres(SIDE, SIDE)[None].to(maps[0][0])
    vectors = torch.cat([pixel_vectors(each, places)[0] for each in maps])
    classes = torch.cat([case.classes.flatten() for case in cases]).to(vectors.device)
    return fit_pixel_classifier(vectors, classes, num_classes=CLASSES, members=members)


def _plain(case: Case) -> list[Tensor]:
    places = pixel_centres(SIDE, SIDE).T.reshape(2, SIDE, SIDE)
    return [torch.cat([case.image.pixels, places])[None]]


def _overlap(classifier: PixelClassifier, maps: Sequence[Tensor], case: Case) -> dict[str, float]:
    return _agreement(without_specks(classifier.classes(maps, (SIDE, SIDE))[0].cpu()), case)


def _agreement(found: Tensor, case: Case) -> dict[str, float]:
    each = iou(found[None] + 1, case.classes[None] + 1, CLASSES + 1)[0]
    return {"miou": float(each.nanmean()), "land_iou": float(each[0]), "sky_iou": float(each[1]), "water_iou": float(each[2])}


def exact_rows(table: LoopTable) -> None:
    """Three channels against all of them, without what both have in common: the inversion and the layers at rest."""
    some = range(min(TIMED, len(table.cases)))
    table.add("method@exact", "method", [both_ways(table.loop, number) for number in some])
    large = large_model()
    field = resize_field(table.cases[0].motion, large.size)

    def loop(number: int, *, method: StyleCineGAN) -> Loop:
        case = table.cases[number]
        resized = [functional.interpolate(each[None], size=large.size)[0] for each in (case.image.pixels, case.moving.values[None].float())]
        return method.loop(large, Image(resized[0]), Mask(resized[1][0] > 0.5), field)

    table.add(f"method@exact-{LARGE}", "method", [both_ways(loop, 0)])


def both_ways(make: Callable[..., Loop], number: int) -> dict[str, float]:
    """A frame by its RGB and by its features: their largest difference in [0, 1], and what each took."""
    method, frames, seconds = StyleCineGAN(num_frames=FRAMES), {}, {}
    for mode in ("exact", "features"):
        loop = make(number, method=replace(method, mode=mode))
        loop.generated(1)
        began = time.perf_counter()
        frames[mode] = torch.cat([loop.generated(t) for t in (FRAMES // 3, FRAMES // 2)])
        seconds[mode] = (time.perf_counter() - began) / 2
    return {
        "difference": float((frames["exact"] - frames["features"]).abs().max()) / 2,
        "seconds_a_frame": seconds["exact"], "times_faster": seconds["features"] / seconds["exact"],
    }  # fmt: skip


def large_model() -> LandscapeGenerator:
    """A generator of the public checkpoints' widths, at 256 px and with the weights that it begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2Generator(size=LARGE, num_mapping_layers=2)
        channels = generator.input_shape(LARGE_FEATURE_LAYER)[0]
        encoder = FeatureStyleEncoder(
            size=LARGE, style_dim=512, num_styles=generator.num_styles, feature_layer=LARGE_FEATURE_LAYER, feature_channels=channels,
            widths=(8, 8, 8), style_width=16, feature_width=8,
        )  # fmt: skip
    modules = {"generator": generator.eval().requires_grad_(False), "encoder": encoder.eval().requires_grad_(False)}
    source = load("toy-vae", device="cpu").source
    return LandscapeGenerator(source, modules, device=torch.device("cpu"))


def closing_rows(table: LoopTable, *, device: str) -> None:
    """The same figures of a cinemagraph and of a clip that Time Reversal Fusion closes."""
    rows = []
    for number, case in enumerate(table.cases):
        clip = clip_of(table.loop(number)) * case.moving.values
        rows.append(_closing(clip))
        if number + 1 == 4 * CLOSED:
            break
    table.add("method@loop", "method", rows)
    pairs = [pair for pair in symmetric_pairs("small", "eval", table.seed, 3 * CLOSED) if pair.family == "straight"][:CLOSED]
    model, settings = load("toy-i2v", device=device), TimeReversalFusion.toy()
    clips = fused(model, settings, loop=True)(pairs, table.seed, SILENT)
    table.add("time-reversal-fusion@loop", "baseline", [_closing(clip) for clip in clips])


def _closing(clip: Float[Tensor, "frames 3 height width"]) -> dict[str, float]:
    """Of frames 0 to N."""
    steps = rmse(clip[1:], clip[:-1])
    return {"loop_rmse": float(rmse(clip[-1], clip[0])), "seam_ratio": seam_ratio(clip[:-1]), "step_rmse": float(steps.mean())}


def claims(table: ResultTable) -> list[Claim]:
    """What is claimed; the bars were fixed before anything was measured."""
    mean, difference, exact, large = table.mean, table.difference, "method@exact", f"method@exact-{LARGE}"
    plain = "colour-and-place@mask"
    return [
        Claim.at_least("inversion by w+ and feature, in dB: at least 28", mean("method@inversion", "inversion_psnr_db"), 28.0),
        Claim.at_least(
            "and at least 4 dB above w+ alone", difference("method@inversion", "w-plus@inversion", "inversion_psnr_db"), 4.0
        ),
        Claim.at_most("symmetric splatting closes: seam 0", mean("method", "seam"), 0.0),
        Claim.at_most("frame 0 follows frame N - 1 by at most 1.25 times the steps beside", mean("method", "seam_ratio"), 1.25),
        Claim.at_most("no holes: at most 0.01 of what moves", mean("method", "holes"), 0.01),
        Claim.at_least("contrast at mid-loop above the cross-fade's", difference("method", "cross-fade", "contrast"), 0.0),
        Claim.at_least("contrast at mid-loop above forward splatting's", difference("method", "forward-only", "contrast"), 0.0),
        Claim.at_most("frames 1 to 6 follow the true field, error in pixels: at most 0.3", mean("method", "flow_error_px"), 0.3),
        Claim.at_least("in a random direction the error is above 1", mean("random-direction", "flow_error_px"), 1.0),
        Claim.at_least(
            "frames 1 to 4 are nearer to the true ones than with the motion flipped, in dB",
            difference("method", "flipped-motion", "early_psnr_db"), 0.0,
        ),
        Claim.at_most("what doesn't move is the picture's, bit for bit", mean("method", "static_change"), 0.0),
        Claim.at_least("without the composite it isn't", mean("no-composite", "static_change"), 1e-3),
        Claim.at_least(
            "masks from features above those from colour and place, mean IoU", difference("features@mask", plain, "miou"), 0.0
        ),
        Claim.at_most("colour and place alone stay below 0.9", mean(plain, "miou"), 0.9),
        Claim.at_most("three channels give what all give, within 1e-4", mean(exact, "difference"), 1e-4),
        Claim.at_least(f"and at {LARGE} px are at least 10 times faster", mean(large, "times_faster"), 10.0),
        Claim.at_least(
            "control: with the past's sign flipped the last frames miss the field by more than 1 px",
            mean("flipped-past", "end_flow_error_px"), 1.0,
        ),
        Claim.at_least("control: with the axes swapped the first frames do", mean("swapped-axes", "flow_error_px"), 1.0),
    ]  # fmt: skip


def notes(table: ResultTable) -> list[str]:
    """What is reported as it comes out."""
    lines = []
    for other, words in (("photo", "splatting the photograph"), ("one-scale", "splatting the inversion at one scale")):
        found = table.difference("method", other, "true_psnr_db")
        lines.append(
            f"against {words}: {found.value:+.2f} dB to the true frames 1 to {NEAR} (90 % interval {found.low:+.2f} to {found.high:+.2f})"
        )
    seen = sum(math.isfinite(value) for value in table.of("method", "flow_error_px"))
    lines.append(f"flow errors are of the {seen} landscapes that have a window with enough structure")
    gap = table.difference("fitted@inversion", "fitted-untrained@inversion", "inversion_psnr_db")
    lines.append(f"a feature that is fitted to the picture: {gap.value:+.1f} dB on the trained generator over an untrained one")
    return lines


@dataclass(frozen=True, kw_only=True)
class StyleCineGANEvaluation(Evaluation):
    """Does the still picture flow as it truly would, close to a loop, and stand still elsewhere?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-landscape"
    default_count: ClassVar[int] = 72
    quick_count: ClassVar[int] = 3

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        model, scenes = self.load(device), self.scenes(count, quick)
        events.stage("make loops", 13 * scenes)
        table = LoopTable(model, landscape_cases("eval", seed, scenes), seed, events)
        loop_rows(table)
        inversion_rows(table)
        mask_rows(table)
        exact_rows(table)
        if not quick:
            closing_rows(table, device=device)
        if quick or scenes < LEAST:
            few = "a quick look" if quick else f"{scenes} landscapes"
            return table.report(
                SLUG, scenes, model, notes=[*notes(table), f"{few}: too few for a verdict; {LEAST} landscapes are the least"]
            )
        return table.report(SLUG, scenes, model, claims(table), notes(table))
