"""The verb that proves: eval."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from calotype.cli import console
from calotype.cli.options import Common, Help, parse, print_json
from calotype.errors import InputError
from calotype.index import EMBEDDED
from calotype.registry import find_evaluation, known_evaluations

if TYPE_CHECKING:
    from calotype.evaluation import Evaluation

CLAIM_FAILED = 1


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Common):
    """What `eval` takes."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A method or an embedded model."""
    seed: int = 1_000_000
    """Makes the scenes and the noise; a claim should hold on any."""
    count: int | None = None
    """Scenes; by default as many as take at most 8 minutes on 2 cores."""
    quick: bool = False
    """A few scenes only, to see that it runs."""
    record: bool = False
    """Write results/NAME.csv, from which the tables of the docs are made."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Common):
    """What `eval MODEL --timestep-profile` takes."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An embedded diffusion model, or a folder."""
    timestep_profile: bool = True
    """The loss at each noise level."""
    data: Path | None = None
    """Your pictures with captions, or with masks, of which the held-out part is measured; by default scenes of the toy world."""
    seed: int = 1_000_000
    """Makes the scenes and the noise."""
    count: int | None = None
    """Samples."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def _profile(arguments: Sequence[str]) -> int:
    """`calotype eval MODEL --timestep-profile`."""
    page = Help(
        "calotype eval MODEL --timestep-profile [--data DIR] [--count N]",
        "The loss of a diffusion model at each noise level, on samples that it wasn't trained on: the noise's (epsilon) and the sample's.",
        examples=("calotype eval toy-t2i --timestep-profile", "calotype eval my-segmenter --timestep-profile --data slides"),
    )
    options = parse(ProfileOptions, arguments, page)
    if options.count is not None and options.count < 1:
        raise InputError(f"count is {options.count}; it must be 1 or more")

    from calotype.evaluation.timestep_profiles import measure_profile

    with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
        report = measure_profile(
            options.name, seed=options.seed, count=options.count, data=options.data, device=options.device, events=events
        )
    if options.json:
        print_json(report.to_dict())
    else:
        console.results().print(report.render())
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """`calotype eval NAME`: the fields of the name's evaluation are flags beside the common ones."""
    if "--timestep-profile" in arguments:
        return _profile(arguments)
    known = known_evaluations()
    declared = _declared(next((argument for argument in arguments if argument in known), ""), quiet="--quiet" in arguments)
    page = Help(
        f"calotype eval {declared.slug if declared else 'NAME'} [--seed N] [--count N]",
        "The proof on ground truth: one table of the method against its baselines and ablations, then its claims, each with its bar.",
        "Exit status 1 if a claim fails.",
        (f"calotype eval {known[0]} --seed 7", "calotype eval toy-i2v --json", "calotype eval toy-t2i --timestep-profile"),
    )
    settings: dict[str, Any] = {}
    if declared is None:
        options = parse(EvalOptions, arguments, page)
    else:
        groups = {"options": "Options", "settings": f"Settings of {declared.slug}"}
        parsed: Any = parse(_with_settings(declared), arguments, page, groups=groups)
        options, settings = parsed.options, vars(parsed.settings)

    from calotype import evaluation

    with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
        report = evaluation.evaluate(
            find_evaluation(options.name),
            options.name,
            seed=options.seed,
            count=options.count,
            quick=options.quick,
            device=options.device,
            events=events,
            record=options.record,
            **settings,
        )
    if options.json:
        print_json(report.to_dict())
    else:
        console.results().print(report.render())
    return 0 if report.holds else CLAIM_FAILED


def _declared(name: str, *, quiet: bool) -> type[Evaluation] | None:
    """The class that evaluates something, if it has flags of its own."""
    if not name or name in EMBEDDED:
        return None
    with console.starting(quiet=quiet):
        found = find_evaluation(name)
    return found if isinstance(found, type) and dataclasses.fields(found) else None


def _with_settings(declared: type[Evaluation]) -> type:
    """A dataclass of `eval`'s own options and an evaluation's fields."""
    flat = tyro.conf.arg(name="")
    groups: list[Any] = [("options", Annotated[EvalOptions, flat]), ("settings", Annotated[declared, flat], declared())]
    spec: type = dataclasses.make_dataclass("Evaluate", groups, frozen=True, kw_only=True)
    return spec
