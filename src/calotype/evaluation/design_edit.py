"""The proof of DesignEdit on ground truth: does the object go, does the ground go on, does a moved object arrive whole.

Each scene has two objects of which one is removed, and in a second case moved; the answers are painted. Both objects are marked: one is
edited, the other must not be copied from (`refine`).

Metrics of holes are pooled over both kinds. `hole_psnr_db` is over smooth grounds, `texture_ratio` over random texture,
`position_error_px` and `iou` over moves; `outside_psnr_db` is taken before untouched pixels are put back, everything else afterwards.
Every row has the same scenes, steps and masks, and the empty prompt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.core.guidance import NoGuidance
from calotype.core.noise import RENOISE, START, batch_noise, renoiser
from calotype.core.roles import TextToImage
from calotype.core.samplers import StepOutput, euler_step, sample
from calotype.core.timetravel import Reinject, resampling_schedule
from calotype.evaluation.base import Evaluation
from calotype.evaluation.edit_cases import SIZE, PictureEdit, batches, cases
from calotype.evaluation.experiment import Experiment, ResultTable
from calotype.evaluation.report import Claim, Report, Role
from calotype.methods.design_edit import DesignEdit
from calotype.methods.design_edit.layered import to_cells
from calotype.methods.design_edit.regions import Window, dilate
from calotype.methods.design_edit.windows import blend
from calotype.metrics import Interval, bootstrap, difference

SLUG = DesignEdit.slug
COUNT = 12
BATCH = 8
REPAINT = Reinject(rule="sigma", sigma_min=0.3, sigma_max=20.0, length=4, repeats=14)
"""RePaint's resampling: blocks of levels that are done again; the repeats make it take more than four times the method's calls."""

Levels = list[Tensor]
Maker = Callable[[Sequence[PictureEdit], Events], Float[Tensor, "batch 3 size size"]]
"""Makes the raw pictures of some cases."""


class PictureEditExperiment(Experiment):
    """Runs variants on cases; inverts each picture once."""

    def __init__(self, model: TextToImage, settings: DesignEdit, seed: int, events: Events) -> None:
        super().__init__(seed, events)
        self.model, self.settings = model, settings
        self.factor = SIZE // model.latent_shape((SIZE, SIZE))[1]
        self.dilation = round(settings.dilation * self.factor)
        self._inversions: dict[tuple[str, tuple[int, ...]], Levels] = {}

    def run(self, variant: str, role: Role, some: Sequence[PictureEdit], make: Maker, *, put_back: bool = True) -> None:
        """One row: the pictures of all cases, measured."""
        whole = Window(0, 0, SIZE, SIZE)

        def measure(case: PictureEdit, pixels: Tensor) -> dict[str, float]:
            edited = blend(case.task, pixels, whole, self.dilation, self.settings.feather) if put_back else pixels
            return case.measure(edited, pixels, self.dilation)

        self.measured(variant, role, batches(some, BATCH), make, measure)

    def inverted(self, kind: str, pictures: Float[Tensor, "batch 3 size size"], batch: Sequence[PictureEdit]) -> Levels:
        """The inversion of some pictures; each is computed once."""
        key = kind, tuple(case.index for case in batch)
        if key not in self._inversions:
            self._inversions[key] = self.settings.inverted(self.model, pictures)
        return self._inversions[key]

    def edited(self, **changes: object) -> Maker:
        """The method, with some settings changed."""
        method = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]
        n = method.num_inference_steps

        def make(batch: Sequence[PictureEdit], events: Events) -> Tensor:
            tasks = [case.task for case in batch]
            inversion = [self.inverted("source", torch.stack([task.source for task in tasks]), batch)]
            if batch[0].kind == "move":
                inversion.append(self.inverted("composite", torch.stack([task.composite for task in tasks]), batch))
            events.metric("model_calls", n * len(inversion) * len(batch))
            done = method.edit(self.model, tasks, inversion=inversion, seed=self.seed + batch[0].index, events=events)
            return done.pixels.cpu()

        return make

    def rebuilt(self, fill: Callable[[PictureEdit], Tensor]) -> Maker:
        """Plain DDIM reconstruction of a picture whose hole is filled in pixels; a moved object is pasted in pixels."""
        n = self.settings.num_inference_steps

        def make(batch: Sequence[PictureEdit], events: Events) -> Tensor:
            pictures = torch.stack([pasted(case, fill(case)) for case in batch])
            levels = self.settings.inverted(self.model, pictures)
            denoise = self.model.denoiser({"cond": self.model.condition([""] * len(batch))}, NoGuidance())
            x = sample(denoise, levels[0], self.model.sigmas(n), events=events)
            events.metric("model_calls", 2.0 * n * len(batch))
            return self.model.decode(x).cpu()

        return make

    def repainted(self) -> Maker:
        """RePaint (Lugmayr et al. 2022): the outside is the noised picture at every level, and blocks of levels are done again."""
        n = self.settings.num_inference_steps

        def make(batch: Sequence[PictureEdit], events: Events) -> Tensor:
            hole = to_cells(torch.stack([dilate(case.hole, self.dilation) for case in batch]), self.factor)[:, None] >= 0.5
            known = self.model.encode(torch.stack([pasted(case, case.picture) for case in batch]))
            device, shape, seed, sigmas = known.device, tuple(known.shape[1:]), self.seed + batch[0].index, self.model.sigmas(n)
            outside = (~hole).to(device)
            denoise = self.model.denoiser({"cond": self.model.condition([""] * len(batch))}, NoGuidance())

            def step(
                denoise: object, x: Tensor, sigma: float, sigma_next: float, history: Mapping[str, Tensor] | None = None, position: int = 0
            ) -> StepOutput:
                stepped = euler_step(denoise, x, sigma, sigma_next)  # type: ignore[arg-type]
                fresh = batch_noise(shape, seed, len(batch), stream=RENOISE + (1 << 18) + position).to(device)
                return StepOutput(torch.where(outside, known + sigma_next * fresh, stepped.x), stepped.x0)

            start = batch_noise(shape, seed, len(batch), stream=START).to(device) * self.model.init_noise_sigma(sigmas)
            again = resampling_schedule(sigmas, REPAINT)
            x = sample(denoise, start, sigmas, step=step, schedule=again, renoise=renoiser(shape, seed, len(batch)), events=events)
            events.metric("model_calls", float(denoise.calls))
            return self.model.decode(x).cpu()

        return make

    def resketched(self) -> Maker:
        """SDEdit (Meng et al. 2022): the hole filled with the mean colour, noised half of the way up and denoised again."""
        n = self.settings.num_inference_steps

        def make(batch: Sequence[PictureEdit], events: Events) -> Tensor:
            filled_in = self.model.encode(torch.stack([pasted(case, mean_colour(case)) for case in batch]))
            sigmas = self.model.sigmas(n)[n // 2 :]
            denoise = self.model.denoiser({"cond": self.model.condition([""] * len(batch))}, NoGuidance())
            fresh = batch_noise(tuple(filled_in.shape[1:]), self.seed + batch[0].index, len(batch), stream=START).to(filled_in)
            x = sample(denoise, filled_in + float(sigmas[0]) * fresh, sigmas, events=events)
            events.metric("model_calls", float(denoise.calls))
            return self.model.decode(x).cpu()

        return make

    def autoencoded(self) -> Maker:
        """The right answer through the autoencoder and back: the best that any method on these latents can do."""
        return lambda batch, events: self.model.decode(self.model.encode(torch.stack([case.answer for case in batch]))).cpu()


def filled(fill: Callable[[PictureEdit], Tensor]) -> Maker:
    """A hole filled in pixels, without the model; a moved object is pasted."""
    return lambda batch, events: torch.stack([pasted(case, fill(case)) for case in batch])


def pasted(case: PictureEdit, picture: Float[Tensor, "3 size size"]) -> Float[Tensor, "3 size size"]:
    """The picture with the moved object in its new place; a removal's picture as it is."""
    return torch.where(case.place, case.task.composite, picture)


def grey_hole(case: PictureEdit) -> Float[Tensor, "3 size size"]:
    """The picture with middle grey where the object was."""
    return case.picture.masked_fill(case.mask, 0.5)


def mean_colour(case: PictureEdit) -> Float[Tensor, "3 size size"]:
    """The picture with the mean colour of the ring around the object where the object was."""
    ring = dilate(case.mask, 6) & ~dilate(case.mask, 2)
    return torch.where(dilate(case.mask, 1), case.picture[:, ring].mean(1)[:, None, None], case.picture)


def membrane(case: PictureEdit, steps: int = 400) -> Float[Tensor, "3 size size"]:
    """The picture with the hole stretched over like a membrane: classical inpainting, the solution of Laplace's equation."""
    hole, picture = dilate(case.mask, 1).numpy(), mean_colour(case).numpy().astype(np.float64)
    kernel = np.array([[0.0, 0.25, 0.0], [0.25, 0.0, 0.25], [0.0, 0.25, 0.0]])
    for _ in range(steps):
        for channel in picture:
            channel[hole] = ndimage.convolve(channel, kernel, mode="nearest")[hole]
    return torch.from_numpy(picture).float()


def rows(test: PictureEditExperiment, some: Sequence[PictureEdit]) -> None:
    """The method, its baselines and its ablations."""
    moves = [case for case in some if case.kind == "move"]
    late = {"fuse": 1.0}
    test.run("method", "method", some, test.edited())
    test.run("reconstruction", "baseline", some, test.rebuilt(lambda case: case.picture))
    test.run("grey-hole", "baseline", some, test.rebuilt(grey_hole))
    test.run("mean-colour", "baseline", some, filled(mean_colour))
    test.run("membrane", "baseline", some, filled(membrane))
    test.run("repaint", "baseline", some, test.repainted())
    test.run("sdedit", "baseline", some, test.resketched())
    test.run("mask-off", "ablation", some, test.edited(masked="none"))
    test.run("mask-query", "ablation", some, test.edited(masked="query"))
    test.run("mask-value", "ablation", some, test.edited(masked="value"))
    test.run("wrong-mask", "ablation", [case.misplaced() for case in some if case.kind == "removal"], test.edited())
    test.run("guidance-1", "ablation", some, test.edited(guidance_scale=1.0))
    test.run("late-fusion", "ablation", moves, test.edited(**late))
    test.run("autoencoder", "ceiling", some, test.autoencoded())


def claims(table: ResultTable) -> list[Claim]:
    """Each claim must hold at the unfavourable end of its 90 % bootstrap interval over scenes."""

    of = table.of

    def gain(other: str, metric: str) -> Interval:
        return table.difference("method", other, metric)

    moves = len(of("late-fusion", "iou"))

    def removals(metric: str) -> list[float]:
        return of("method", metric)[:-moves]

    found = [
        Claim.at_most("removal and move: share of the object that is left in the hole", table.mean("method", "residue_share"), 0.10),
        Claim.at_least("plain reconstruction leaves the object, share", table.mean("reconstruction", "residue_share"), 0.9),
        Claim.at_least(
            "key mask off: the object comes back, share",
            table.mean("mask-off", "residue_share"),
            0.5,
        ),
        Claim.at_least(
            "key mask off: more of the hole is something foreign, share",
            table.difference("mask-off", "method", "foreign_share"),
            0.05,
        ),
        Claim.at_least(
            "a mask that is off by half the object's width leaves more of the object, share",
            bootstrap(difference, of("wrong-mask", "residue_share"), removals("residue_share")),
            0.1,
        ),
        Claim.at_least("hole on smooth grounds better than grey-hole's, in dB", gain("grey-hole", "hole_psnr_db"), 3.0),
        Claim.at_least("hole on smooth grounds better than mean colour's, in dB", gain("mean-colour", "hole_psnr_db"), 3.0),
        Claim.at_least("texture in the hole over the truth's", table.mean("method", "texture_ratio"), 0.6),
        Claim.at_most("texture in the hole over the truth's", table.mean("method", "texture_ratio"), 1.5),
        Claim.at_most("mean colour's texture over the truth's", table.mean("mean-colour", "texture_ratio"), 0.3),
        Claim.at_least("hole on smooth grounds not below RePaint's, in dB", gain("repaint", "hole_psnr_db"), 0.0),
        Claim.at_most("model calls over RePaint's", table.ratio("method", "repaint", "model_calls"), 0.25),
        Claim.at_least("IoU of the moved object", table.mean("method", "iou"), 0.8),
        Claim.at_most("residue less than with the query masked", gain("mask-query", "residue_share"), 0.0),
        Claim.at_most("residue less than with the value masked", gain("mask-value", "residue_share"), 0.0),
        Claim.at_least(
            "ring around a moved object better than with fusion at the last step, in dB",
            bootstrap(difference, of("method", "ring_psnr_db")[-moves:], of("late-fusion", "ring_psnr_db")),
            0.0,
        ),
        Claim.at_least("outside before the blend, over the autoencoder's own, in dB", gain("autoencoder", "outside_psnr_db"), -0.5),
    ]
    return [claim for claim in found if math.isfinite(claim.value)]


def measure(
    model: TextToImage,
    *,
    seed: int,
    count: int = COUNT,
    split: str = "eval",
    preset: str = "small",
    settings: DesignEdit | None = None,
    events: Events = SILENT,
) -> Report:
    """The whole experiment on a model.

    Args:
        model: a text-to-image model of 64 px of the toy world.
        seed: of scenes and noise.
        count: scenes; each is a removal and a move.
        split: `eval`, or `tune` for whoever chooses settings.
        preset: the world that the model was trained on.
        settings: the method; `DesignEdit.toy()` by default.
        events: hears one step per picture.
    """
    test = PictureEditExperiment(model, settings or DesignEdit.toy(), seed, events)
    some = cases(preset, split, seed, count)
    events.stage(f"evaluate {SLUG}", 12 * len(some) + 2 * count)
    rows(test, some)
    return test.report(SLUG, count, model, claims(test))


@dataclass(frozen=True, kw_only=True)
class DesignEditEvaluation(Evaluation):
    """Does the object go, does the ground go on, and does a moved object arrive whole?"""

    slug: ClassVar[str] = SLUG
    model: ClassVar[str] = "toy-t2i"
    default_count: ClassVar[int] = COUNT
    quick_count: ClassVar[int] = 2

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        return measure(self.load(device), seed=seed, count=self.scenes(count, quick), events=events)
