"""The proof of AnyV2V on ground truth: does the edit hold, does the motion stay the source's, and does it come from where it should.

Each source clip shows one object that moves. The edited clip, of which the method sees the first frame alone, is the same scene with
another colour, another shape or another ground, painted. All rows see the same scenes, edited frames, noise, frame rate, motion bucket and
steps, and the caption of the edited clip.

- `image-to-video`: from the edited frame and fresh noise. Where the object goes is then a guess.
- `inversion-only`: from the source's inverted noise, nothing injected. `conv-spatial`: no injection over time.
- `inject-value`, `always-inject`: values too; at every noise level. The source must show through.
- `wrong-clip`: inversion and injection of a clip that has the same first frame and another motion. The motion must be that one's.
- `static`: the edited frame, all the time. `autoencoder`: the true edited clip through the autoencoder, the best that there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.denoiser import Condition
from calotype.core.events import SILENT, Events
from calotype.core.guidance import ClassifierFreeGuidance
from calotype.core.noise import batch_noise
from calotype.core.roles import ImageToVideo
from calotype.core.samplers import sample
from calotype.evaluation.base import Evaluation
from calotype.evaluation.clip_edits import FPS, ClipEdit, cases
from calotype.evaluation.experiment import Experiment, ResultTable, pieces
from calotype.evaluation.report import Claim, Report, Role
from calotype.methods.anyv2v import AnyV2V
from calotype.methods.anyv2v.inversion import Inversion
from calotype.metrics import bootstrap, difference

SLUG = AnyV2V.slug
COUNT = 16
BATCH = 4
"""Clips that are sampled together."""

Clips = list[Float[Tensor, "frames 3 size size"]]
Maker = Callable[[Sequence[ClipEdit], Events], Clips]
"""Makes the clips of some cases, and tells how many model calls they took."""


class ClipEditExperiment(Experiment):
    """Runs variants on cases; inverts each clip once."""

    def __init__(self, model: ImageToVideo, settings: AnyV2V, seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.model, self.settings = model, settings
        self._inversions: dict[tuple[bool, int], Inversion] = {}

    def run(self, variant: str, role: Role, some: Sequence[ClipEdit], make: Maker) -> None:
        """One row: the clips of all cases, measured."""
        self.measured(variant, role, pieces(some, BATCH), make, lambda case, frames: case.measure(frames.clamp(0, 1)))

    def inverted(self, batch: Sequence[ClipEdit], wrong: bool) -> Inversion:
        """The inversion of some clips, each computed once."""
        key = wrong, batch[0].index
        if key not in self._inversions:
            clips = [case.wrong_clip if wrong else case.clip for case in batch]
            self._inversions[key] = self.settings.invert(self.model, clips, seed=self.seed + batch[0].index)
        return self._inversions[key]

    def edited(self, *, wrong: bool = False, **changes: object) -> Maker:
        """The method, with some settings changed or another clip's latents."""
        method = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]

        def make(batch: Sequence[ClipEdit], events: Events) -> Clips:
            inversion = self.inverted(batch, wrong)
            clips = [case.wrong_clip if wrong else case.clip for case in batch]
            frames = [case.frame for case in batch]
            seed = self.seed + batch[0].index
            videos = method.edit(self.model, clips, frames, inversion, prompts=captions(batch), seed=seed, events=events)
            return [video.frames for video in videos]

        return make

    def continued(self) -> Maker:
        """Plain image-to-video from the edited frames, with the method's steps, conditions and guidance."""
        method, model = self.settings, self.model

        def make(batch: Sequence[ClipEdit], events: Events) -> Clips:
            seed, sigmas = self.seed + batch[0].index, model.sigmas(method.num_inference_steps)
            told = zip(batch, captions(batch), strict=True)
            rows = [method.condition(model, case.frame, text, FPS, seed + index) for index, (case, text) in enumerate(told)]
            condition = Condition.cat(rows)
            guidance = ClassifierFreeGuidance(method.guidance_scale)
            denoise = model.denoiser({"cond": condition, "uncond": model.unconditional(condition)}, guidance)
            shape = model.latent_shape(len(batch[0].clip), batch[0].clip.size)
            x = sample(denoise, batch_noise(shape, seed, len(batch)) * model.init_noise_sigma(sigmas), sigmas)
            events.metric("model_calls", float(denoise.calls))
            return [model.decode(row[None], FPS).frames for row in x]

        return make

    def autoencoded(self) -> Maker:
        """The right answer through the autoencoder and back."""
        return lambda batch, _: [self.model.decode(self.model.encode(case.edited.clip), FPS).frames for case in batch]


def captions(batch: Sequence[ClipEdit]) -> list[str]:
    """What the edited clips show, as a user says it; every row is told the same."""
    return [case.edited.scene.caption for case in batch]


NO_INJECTION: dict[str, Any] = {"tau_conv": 0.0, "tau_spatial": 0.0, "tau_temporal": 0.0}
ALWAYS: dict[str, Any] = {"tau_conv": 1.0, "tau_spatial": 1.0, "tau_temporal": 1.0}


def rows(test: ClipEditExperiment, some: Sequence[ClipEdit]) -> None:
    """The method, its baselines and its ablations."""
    test.run("method", "method", some, test.edited())
    test.run("image-to-video", "baseline", some, test.continued())
    test.run("inversion-only", "ablation", some, test.edited(**NO_INJECTION))
    test.run("conv-spatial", "ablation", some, test.edited(tau_temporal=0.0))
    test.run("inject-value", "ablation", some, test.edited(inject_value=True))
    test.run("always-inject", "ablation", some, test.edited(**ALWAYS))
    test.run("wrong-clip", "ablation", some, test.edited(wrong=True))
    test.run("static", "baseline", some, lambda batch, _: [torch.stack([case.frame.pixels] * len(case.clip)) for case in batch])
    test.run("autoencoder", "ceiling", some, test.autoencoded())


def claims(table: ResultTable) -> list[Claim]:
    """Each claim must hold at the unfavourable end of its 90 % bootstrap interval over clips."""

    return [
        Claim.at_most("the object's path: mean error in pixels", table.mean("method", "trajectory_error_px"), 1.0),
        Claim.at_least("image-to-video alone misses the path by, in pixels", table.mean("image-to-video", "trajectory_error_px"), 3.0),
        Claim.at_least("the edited object (or ground) is recognised, share of frames", table.mean("method", "attribute_accuracy"), 0.85),
        Claim.at_least(
            "PSNR to the true edited clip over image-to-video's, in dB", table.difference("method", "image-to-video", "psnr_db"), 4.0
        ),
        Claim.at_least(
            "values injected too: shape edits lose, share of frames", table.difference("method", "inject-value", "shape_accuracy"), 0.15
        ),
        Claim.at_least(
            "always injected: shape edits lose, share of frames", table.difference("method", "always-inject", "shape_accuracy"), 0.15
        ),
        Claim.at_most(
            "latents of another clip: error to that clip's path less that to the right one, in pixels",
            bootstrap(difference, *(table.of("wrong-clip", metric) for metric in ("wrong_path_error_px", "trajectory_error_px"))),
            -3.0,
        ),
    ]


def measure(
    model: ImageToVideo,
    *,
    seed: int,
    count: int = COUNT,
    split: str = "eval",
    preset: str = "small",
    settings: AnyV2V | None = None,
    events: Events = SILENT,
) -> Report:
    """The whole experiment on a model.

    Args:
        model: an image-to-video model of 8 frames of 64 px of the toy world.
        seed: of scenes and noise.
        count: clips; every other one is an edit of the shape.
        split: `eval`, or `tune` for whoever chooses settings.
        preset: the world that the model was trained on.
        settings: the method; `AnyV2V.toy()` by default.
        events: hears one step per clip and row.
    """
    settings = dataclasses.replace(settings or AnyV2V.toy(), cache_megabytes=0, rebuild=False)
    test = ClipEditExperiment(model, settings, seed, events)
    some = cases(preset, split, seed, count)
    events.stage(f"evaluate {SLUG}", 9 * count)
    rows(test, some)
    return test.report(SLUG, count, model, claims(test))


@dataclass(frozen=True, kw_only=True)
class AnyV2VEvaluation(Evaluation):
    """Does the edit hold, does the motion stay the source's, and does it come from where it should?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-i2v"
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = 4

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        return measure(self.load(device), seed=seed, count=self.scenes(count, quick), events=events)
