"""The one training loop: accelerate, optimisers, stages, moving average, the faster precision, a state on disk that a kill leaves whole."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calotype.core.events import SILENT, Events
from calotype.errors import CalotypeError, InputError
from calotype.imaging.files import write_json
from calotype.train.budget import Budget
from calotype.train.ema import MovingAverage
from calotype.train.latents import Chunks
from calotype.train.optimizers import Optimizers, bounds
from calotype.train.precision import precision_for, precision_words
from calotype.train.recipe import Settings, Sheet, Source
from calotype.train.rng import BatchRng, rows_of_step
from calotype.train.stages import MAIN
from calotype.train.state import POINTER, load_tensors, read_counters, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG, SHEETS = "progress.jsonl", "sheets"
FIRST_SAVE = 10.0
"""Seconds after which a session first saves its state, however seldom it does later."""
EARLY = 60.0
"""Seconds of training after which the first look is taken; a budget of time below five times as many has none."""
SHEET_SHARE = 0.2
"""A sheet of samples at the end may take this share of a budget of time; in shorter ones it is left out."""
TIMED_BATCHES = 2
"""Held-out batches that the cost of measuring is estimated from: the fastest of them, since other work on the machine only slows down."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left behind: the moving average in float32 on the CPU, and its numbers."""

    trainee: nn.Module
    source: Source
    steps: int
    samples: int
    seconds: float
    """Wall time of training itself, over all sessions of the run."""
    held_out: float
    held_out_count: int
    """On how many samples `held_out` was measured."""
    device: str
    settings: Settings
    precision: str
    """What was trained in, in words."""
    held_out_precision: str
    """What `held_out` was measured in."""


def accelerator_for(device: str) -> Accelerator:
    """`auto`, `cpu` or `cuda`; several processes when started by `accelerate launch`."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {device!r} is not known to the training; choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but this machine has no CUDA device; choose cpu")
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return Accelerator(mixed_precision=precision_for("cpu" if on_cpu else "cuda").accelerate, cpu=on_cpu)


class Trainer:
    """One training in a folder. `fit` starts it, or goes on from its last state.

    The trainee is a module whose `forward(batch)` gives the loss of each sample, [B]: what is measured on held-out samples and, for a
    trainee without more, what is trained. One that has a method `training_step(batch, optimizers)` says itself what a step is, and calls
    `Optimizers.update` once for each optimiser that moves; one that has `enter(stage)` hears which of `Settings.stages` begins or goes on.

    Args:
        name: what messages and the state call it.
        trainee: what is trained. Its parameters that need no gradient stay as they are.
        source: of training samples.
        held_out: of those that the moving average's loss is measured on.
        folder: for the state, the log, the plot and the sheets.
        budget: of everything; see `fit`.
        seed: of data order and noise.
        accelerator: from `accelerator_for`.
        settings: the numbers.
        peak: the learning rate that a new run reaches; the settings' by default.
        sheet: draws what the trainee can do today; see `Recipe.sheet`.
        marks: more to keep with the state's counters.
        read_only: nothing in the folder is changed.

    Raises:
        InputError: a group of a stage has nothing to train.
    """

    def __init__(
        self,
        name: str,
        trainee: nn.Module,
        *,
        source: Source,
        held_out: Source,
        folder: Path,
        budget: Budget,
        seed: int,
        accelerator: Accelerator,
        settings: Settings,
        peak: float | None = None,
        sample_grid: Sheet | None = None,
        events: Events = SILENT,
        save_every: float = 60.0,
        report_every: float = 600.0,
        marks: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> None:
        self.name, self.sample_grid, self.marks = name, sample_grid, dict(marks or {})
        self.folder, self.budget, self.seed = folder, budget, seed
        self.training = budget
        """What of the budget is left for training itself."""
        self.accelerator, self.settings = accelerator, settings
        self.precision = precision_for(accelerator.device)
        self.precisions: list[tuple[int, str]] = [(0, self.precision.name)]
        """`(first step, name)` of each stretch of the run."""
        self.read_only = read_only
        self.measures = 1
        """How many models are measured on the held-out samples after the training."""
        events = events if accelerator.is_main_process else SILENT
        self.events, self.save_every, self.report_every = events, save_every, report_every
        self.device = str(accelerator.device)
        # On a GPU the next batch is made while this one is computed; on a CPU both would only share the cores.
        self.ahead = ThreadPoolExecutor(1) if accelerator.device.type == "cuda" else None
        self.coming: Future[dict[str, Tensor]] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.source, self.held_out = source, held_out
        self.average = MovingAverage(trainee, settings.ema_decay)
        self.average.module.to(accelerator.device)
        self.peak = settings.learning_rate if peak is None else peak
        self._whole = frozenset(name for name, parameter in trainee.named_parameters() if parameter.requires_grad)
        self._own_step = callable(getattr(trainee, "training_step", None))
        # A step of its own calls the trainee's parts, and stages freeze others, which a wrapper would not hear of: there `Optimizers` sums
        # the gradients over processes.
        self._wrapped = not self._own_step and len(settings.stages) == 1
        self.model = accelerator.prepare(trainee) if self._wrapped else trainee.to(accelerator.device)
        self.trainee: nn.Module = trainee
        self.step, self.seconds, self.will_draw = 0, 0.0, True
        self.stage, self.stage_step = 0, 0
        """Which of the stages it is in, and the step at which that began."""
        self.ends = bounds(settings.stages)
        self.optimizers = self._enter()

    def _enter(self) -> Optimizers:
        """The optimisers of the stage that begins or goes on."""
        stage = self.settings.stages[self.stage]
        for module in (self.trainee, self.average.module):
            if callable(enter := getattr(module, "enter", None)):
                enter(stage.name)
        return Optimizers(
            self.trainee, stage, self.settings, whole=self._whole, accelerator=self.accelerator, precision=self.precision,
            reduced=self._wrapped,
        )  # fmt: skip

    def fit(self) -> TrainResult:
        """Prepare the held-out samples, train until the budget is used up, measure the moving average, and draw a sheet of samples.

        A budget of time holds for all that and for the export, as far as it can: training itself gets at least half. After about a minute
        of a longer one, a note says what the whole will come to, and a first sheet is drawn.

        The caller holds the folder's lock (`calotype.train.state.locked`).

        Raises:
            CalotypeError: the loss is no number any more.
        """
        counters = self._resume()
        if not counters.get("finished"):
            self._tell_precision(fresh=not counters)
            self.will_draw = self._reserve()
            self._run()
        held_out = counters.get("held_out")
        if held_out is None:
            held_out = self.measure_all(self.average.module, self.held_out, f"measure {self.name}")
            self._log({"held_out": held_out, "final": True})
            self._save(finished=True, held_out=held_out, held_out_precision=self.precision.name)
        if self.will_draw:
            self.events.stage(f"draw samples of {self.name}")
            self._draw()
        return self._fitted(held_out, self.settings.held_out, counters.get("held_out_precision"))

    def _tell_precision(self, *, fresh: bool) -> None:
        """Say in the log and to the listener what is computed in, at the start and when a resumed run finds another processor."""
        now, before = self.precision, self.precisions[-1][1]
        if not fresh and now.name == before:
            return
        if not fresh:
            self.precisions.append((self.step, now.name))
        self._log({"precision": now.name, "device": self.device, "budget": str(self.budget)})
        change = "" if fresh else f" from step {self.step} on, {before} before"
        self.events.note(f"{self.name} is trained in {now.name}{change}: {now.reason}")

    def _reserve(self) -> bool:
        """Make the held-out samples, and take what else than training a budget of time must pay for off it; whether a sheet fits in."""
        settings, name = self.settings, self.name
        begun = time.monotonic()
        chunks = getattr(self.held_out, "chunks", None)
        made = chunks.count // chunks.chunk if isinstance(chunks, Chunks) else 0
        self.events.stage(f"prepare {name}", made + 1 + TIMED_BATCHES)
        if isinstance(chunks, Chunks):
            with self.accelerator.main_process_first():
                chunks.make_all(self._stepped)
        if self.budget.seconds is None:
            self.events.step(1 + TIMED_BATCHES)
            return True
        first = min(settings.batch_size, settings.held_out)
        self.measure(first)  # kernels are chosen in the first call
        self._stepped()
        batch = math.inf
        for _ in range(TIMED_BATCHES):
            before = time.monotonic()
            self.measure(first)
            batch = min(batch, time.monotonic() - before)
            self._stepped()
        measuring = self.measures * batch * math.ceil(settings.held_out / settings.batch_size)
        sample_grid = batch * settings.sheet_batches
        draw = sample_grid <= SHEET_SHARE * self.budget.seconds
        needed = time.monotonic() - begun + measuring + batch * settings.export_batches + draw * sample_grid
        needed, draw = self._agreed(needed), bool(self._agreed(draw))
        self.training = self.budget.less(needed)
        if needed > self.budget.seconds / 2:
            self.events.note(
                f"{self.budget} are short for {name}: measuring it on {settings.held_out:,} fixed samples and exporting it take about "
                f"{max(1, round(needed))} s beside {self.training} of training"
            )
        return draw

    def _stepped(self) -> None:
        self.events.step()
        self.events.check()

    def close(self) -> None:
        """Note in the state that the run's model was shipped or turned down, so that the next training in this folder is a new one."""
        counters = read_counters(self.folder)
        if counters is not None and self.accelerator.is_main_process:
            write_json(self.folder / POINTER, {**counters, "closed": True})

    def average_now(self) -> TrainResult:
        """The moving average of the state on disk, without training; its loss is measured on part of the held-out samples."""
        counters = self._resume()
        held_out = counters.get("held_out")
        if held_out is not None:
            return self._fitted(held_out, self.settings.held_out, counters.get("held_out_precision"))
        return self._fitted(self.measure(self.settings.held_out_often), self.settings.held_out_often)

    def _fitted(self, held_out: float, count: int, measured_in: str | None = None) -> TrainResult:
        samples = self.step * self.settings.batch_size
        trainee = self.average.module.float().cpu()
        return TrainResult(
            trainee=trainee, source=self.held_out, steps=self.step, samples=samples, seconds=self.seconds, held_out=held_out,
            held_out_count=count, device=self.device, settings=self.settings,
            precision=precision_words(self.precisions), held_out_precision=measured_in or self.precision.name,
        )  # fmt: skip

    def _run(self) -> None:
        total = self.training.steps or max(1, round(self.training.seconds or 0.0))
        self.events.stage(f"train {self.name}", total)
        shown = 0
        before = time.monotonic()
        saved, reported = before - max(0.0, self.save_every - FIRST_SAVE), before
        while True:
            progress = self._agreed(self.training.progress(seconds=self.seconds, steps=self.step))
            done = int(progress * total)
            if done > shown:
                self.events.step(done - shown)
                shown = done
            if progress >= 1.0:
                break
            if progress >= self.ends[self.stage]:
                self._next_stage()
            self._one_step(progress)
            now = time.monotonic()
            early = self.seconds < EARLY <= self.seconds + now - before
            self.seconds, before = self.seconds + now - before, now
            if self._agreed(early):
                self._look_early(progress)
            if self.step % 20 == 0 or self.step == 1:
                self._report(progress)
            if self._agreed(now - saved) >= self.save_every:
                self._save()
                saved = time.monotonic()
            if self._agreed(now - reported) >= self.report_every:
                self._log({"held_out": self.measure(self.settings.held_out_often)})
                self._draw()
                reported = time.monotonic()
            self._check()
        self._save()

    def _agreed(self, value: float) -> float:
        """The main process's value: each process reads its own clock, and they must leave the loop, save and report together."""
        if self.accelerator.num_processes == 1:
            return value
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor([value], dtype=torch.float64, device=self.accelerator.device))[0])

    def _check(self) -> None:
        try:
            self.events.check()
        except CalotypeError:
            self._save()
            raise

    def _next_stage(self) -> None:
        """Begin the next stage with the moving average of this one."""
        self.stage, self.stage_step = self.stage + 1, self.step
        self.trainee.load_state_dict(self.average.module.state_dict())
        self.average.updates = 0
        self.optimizers = self._enter()
        self._log({"stage": self.settings.stages[self.stage].name})

    def _look_early(self, progress: float) -> None:
        """After a minute of a longer training: what the whole comes to, and the first sheet."""
        whole = self.budget.seconds
        if progress >= 1.0 or not self.will_draw or (whole is not None and whole < 5 * EARLY):
            return
        speed = self.step / self.seconds
        if self.training.steps is not None:
            told = f"the other {self.training.steps - self.step:,} take about {(self.training.steps - self.step) / speed / 60:.0f} minutes"
        else:
            told = f"{self.training} of training make about {speed * (self.training.seconds or 0.0):,.0f}"
        self._draw()
        first = f"; the first samples are in {self.folder / SHEETS}" if self.sample_grid is not None else ""
        self.events.note(f"{self.name}: {self.step:,} steps of {self.settings.batch_size} samples in the first minute, {told}{first}")

    def _one_step(self, progress: float) -> None:
        batch = self._batch(self.step) if self.coming is None else self.coming.result()
        if self.ahead is not None:
            self.coming = self.ahead.submit(self._batch, self.step + 1)
        begin = self.ends[self.stage - 1] if self.stage else 0.0
        self.optimizers.at(self.step - self.stage_step, (progress - begin) / (self.ends[self.stage] - begin), self.peak)
        self.model.train()
        try:
            if self._own_step:
                self.trainee.training_step(batch, self.optimizers)  # type: ignore[operator]
            else:
                self.optimizers.update(MAIN, batch, self.model)
        except FloatingPointError as error:
            raise CalotypeError(
                f"training {self.name} diverged at step {self.step} ({error}); the last good state is in {self.folder}, "
                "start again with a lower learning rate"
            ) from None
        self.average.update(self.trainee)
        self.step += 1

    def _batch(self, step: int) -> dict[str, Tensor]:
        """This process's part of a step's batch, a function of the step's number alone."""
        size, accelerator = self.settings.batch_size, self.accelerator
        rows = rows_of_step(step, size, self.source.count, self.seed)
        ours = range(accelerator.process_index, size, accelerator.num_processes)
        return self.source.batch([rows[place] for place in ours], BatchRng(self.seed, step, ours, size), augment=True)

    @torch.no_grad()
    def measure(self, count: int) -> float:
        """The moving average's loss on the first `count` held-out samples, which are the same in every run of the recipe."""
        return held_out_loss(self.average.module, self.held_out, self.settings, count, self.accelerator)

    def measure_all(self, trainee: nn.Module, source: Source, title: str) -> float:
        """A module's loss on all the held-out samples that decide about shipping, with a bar of its own."""
        settings = self.settings
        self.events.stage(title, math.ceil(settings.held_out / settings.batch_size))
        return held_out_loss(trainee, source, settings, settings.held_out, self.accelerator, self._stepped)

    def _report(self, progress: float) -> None:
        losses = self.optimizers.report()
        for name, value in losses.items():
            self.events.metric(name, value)
        per_second = self.step * self.settings.batch_size / max(self.seconds, 1e-9)
        self._log({**losses, "learning_rate": self.optimizers.rate, "progress": progress, "samples_per_second": per_second})

    def _log(self, values: Mapping[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        line = {"step": self.step, "samples": self.step * self.settings.batch_size, "seconds": self.seconds, **values}
        rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")

    def _draw(self) -> None:
        if not self.accelerator.is_main_process:
            return
        from calotype.train.sample_grids import plot_progress

        if (self.folder / LOG).is_file():
            plot_progress(self.folder / LOG, self.folder / "loss.png")
        if self.sample_grid is not None:
            self.sample_grid(self.average.module, self.held_out, self.folder / SHEETS / f"{self.step:07d}")

    def _save(self, **extra: Any) -> None:
        if self.accelerator.is_main_process:
            counters = {
                "name": self.name, "seed": self.seed, "budget": str(self.budget), "step": self.step, "seconds": self.seconds,
                "ema_updates": self.average.updates, "peak_learning_rate": self.peak, "batch_size": self.settings.batch_size,
                "precisions": self.precisions, "stage": self.stage, "stage_step": self.stage_step, **self.marks, **extra,
            }  # fmt: skip
            save_state(self.folder, counters, self.trainee, self.average.module, self.optimizers.inner)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> dict[str, Any]:
        counters = read_counters(self.folder)
        if counters is None:
            return {}
        for name, given in (("name", self.name), ("seed", self.seed), ("batch_size", self.settings.batch_size)):
            if counters[name] != given:
                raise InputError(f"{self.folder} holds a run with {name} {counters[name]}, not {given}; choose another folder with --out")
        self.stage, self.stage_step = counters.get("stage", 0), counters.get("stage_step", 0)
        if self.stage >= len(self.settings.stages):
            raise InputError(f"{self.folder} holds a run in stage {self.stage + 1} of fewer; choose another folder with --out")
        if self.stage:
            self.optimizers = self._enter()
        load_tensors(self.folder, counters, model=self.trainee, average=self.average.module, optimizers=self.optimizers.inner)
        self.step, self.seconds, self.average.updates = counters["step"], counters["seconds"], counters["ema_updates"]
        self.peak = counters["peak_learning_rate"]
        # Runs of before the precision was chosen were all trained in bfloat16.
        self.precisions = [(int(step), str(name)) for step, name in counters.get("precisions", [(0, "bfloat16")])]
        if not self.read_only:
            _cut_log(self.folder / LOG, self.step)
        return counters


def held_out_loss(
    trainee: nn.Module, source: Source, settings: Settings, count: int, accelerator: Accelerator, done: Callable[[], None] = lambda: None
) -> float:
    """Mean loss over fixed held-out samples with fixed noise; `done` is called after each batch."""
    trainee.eval()
    total, size = 0.0, settings.batch_size
    device = accelerator.device
    trainee.to(device)
    with torch.no_grad():
        for start in range(0, count, size):
            places = range(min(size, count - start))
            rng = BatchRng(settings.held_out_seed, start // size, places, size)
            batch = source.batch([start + place for place in places], rng, augment=False)
            with accelerator.autocast():
                total += float(trainee(batch).float().sum())
            done()
    return total / count


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines of steps that were lost with the kill, and a half-written last line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
