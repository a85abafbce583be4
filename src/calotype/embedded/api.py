"""`train` and `train_pending`: what the command line calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.core.events import SILENT, Events
from calotype.embedded.export import device_words, export, gates_of, missing_gates, read_gates, weights_mark, write_card, write_gates
from calotype.embedded.recipes import RECIPES, find
from calotype.errors import InputError, MissingError
from calotype.train.budget import Budget
from calotype.train.loop import Trainer, TrainResult, accelerator_for
from calotype.train.recipe import Recipe
from calotype.train.state import POINTER, locked, read_counters

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
"""Where the package keeps its embedded models."""
TRAIN_SEED = 0
"""Of the training scenes, which are the same in every run, so that latents kept on disk serve the next one too."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """How a training ended."""

    name: str
    steps: int
    samples: int
    seconds: float
    held_out: float
    """The moving average's loss on the fixed held-out samples."""
    held_out_before: float | None
    """The same of the weights that were shipped before, None where there were none."""
    exported: bool
    """Whether the new weights replaced them."""
    run: Path
    """The training folder: state, progress.jsonl, loss.png, sheets/."""
    folder: Path
    """The model's folder."""


def train(
    name: str,
    *,
    budget: str | Budget = "30m",
    seed: int = 0,
    out: Path | str | None = None,
    device: str = "auto",
    warm_start: bool = True,
    export: bool = True,
    checkpoints: Path | str | None = None,
    recipe: Recipe | None = None,
    events: Events = SILENT,
    save_every: float = 60.0,
    report_every: float = 600.0,
) -> ExportResult:
    """Train an embedded model, or go on with an interrupted training in the same folder, and export it if it is better than what is there.

    Args:
        name: `toy-vae`, `toy-t2i`, `toy-i2v`, ... (`RECIPES`).
        budget: `30m` for training, measuring and export together (the schedule follows the clock; training gets at least half, so that a
            budget too short for measuring is overrun, with a note) or `500steps` (repeatable bit for bit on one machine).
        seed: of weights, data order and noise; the training scenes are always the same.
        out: training folder; default `./training/<name>`. An interrupted run there goes on, a finished one is followed by a new one.
        device: `auto`, `cpu` or `cuda`; several processes under `accelerate launch`.
        warm_start: start from the shipped weights where there are some (with a lower learning rate), else from random ones.
        export: replace the shipped weights if the held-out loss is lower; false only trains.
        checkpoints: folder of the embedded models; default: the package's own.
        recipe: for a recipe of your own.
        events: hears the stages (`prepare`, `train`, `measure`, `draw samples`, `export`), their steps (of `train`: seconds, or steps), the
            metric `loss`, and a note on the precision; `events.check` may cancel.
        save_every: seconds between states on disk.
        report_every: seconds between sample sheets with a held-out loss on part of the samples.

    Raises:
        InputError: a bad name, budget, device or a folder that holds another run.
        MissingError: a model that this one is built on is not trained yet.
        CalotypeError: the training diverged.
    """
    recipe = recipe or find(name)
    home = Path(checkpoints) if checkpoints is not None else CHECKPOINTS
    run = Path(out) if out is not None else Path("training") / name
    asked = Budget.parse(budget)
    accelerator = accelerator_for(device)
    # Everything in the folder is read and written under the lock: two trainings that start in a new one must not both make it.
    with locked(run) if accelerator.is_main_process else nullcontext():
        return _train(
            name, recipe, run, home, asked, seed=seed, device=device, warm_start=warm_start, export=export, events=events,
            save_every=save_every, report_every=report_every, accelerator=accelerator,
        )  # fmt: skip


def _train(
    name: str,
    recipe: Recipe,
    run: Path,
    home: Path,
    asked: Budget,
    *,
    seed: int,
    device: str,
    warm_start: bool,
    export: bool,
    events: Events,
    save_every: float,
    report_every: float,
    accelerator: Accelerator,
) -> ExportResult:
    """`train`, in a folder that this process has locked."""
    shipped = home / name
    with accelerator.main_process_first():
        counters = read_counters(run)
        if counters is not None and counters.get("closed"):
            _clear(run)
            counters = None
        if counters is not None:
            warm_start = bool(counters.get("warm_start", True))
        start = _pinned_start(shipped, run) if warm_start else None
    loop = trainer_of(
        recipe, run, budget=asked, seed=seed, checkpoints=home, start=start, accelerator=accelerator, events=events,
        save_every=save_every, report_every=report_every, marks={"warm_start": warm_start},
    )  # fmt: skip
    if weights_mark(shipped) and _known_loss(shipped, read_gates(home).get(name) or {}, loop) is None:
        loop.measures = 2  # the shipped weights' loss too
    fitted = loop.fit()
    metadata = read_gates(home).get(name) or {}
    before = _loss_before(recipe, shipped, run, metadata, loop) if weights_mark(shipped) else None
    better = before is None or fitted.held_out < before
    loop.accelerator.wait_for_everyone()
    if export and better and loop.accelerator.is_main_process:
        events.stage(f"export {name}")
        _export(recipe, fitted, home, name, seed, earlier=metadata if start is not None else None)
    elif not better:
        events.note(f"{name}: held-out loss {fitted.held_out:.5f} is not below the shipped model's {before:.5f}, which is kept")
    loop.close()
    return ExportResult(
        name=name, steps=fitted.steps, samples=fitted.samples, seconds=fitted.seconds, held_out=fitted.held_out, held_out_before=before,
        exported=export and better, run=run, folder=shipped,
    )  # fmt: skip


def trainer_of(recipe: Recipe, run: Path, *, checkpoints: Path, start: Path | None, accelerator: Accelerator, **given: Any) -> Trainer:
    """The training of a recipe in a folder; `given` goes to `Trainer`."""
    settings = recipe.settings
    if accelerator.device.type == "cuda":
        settings = replace(settings, batch_size=settings.cuda_batch_size)
    model = recipe.build(seed=given["seed"], start=start, checkpoints=checkpoints)
    common: dict[str, Any] = {"folder": run / "data", "checkpoints": checkpoints, "start": start, "device": str(accelerator.device)}
    run.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        source = recipe.source(model, split="train", seed=TRAIN_SEED, **common)
        held_out = recipe.source(model, split="tune", seed=settings.held_out_seed, **common)
    peak = settings.learning_rate if start is None else settings.warm_learning_rate
    return Trainer(
        recipe.name, model, source=source, held_out=held_out, folder=run, accelerator=accelerator, settings=settings, peak=peak,
        sample_grid=recipe.sample_grid, **given,
    )  # fmt: skip


def train_pending(
    *,
    budget: str | Budget = "20m",
    seed: int = 0,
    device: str = "auto",
    out: Path | str | None = None,
    checkpoints: Path | str | None = None,
    events: Events = SILENT,
    validate: bool = True,
) -> list[ExportResult]:
    """The queue: train every embedded model that is below its gates, most needed first, each for an equal share of the budget.

    A model that others are built on and that doesn't exist comes first; then those that miss more of their gates. Afterwards each
    new model's gate figures are measured, on top of the budget, and written to its card and to `gates.json` (`validate`).

    Returns:
        One result for each model that was trained, in order. One whose packages or parts are missing is left out, with a note.

    Raises:
        MissingError: that holds for all of them.
    """
    home = Path(checkpoints) if checkpoints is not None else CHECKPOINTS
    waiting = pending(home)
    asked = Budget.parse(budget)
    results: list[ExportResult] = []
    for name in waiting:
        folder = Path(out) / name if out is not None else None
        part = asked.split(1.0 / len(waiting))
        try:
            result = train(name, budget=part, seed=seed, out=folder, device=device, checkpoints=home, events=events)
        except MissingError as error:
            if name == waiting[-1] and not results:
                raise
            events.note(f"{name} is left out: {error}")
            continue
        if validate and result.exported:
            measure_gates(name, seed=1, checkpoints=home, device=device, events=events)
        results.append(result)
    return results


def pending(checkpoints: Path | None = None) -> list[str]:
    """The models below their gates, most needed first."""
    home = checkpoints or CHECKPOINTS
    known = read_gates(home)
    need = {}
    for place, name in enumerate(RECIPES):
        missed = missing_gates(name, known.get(name))
        absent = weights_mark(home / name) is None
        if absent or missed:
            need[name] = (not absent, place if absent else 0, -len(missed) / max(1, len(gates_of(name))), place)
    return sorted(need, key=lambda name: need[name])


def measure_gates(
    name: str, *, seed: int, count: int | None = None, checkpoints: Path | str | None = None, device: str = "auto", events: Events = SILENT
) -> dict[str, float]:
    """Validate a shipped model and write the figures to `gates.json` and its card."""
    home = Path(checkpoints) if checkpoints is not None else CHECKPOINTS
    figures = dict(find(name).validate(home / name, seed=seed, count=count, device=device, events=events))
    record_figures(name, figures, seed=seed, checkpoints=home)
    return figures


def record_figures(name: str, figures: Mapping[str, float], *, seed: int, checkpoints: Path | None = None) -> None:
    """Write a shipped model's figures to `gates.json` and its card.

    Raises:
        InputError: the folder has other weights than the gates file describes.
    """
    home = checkpoints or CHECKPOINTS
    metadata = read_gates(home).get(name)
    if metadata is None or metadata.get("weights") != weights_mark(home / name):
        raise InputError(f"{home / name} has other weights than gates.json describes; train it with: calotype train {name}")
    metadata = {**metadata, "figures": dict(figures), "figures_seed": seed}
    write_gates(home, name, metadata)
    write_card(home / name, name, metadata)


def export_run(name: str, *, out: Path | str | None = None, checkpoints: Path | str | None = None, recipe: Recipe | None = None) -> Path:
    """Ship the moving average of a training as it is now, finished or not, without comparing: for a first look at the whole path.

    The training isn't touched and may go on meanwhile.
    """
    recipe = recipe or find(name)
    home = Path(checkpoints) if checkpoints is not None else CHECKPOINTS
    run = Path(out) if out is not None else Path("training") / name
    counters = read_counters(run)
    if counters is None:
        raise InputError(f"{run} holds no training state; start one with: calotype train {name}")
    start = run / "start" if counters.get("warm_start") and (run / "start").is_dir() else None
    loop = trainer_of(
        recipe, run, budget=Budget.parse(counters["budget"]), seed=counters["seed"], checkpoints=home, start=start,
        accelerator=accelerator_for("cpu"), read_only=True,
    )  # fmt: skip
    fitted = loop.average_now()
    _export(recipe, fitted, home, name, counters["seed"], earlier=None)
    return home / name


def _export(recipe: Recipe, fitted: TrainResult, home: Path, name: str, seed: int, earlier: dict[str, Any] | None) -> None:
    export(recipe, fitted.trainee, fitted.source, home / name)
    metadata: dict[str, Any] = {
        "weights": weights_mark(home / name), "held_out": fitted.held_out,
        "held_out_seed": fitted.settings.held_out_seed, "held_out_count": fitted.held_out_count, "preset": "small",
        "steps": fitted.steps, "batch_size": fitted.settings.batch_size, "seconds": round(fitted.seconds, 1), "seed": seed,
        "device": device_words(fitted.device), "precision": fitted.precision, "held_out_precision": fitted.held_out_precision,
    }  # fmt: skip
    if earlier:
        metadata["earlier"] = {"steps": earlier["steps"] + earlier.get("earlier", {}).get("steps", 0)}
    write_gates(home, name, metadata)
    write_card(home / name, name, metadata)


def _loss_before(recipe: Recipe, shipped: Path, run: Path, metadata: dict[str, Any], loop: Trainer) -> float:
    known = _known_loss(shipped, metadata, loop)
    if known is not None:
        return known
    model = recipe.build(seed=0, start=shipped, checkpoints=shipped.parent)
    source = recipe.source(
        model,
        split="tune",
        seed=loop.settings.held_out_seed,
        folder=run / "data-shipped",
        checkpoints=shipped.parent,
        start=shipped,
        device=loop.device,
    )
    return loop.measure_all(model, source, f"measure the shipped {recipe.name}")


def _known_loss(shipped: Path, metadata: dict[str, Any], loop: Trainer) -> float | None:
    """The shipped weights' loss, if it was measured on the same samples with the same noise in the same precision as the new one's."""
    settings = loop.settings
    expected = {
        "weights": weights_mark(shipped), "held_out_seed": settings.held_out_seed, "held_out_count": settings.held_out,
        "batch_size": settings.batch_size, "held_out_precision": loop.precision.name,
    }  # fmt: skip
    found = {"held_out_precision": "bfloat16", **metadata}
    return float(found["held_out"]) if all(found.get(key) == value for key, value in expected.items()) else None


def _pinned_start(shipped: Path, run: Path) -> Path | None:
    """The weights that a run starts from, copied into it: a resumed run must see them even if others were shipped meanwhile."""
    from calotype.train.latents import pin

    copy = run / "start"
    if copy.is_dir():
        return copy
    if read_counters(run) is not None or weights_mark(shipped) is None:
        return None
    run.mkdir(parents=True, exist_ok=True)
    pin(shipped, run).rename(copy)
    return copy


def _clear(run: Path) -> None:
    """Make room for a new run: the finished one's log stays under a number, cached data stays where it still fits."""
    import shutil

    number = 1 + len(list(run.glob("progress-*.jsonl")))
    with suppress(FileNotFoundError):
        (run / "progress.jsonl").rename(run / f"progress-{number}.jsonl")
    for path in _state_files(run):
        path.unlink(missing_ok=True)
    shutil.rmtree(run / "start", ignore_errors=True)
    for part in ("vae", "toy-vae", "text_encoder", "tokenizer"):
        shutil.rmtree(run / "data" / part, ignore_errors=True)


def _state_files(run: Path) -> Iterator[Path]:
    yield run / POINTER
    yield from run.glob("state-*.safetensors")
