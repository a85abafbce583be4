"""The one training loop: accelerate, AdamW or Muon, moving average, bf16, and a state on disk that a kill at any moment leaves whole."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calotype.core.errors import CalotypeError, InputError
from calotype.core.events import SILENT, Events
from calotype.core.files import write_json
from calotype.train.budget import Budget, learning_rate_share
from calotype.train.draws import Draws, rows_of_step
from calotype.train.ema import MovingAverage
from calotype.train.muon import Muon
from calotype.train.recipe import Recipe, Settings, Source
from calotype.train.state import POINTER, load_tensors, read_counters, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG = "progress.jsonl"
TRAIN_SEED = 0
"""Of the training scenes, which are the same in every run, so that latents kept on disk serve the next one too."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
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
    return Accelerator(mixed_precision="bf16", cpu=device == "cpu" or not torch.cuda.is_available())


class Loop:
    """One run of a recipe in a folder. `fit` starts it, or goes on from its last state."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        budget: Budget,
        seed: int,
        checkpoints: Path,
        start: Path | None = None,
        device: str = "auto",
        events: Events = SILENT,
        save_every: float = 60.0,
        report_every: float = 600.0,
        settings: Settings | None = None,
        marks: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> None:
        self.marks = dict(marks or {})
        self.recipe, self.folder, self.budget, self.seed = recipe, folder, budget, seed
        self.accelerator = accelerator_for(device)
        self.read_only = read_only
        events = events if self.accelerator.is_main_process else SILENT
        self.events, self.save_every, self.report_every = events, save_every, report_every
        self.device = str(self.accelerator.device)
        self.settings = settings or recipe.settings
        if settings is None and self.accelerator.device.type == "cuda":
            self.settings = replace(self.settings, batch_size=self.settings.cuda_batch_size)
        # On a GPU the next batch is made while this one is computed; on a CPU both would only share the cores.
        self.ahead = ThreadPoolExecutor(1) if self.accelerator.device.type == "cuda" else None
        self.coming: Future[dict[str, Tensor]] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        model = recipe.build(seed=seed, start=start, checkpoints=checkpoints)
        self.average = MovingAverage(model, self.settings.ema_decay)
        self.average.module.to(self.accelerator.device)
        common = {"folder": folder / "data", "checkpoints": checkpoints, "start": start, "device": self.device}
        with self.accelerator.main_process_first():
            self.source = recipe.source(model, split="train", seed=TRAIN_SEED, **common)
            self.held_out = recipe.source(model, split="tune", seed=self.settings.held_out_seed, **common)
        self.peak = self.settings.learning_rate if start is None else self.settings.warm_learning_rate
        self.model, self.optimizer = self.accelerator.prepare(model, self._optimizer(model))
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        numbers: dict[str, Any] = {"lr": self.peak, "betas": self.settings.betas, "weight_decay": self.settings.weight_decay}
        if self.settings.optimizer == "muon":
            return Muon(model, **numbers)
        return torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], fused=True, **numbers)

    def fit(self) -> Fitted:
        """Train until the budget is used up.

        The caller holds the folder's lock (`calotype.train.state.locked`).

        Raises:
            CalotypeError: the loss is no number any more.
        """
        counters = self._resume()
        if not counters.get("finished"):
            self._run()
        held_out = counters.get("held_out")
        if held_out is None:
            held_out = self.measure(self.settings.held_out)
            self._log({"held_out": held_out, "final": True})
            self._save(finished=True, held_out=held_out)
        self._draw()
        return self._fitted(held_out, self.settings.held_out)

    def close(self) -> None:
        """Note in the state that the run's model was shipped or turned down, so that the next training in this folder is a new one."""
        counters = read_counters(self.folder)
        if counters is not None and self.accelerator.is_main_process:
            write_json(self.folder / POINTER, {**counters, "closed": True})

    def average_now(self) -> Fitted:
        """The moving average of the state on disk, without training; its loss is measured on part of the held-out samples."""
        held_out = self._resume().get("held_out")
        if held_out is not None:
            return self._fitted(held_out, self.settings.held_out)
        return self._fitted(self.measure(self.settings.held_out_often), self.settings.held_out_often)

    def _fitted(self, held_out: float, count: int) -> Fitted:
        samples = self.step * self.settings.batch_size
        trainee = self.average.module.float().cpu()
        return Fitted(
            trainee=trainee, source=self.held_out, steps=self.step, samples=samples, seconds=self.seconds, held_out=held_out,
            held_out_count=count, device=self.device, settings=self.settings,
        )  # fmt: skip

    def _run(self) -> None:
        total = self.budget.steps or round(self.budget.seconds or 0.0)
        self.events.stage(f"train {self.recipe.name}", total)
        shown = 0
        before = time.monotonic()
        saved = reported = before
        while True:
            progress = self._agreed(self.budget.progress(seconds=self.seconds, steps=self.step))
            done = int(progress * total)
            if done > shown:
                self.events.step(done - shown)
                shown = done
            if progress >= 1.0:
                break
            self._one_step(progress)
            now = time.monotonic()
            self.seconds, before = self.seconds + now - before, now
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

    def _one_step(self, progress: float) -> None:
        settings, accelerator = self.settings, self.accelerator
        batch = self._batch(self.step) if self.coming is None else self.coming.result()
        if self.ahead is not None:
            self.coming = self.ahead.submit(self._batch, self.step + 1)
        share = learning_rate_share(progress, self.step, warmup_steps=settings.warmup_steps, decay_share=settings.decay_share)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * share
        self.model.train()
        loss = self.model(batch).mean()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        value = float(accelerator.reduce(loss.detach(), reduction="mean"))
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            raise CalotypeError(
                f"training {self.recipe.name} diverged at step {self.step} (loss {value}); the last good state is in {self.folder}, "
                "start again with a lower learning rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(accelerator.unwrap_model(self.model))
        self.step += 1
        self.losses.append(value)

    def _batch(self, step: int) -> dict[str, Tensor]:
        """This process's part of a step's batch, a function of the step's number alone."""
        size, accelerator = self.settings.batch_size, self.accelerator
        rows = rows_of_step(step, size, self.source.count, self.seed)
        ours = range(accelerator.process_index, size, accelerator.num_processes)
        return self.source.batch([rows[place] for place in ours], Draws(self.seed, step, ours, size), augment=True)

    @torch.no_grad()
    def measure(self, count: int) -> float:
        """The moving average's loss on the first `count` held-out samples, which are the same in every run of the recipe."""
        return held_out_loss(self.average.module, self.held_out, self.settings, count, self.accelerator)

    def _report(self, progress: float) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        loss = sum(self.losses) / len(self.losses)
        self.losses.clear()
        self.events.metric("loss", loss)
        per_second = self.step * self.settings.batch_size / max(self.seconds, 1e-9)
        self._log({"loss": loss, "learning_rate": rate, "progress": progress, "samples_per_second": per_second})

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
        from calotype.train.sheets import plot_progress

        if (self.folder / LOG).is_file():
            plot_progress(self.folder / LOG, self.folder / "loss.png")
        self.recipe.sheet(self.average.module, self.held_out, self.folder / "sheets" / f"{self.step:07d}")

    def _save(self, **extra: Any) -> None:
        if self.accelerator.is_main_process:
            counters = {
                "name": self.recipe.name, "seed": self.seed, "budget": str(self.budget), "step": self.step, "seconds": self.seconds,
                "ema_updates": self.average.updates, "peak_learning_rate": self.peak, "batch_size": self.settings.batch_size,
                **self.marks, **extra,
            }  # fmt: skip
            save_state(self.folder, counters, self.accelerator.unwrap_model(self.model), self.average.module, self.optimizer)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> dict[str, Any]:
        counters = read_counters(self.folder)
        if counters is None:
            return {}
        for name, given in (("name", self.recipe.name), ("seed", self.seed), ("batch_size", self.settings.batch_size)):
            if counters[name] != given:
                raise InputError(f"{self.folder} holds a run with {name} {counters[name]}, not {given}; choose another folder with --out")
        load_tensors(
            self.folder,
            counters,
            model=self.accelerator.unwrap_model(self.model),
            average=self.average.module,
            optimizer=_inner(self.optimizer),
        )
        self.step, self.seconds, self.average.updates = counters["step"], counters["seconds"], counters["ema_updates"]
        self.peak = counters["peak_learning_rate"]
        if not self.read_only:
            _cut_log(self.folder / LOG, self.step)
        return counters


def held_out_loss(trainee: nn.Module, source: Source, settings: Settings, count: int, accelerator: Accelerator) -> float:
    """Mean loss over fixed held-out samples with fixed noise."""
    trainee.eval()
    total, size = 0.0, settings.batch_size
    device = accelerator.device
    trainee.to(device)
    with torch.no_grad():
        for start in range(0, count, size):
            places = range(min(size, count - start))
            draws = Draws(settings.held_out_seed, start // size, places, size)
            batch = source.batch([start + place for place in places], draws, augment=False)
            with accelerator.autocast():
                total += float(trainee(batch).float().sum())
    return total / count


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


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
