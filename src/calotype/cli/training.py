"""The verb `train`: a method's checkpoints on the user's data, or an embedded model."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from calotype.cli import console
from calotype.cli.options import Common, Help, early_value, parse, print_json
from calotype.errors import Cancelled, InputError
from calotype.registry import did_you_mean, known_methods, known_trainings, resolve_training
from calotype.runs.presets import preset_instance

if TYPE_CHECKING:
    from calotype.train.training import Training

STOPPED = "stopped; the state is saved, the same command goes on with it"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Common):
    """What `train` takes for embedded models."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """An embedded model, such as toy-i2v, or a method that can be trained on your data."""
    pending: bool = False
    """All models that are below their gates, most needed first, each for an equal share of the budget."""
    budget: str = "20m"
    """Time for training, measuring and export (90s, 20m, 1.5h), of which training gets at least half; or steps (500steps)."""
    seed: int = 0
    """Of weights, data order and noise."""
    out: Path | None = None
    """Training folder; by default training/NAME. An interrupted training there goes on."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True, kw_only=True)
class MethodTrainOptions(Common):
    """Where and how a method's checkpoint is trained."""

    data: Path
    """Folder of your data; all of it is checked before anything is trained."""
    out: Path
    """Folder of the checkpoint. An interrupted training there goes on; a folder with anything else is refused."""
    model: str = ""
    """Checkpoint to begin with: an embedded model or a folder; without one, the weights are random."""
    preset: str = ""
    """Settings to begin with."""
    budget: str = "30m"
    """Time for training, measuring and export (90s, 20m, 1.5h), of which training gets at least half; or steps (500steps)."""
    seed: int = 0
    """Of weights, data order and noise."""
    device: str = "auto"
    """auto, cpu or cuda; several GPUs under `accelerate launch`."""


def train(arguments: Sequence[str]) -> int:
    """`calotype train METHOD --data DIR --out FOLDER`, `calotype train NAME` and `calotype train --pending`."""
    name = next((argument for argument in arguments if argument in known_methods()), None)
    if name is not None:
        rest = list(arguments)
        rest.remove(name)
        return _train_method(name, rest)
    return _train_embedded(arguments)


def _train_method(slug: str, arguments: list[str]) -> int:
    with console.starting(quiet="--quiet" in arguments):
        training = resolve_training(slug)
    asked = early_value(arguments, "--preset")
    preset = asked or next(iter(training.presets), "")
    default: Any = preset_instance(training, preset)
    parsed: Any = parse(_spec(training, default, preset), arguments, _page(training, preset), groups=_titles(preset))
    options: MethodTrainOptions = parsed.options
    try:
        with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
            folder = parsed.training(
                options.data, options.out, model=options.model or None, seed=options.seed, budget=options.budget, device=options.device,
                events=events,
            )  # fmt: skip
    except Cancelled:
        raise Cancelled(STOPPED) from None
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return 0
    metadata = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if options.json:
        print_json({"folder": str(folder), **metadata})
        return 0
    line = f"{metadata['steps']:,} steps in {console.seconds_text(metadata['seconds'])}, held-out loss {metadata['held_out_loss']:.5f}"
    console.results().print(f"  {folder}  {line}", markup=False, highlight=False, soft_wrap=True)
    if slug in known_methods() and not options.quiet:
        console.results().print(
            f"  use it: calotype run {slug} --model {shlex.quote(str(folder))} ...", markup=False, highlight=False, soft_wrap=True
        )
    return 0


def _spec(training: type[Training], default: Training, preset: str) -> type:
    """A dataclass of the training's fields and the options."""
    flat = tyro.conf.arg(name="")
    options = dataclasses.make_dataclass("Options", [("preset", str, preset)], bases=(MethodTrainOptions,), frozen=True, kw_only=True)
    fields: list[Any] = [("options", Annotated[options, flat]), ("training", Annotated[training, flat], default)]
    return dataclasses.make_dataclass("Train", fields, frozen=True, kw_only=True)


def _titles(preset: str) -> dict[str, str]:
    return {"options": "The training", "training": f"Settings{f' (preset {preset})' if preset else ''}"}


def _page(training: type[Training], preset: str) -> Help:
    from calotype.cli.listing import first_paragraph

    others = "".join(f", {name}" for name in training.presets if name != preset)
    details = f"{f'Presets: {preset} (these defaults){others}. ' if preset else ''}The same command goes on with an interrupted training."
    example = f"calotype train {training.slug} --data my-data --out my-model --budget 2h"
    return Help(f"calotype train {training.slug} --data DIR --out FOLDER [options]", first_paragraph(training), details, (example,))


def _train_embedded(arguments: Sequence[str]) -> int:
    page = Help(
        "calotype train NAME | --pending | METHOD --data DIR --out FOLDER [--budget 20m]",
        "Train an embedded model, or all that are below their gates. A worse one never replaces a better one; interrupted ones go on.",
        f"A method's checkpoints are trained on your own data: {', '.join(known_trainings())}; `calotype train METHOD --help` says more.",
        (
            "calotype train toy-vae --budget 30m",
            "calotype train --pending --budget 2h --device cuda",
            "calotype train qsmdiff --data maps --out my-prior --budget 2h",
        ),
    )
    options = parse(TrainOptions, arguments, page)
    if bool(options.name) == options.pending:
        raise InputError("give either the NAME of a model or --pending; `calotype models` lists the embedded ones")

    from calotype import embedded

    if options.name and options.name not in embedded.RECIPES:
        near = did_you_mean(options.name, [*embedded.RECIPES, *known_trainings()])
        raise InputError(f"no recipe {options.name!r}; {near}there are {', '.join(embedded.RECIPES)}")
    given: dict[str, Any] = {"budget": options.budget, "seed": options.seed, "out": options.out, "device": options.device}
    try:
        with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
            done = (
                embedded.train_pending(**given, events=events)
                if options.pending
                else [embedded.train(options.name, **given, events=events)]
            )
    except Cancelled:
        raise Cancelled(STOPPED) from None
    if options.json:
        print_json({"trained": [_plain(result) for result in done]})
        return 0
    _show_training(done)
    return 0


def _show_training(done: Sequence[Any]) -> None:
    from rich.table import Table

    out = console.results()
    if not done:
        out.print("every embedded model is at its gates; nothing to train", highlight=False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold cyan")
    for title in ("Model", "Steps", "Time", "Held-out loss", "Shipped before", "", "Folder"):
        table.add_column(title, no_wrap=title != "Folder", overflow="fold")
    for result in done:
        before = "-" if result.held_out_before is None else f"{result.held_out_before:.5f}"
        verdict = "[green]shipped[/]" if result.exported else "[dim]not better, kept the old one[/]"
        folder = result.folder if result.exported else result.run
        table.add_row(
            result.name, str(result.steps), console.seconds_text(result.seconds), f"{result.held_out:.5f}", before, verdict, str(folder)
        )
    out.print(table)


def _plain(result: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(result).items()}
