"""The proof of DesignEdit on ground truth: does the object go, does the ground go on, does a moved object arrive whole.

Each scene has two objects of which one is removed, and in a second case moved; the answers are painted. The toy world has no picture
without an object, so that a scene whose only object went would be nothing that its model could know. Both objects are marked: one is
edited, the other must not be copied from (`refine`). Rows `...@inverted` start the hole from the inverted picture, as the paper does.

Metrics of holes are pooled over both kinds. `hole_psnr_db` is over smooth grounds, `texture_ratio` over random texture,
`position_error_px` and `iou` over moves; `outside_psnr_db` is taken before untouched pixels are put back, everything else afterwards.
Every row has the same scenes, steps and masks, and the empty prompt.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.core.guidance import NoGuidance
from calotype.core.noise import RENOISE, START, batch_noise, renoiser
from calotype.core.roles import TextToImage
from calotype.core.samplers import Stepped, euler_step, sample
from calotype.core.timetravel import Reinject, walk
from calotype.evaluation.edit_cases import SIZE, Case, batches, cases
from calotype.evaluation.report import Claim, Report, Role, Row
from calotype.methods.design_edit import DesignEdit
from calotype.methods.design_edit.layered import to_cells
from calotype.methods.design_edit.method import blend
from calotype.methods.design_edit.regions import dilate
from calotype.metrics import Interval, bootstrap

SLUG = DesignEdit.slug
COUNT = 12
BATCH = 8
REPAINT = Reinject(rule="sigma", sigma_min=0.3, sigma_max=20.0, length=4, repeats=14)
"""RePaint's resampling: blocks of levels that are done again; the repeats make it take more than four times the method's calls."""

Levels = list[Tensor]
Maker = Callable[[Sequence[Case]], tuple[Float[Tensor, "batch 3 size size"], float]]
"""Makes the raw pictures of some cases; and the model calls of each."""


class Experiment:
    """Runs variants on cases; inverts each picture once."""

    def __init__(self, model: TextToImage, settings: DesignEdit, seed: int, events: Events) -> None:
        self.model, self.settings, self.seed, self.events = model, settings, seed, events
        self.factor = SIZE // model.latent_shape((SIZE, SIZE))[1]
        self.dilation = round(settings.dilation * self.factor)
        self.rows: list[Row] = []
        self.scenes: dict[str, dict[str, list[float]]] = {}
        self._inversions: dict[tuple[str, tuple[int, ...]], Levels] = {}

    def run(self, variant: str, role: Role, some: Sequence[Case], make: Maker, *, put_back: bool = True) -> None:
        """One row: the pictures of all cases, measured."""
        numbers: dict[str, list[float]] = {}
        for batch in batches(some, BATCH):
            began = time.perf_counter()
            raw, calls = make(batch)
            seconds = (time.perf_counter() - began) / len(batch)
            for case, pixels in zip(batch, raw, strict=True):
                window = (0, 0, SIZE, SIZE)
                edited = blend(case.task, pixels, window, self.dilation, self.settings.feather) if put_back else pixels
                found = {**case.measure(edited, pixels, self.dilation), "seconds": seconds, "model_calls": calls}
                for name, value in found.items():
                    numbers.setdefault(name, []).append(value)
            self.events.step(len(batch))
            self.events.check()
        self.scenes[variant] = numbers
        self.rows.append(Row.of(variant, role, numbers))

    def inverted(self, kind: str, pictures: Float[Tensor, "batch 3 size size"], batch: Sequence[Case]) -> Levels:
        """The inversion of some pictures; each is computed once."""
        key = kind, tuple(case.index for case in batch)
        if key not in self._inversions:
            self._inversions[key] = self.settings.inverted(self.model, pictures)
        return self._inversions[key]

    def edited(self, **changes: object) -> Maker:
        """The method, with some settings changed."""
        method = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]
        n = method.num_inference_steps

        def make(batch: Sequence[Case]) -> tuple[Tensor, float]:
            tasks = [case.task for case in batch]
            inversion = [self.inverted("source", torch.stack([task.source for task in tasks]), batch)]
            if batch[0].kind == "move":
                inversion.append(self.inverted("composite", torch.stack([task.composite for task in tasks]), batch))
            counter = Counter(self.events)
            done = method.edit(self.model, tasks, inversion=inversion, seed=self.seed + batch[0].index, events=counter)
            return done.pixels.cpu(), counter.calls / len(batch) + n * len(inversion)

        return make

    def rebuilt(self, fill: Callable[[Case], Tensor]) -> Maker:
        """Plain DDIM reconstruction of a picture whose hole is filled in pixels; a moved object is pasted in pixels."""
        n = self.settings.num_inference_steps

        def make(batch: Sequence[Case]) -> tuple[Tensor, float]:
            pictures = torch.stack([pasted(case, fill(case)) for case in batch])
            levels = self.settings.inverted(self.model, pictures)
            denoise = self.model.denoiser({"cond": self.model.condition([""] * len(batch))}, NoGuidance())
            x = sample(denoise, levels[0], self.model.sigmas(n), events=Counter(self.events))
            return self.model.decode(x).cpu(), 2.0 * n

        return make

    def repainted(self) -> Maker:
        """RePaint (Lugmayr et al. 2022): the outside is the noised picture at every level, and blocks of levels are done again."""
        n = self.settings.num_inference_steps

        def make(batch: Sequence[Case]) -> tuple[Tensor, float]:
            hole = to_cells(torch.stack([dilate(case.hole, self.dilation) for case in batch]), self.factor)[:, None] >= 0.5
            known = self.model.encode(torch.stack([pasted(case, case.picture) for case in batch]))
            device, shape, seed, sigmas = known.device, tuple(known.shape[1:]), self.seed + batch[0].index, self.model.sigmas(n)
            outside = (~hole).to(device)
            denoise = self.model.denoiser({"cond": self.model.condition([""] * len(batch))}, NoGuidance())

            def step(
                denoise: object, x: Tensor, sigma: float, sigma_next: float, history: Mapping[str, Tensor] | None = None, position: int = 0
            ) -> Stepped:
                stepped = euler_step(denoise, x, sigma, sigma_next)  # type: ignore[arg-type]
                fresh = batch_noise(shape, seed, len(batch), stream=RENOISE + (1 << 18) + position).to(device)
                return Stepped(torch.where(outside, known + sigma_next * fresh, stepped.x), stepped.x0)

            start = batch_noise(shape, seed, len(batch), stream=START).to(device) * (float(sigmas[0]) ** 2 + 1) ** 0.5
            x = sample(
                denoise, start, sigmas, step=step, walk=walk(sigmas, REPAINT), renoise=renoiser(shape, seed, len(batch)),
                events=Counter(self.events),
            )  # fmt: skip
            return self.model.decode(x).cpu(), denoise.calls / len(batch)

        return make

    def autoencoded(self) -> Maker:
        """The right answer through the autoencoder and back: the best that any method on these latents can do."""
        return lambda batch: (self.model.decode(self.model.encode(torch.stack([case.answer for case in batch]))).cpu(), 0.0)


class Counter(Events):
    """Counts the network's evaluations; lets a stop through and keeps the inner steps to itself."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.calls = 0.0

    def metric(self, name: str, value: float) -> None:
        """Add up `model_calls`."""
        if name == "model_calls":
            self.calls += value

    def check(self) -> None:
        """Pass on."""
        self._events.check()


def pasted(case: Case, picture: Float[Tensor, "3 size size"]) -> Float[Tensor, "3 size size"]:
    """The picture with the moved object in its new place; a removal's picture as it is."""
    return torch.where(case.place, case.task.composite, picture)


def grey_hole(case: Case) -> Float[Tensor, "3 size size"]:
    """The picture with middle grey where the object was."""
    return torch.where(case.mask, torch.full(()  , 0.5), case.picture)  # fmt: skip


def mean_colour(case: Case) -> Float[Tensor, "3 size size"]:
    """The picture with the mean colour of the ring around the object where the object was."""
    ring = dilate(case.mask, 6) & ~dilate(case.mask, 2)
    return torch.where(dilate(case.mask, 1), case.picture[:, ring].mean(1)[:, None, None], case.picture)


def membrane(case: Case, steps: int = 400) -> Float[Tensor, "3 size size"]:
    """The picture with the hole stretched over like a membrane: classical inpainting, the solution of Laplace's equation."""
    hole, picture = dilate(case.mask, 1).numpy(), mean_colour(case).numpy().astype(np.float64)
    kernel = np.array([[0.0, 0.25, 0.0], [0.25, 0.0, 0.25], [0.0, 0.25, 0.0]])
    for _ in range(steps):
        for channel in picture:
            channel[hole] = ndimage.convolve(channel, kernel, mode="nearest")[hole]
    return torch.from_numpy(picture).float()


def rows(test: Experiment, some: Sequence[Case]) -> None:
    """The method, its baselines and its ablations."""
    moves = [case for case in some if case.kind == "move"]
    late = {"fuse": 1.0}
    test.run("method", "method", some, test.edited())
    test.run("reconstruction", "baseline", some, test.rebuilt(lambda case: case.picture))
    test.run("grey-hole", "baseline", some, test.rebuilt(grey_hole))
    test.run("mean-colour", "baseline", some, lambda batch: (torch.stack([pasted(case, mean_colour(case)) for case in batch]), 0.0))
    test.run("membrane", "baseline", some, lambda batch: (torch.stack([pasted(case, membrane(case)) for case in batch]), 0.0))
    test.run("repaint", "baseline", some, test.repainted())
    test.run("mask-off", "ablation", some, test.edited(masked="none"))
    test.run("mask-query", "ablation", some, test.edited(masked="query"))
    test.run("mask-value", "ablation", some, test.edited(masked="value"))
    test.run("guidance-1", "ablation", some, test.edited(guidance_scale=1.0))
    test.run("late-fusion", "ablation", moves, test.edited(**late))
    inverted = {"hole_noise": 0.0, "hole_eta": 0.0}
    test.run("method@inverted", "ablation", some, test.edited(**inverted))
    test.run("mask-off@inverted", "ablation", some, test.edited(**inverted, masked="none"))
    test.run("autoencoder", "ceiling", some, test.autoencoded())


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis."""
    return np.asarray(values.mean(-1))


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the differences."""
    return np.asarray((ours - theirs).mean(-1))


def ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over mean."""
    return np.asarray(ours.mean(-1) / theirs.mean(-1))


def claims(scenes: Mapping[str, Mapping[str, list[float]]]) -> list[Claim]:
    """Each claim must hold at the unfavourable end of its 90 % bootstrap interval over scenes."""

    def of(variant: str, metric: str) -> list[float]:
        return scenes[variant][metric]

    def gain(other: str, metric: str) -> Interval:
        return bootstrap(difference, of("method", metric), of(other, metric))

    moves = len(scenes["late-fusion"]["iou"])
    ours = scenes["method"]
    found = [
        Claim.at_most(
            "removal and move: share of the object that is left in the hole", bootstrap(mean, of("method", "residue_share")), 0.10
        ),
        Claim.at_least("plain reconstruction leaves the object, share", bootstrap(mean, of("reconstruction", "residue_share")), 0.9),
        Claim.at_least(
            "key mask off: the object comes back where the hole starts from the inverted picture, share",
            bootstrap(mean, of("mask-off@inverted", "residue_share")),
            0.5,
        ),
        Claim.at_least(
            "key mask off: more of the hole is something foreign, share",
            bootstrap(difference, of("mask-off", "foreign_share"), of("method", "foreign_share")),
            0.05,
        ),
        Claim.at_least("hole on smooth grounds better than grey-hole's, in dB", gain("grey-hole", "hole_psnr_db"), 3.0),
        Claim.at_least("hole on smooth grounds better than mean colour's, in dB", gain("mean-colour", "hole_psnr_db"), 3.0),
        Claim.at_least("texture in the hole over the truth's", bootstrap(mean, of("method", "texture_ratio")), 0.6),
        Claim.at_most("texture in the hole over the truth's", bootstrap(mean, of("method", "texture_ratio")), 1.5),
        Claim.at_most("mean colour's texture over the truth's", bootstrap(mean, of("mean-colour", "texture_ratio")), 0.3),
        Claim.at_least("hole on smooth grounds not below RePaint's, in dB", gain("repaint", "hole_psnr_db"), 0.0),
        Claim.at_most("model calls over RePaint's", bootstrap(ratio, of("method", "model_calls"), of("repaint", "model_calls")), 0.25),
        Claim.at_least("IoU of the moved object", bootstrap(mean, of("method", "iou")), 0.8),
        Claim.at_most("residue less than with the query masked", gain("mask-query", "residue_share"), 0.0),
        Claim.at_most("residue less than with the value masked", gain("mask-value", "residue_share"), 0.0),
        Claim.at_least(
            "ring around a moved object better than with fusion at the last step, in dB",
            bootstrap(difference, ours["ring_psnr_db"][-moves:], of("late-fusion", "ring_psnr_db")),
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
    began = time.perf_counter()
    settings = settings or DesignEdit.toy()
    some = cases(preset, split, seed, count)
    events.stage(f"evaluate {SLUG}", 13 * len(some) + count)
    test = Experiment(model, settings, seed, events)
    rows(test, some)
    device = str(getattr(model, "device", "cpu"))
    return Report(SLUG, seed, count, device, time.perf_counter() - began, test.rows, claims(test.scenes))


def evaluate(*, seed: int, count: int | None, quick: bool, device: str, events: Events) -> Report:
    """See `calotype.evaluation.evaluate`."""
    from calotype.backbones import load

    return measure(load("toy-t2i", device=device), seed=seed, count=count or (2 if quick else COUNT), events=events)
