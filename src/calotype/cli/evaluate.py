"""The verbs that prove: eval, and world, which makes the scenes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from calotype.cli import console
from calotype.cli.options import Common, Help, parse, print_json
from calotype.errors import InputError
from calotype.index import EMBEDDED
from calotype.registry import did_you_mean, find_evaluation, known_evaluations

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
class WorldOptions(Common):
    """What `world` takes."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder for the data set."""
    count: int = 100
    """Scenes, or brains."""
    frames: int = 1
    """Frames of a scene; with more than one, clips are written."""
    size: int = 64
    """Height and width in pixels, 32 to 512."""
    preset: str = "small"
    """The world: small, full, or brain: maps of synthetic brains as NIfTI, each with its mask and field."""
    spacing: float = 2.0
    """Of a brain: side of the voxels in mm."""
    split: Literal["train", "tune", "eval"] = "train"
    """Scenes of different splits never meet."""
    seed: int = 0
    """Of the scenes; the same seed gives the same scenes everywhere."""
    overwrite: bool = False
    """Replace a data set that is there."""


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


def world(arguments: Sequence[str]) -> int:
    """`calotype world DIR`."""
    page = Help(
        "calotype world DIR [--count N] [--frames N]",
        "Write a data set of toy scenes that other tools can read: pictures or clips, masks, captions, every ground truth as JSON lines.",
        examples=(
            "calotype world scenes --count 1000 --size 128",
            "calotype world clips --count 100 --frames 8 --preset full",
            "calotype world maps --preset brain --count 12",
        ),
    )
    options = parse(WorldOptions, arguments, page)
    folder = options.folder.expanduser()

    from calotype.world import PRESETS, write_dataset

    known = (*PRESETS, "brain")
    if options.preset not in known:
        raise InputError(f"no preset {options.preset!r}; {did_you_mean(options.preset, known)}there are {', '.join(known)}")
    if options.preset == "brain":
        return _brains(options, folder)
    with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
        write_dataset(
            folder,
            preset=options.preset,
            split=options.split,
            seed=options.seed,
            count=options.count,
            size=options.size,
            num_frames=options.frames,
            overwrite=options.overwrite,
            events=events,
        )
    if options.json:
        print_json({"folder": str(folder), "count": options.count, "frames": options.frames, "size": options.size, "seed": options.seed})
    else:
        what = "clips" if options.frames > 1 else "pictures"
        console.results().print(
            f"  {options.count} {what} of {options.size}x{options.size} px are in {folder}", highlight=False, soft_wrap=True
        )
    return 0


def _brains(options: WorldOptions, folder: Path) -> int:
    from calotype.world.brains.dataset import write_brains

    if options.frames != 1:
        raise InputError(f"--frames {options.frames} is for pictures; leave it out with --preset brain")
    with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
        write_brains(
            folder,
            split=options.split,
            seed=options.seed,
            count=options.count,
            spacing=options.spacing,
            overwrite=options.overwrite,
            events=events,
        )
    if options.json:
        print_json({"folder": str(folder), "count": options.count, "spacing": options.spacing, "seed": options.seed})
    else:
        told = f"  {options.count} brains of {options.spacing:g} mm are in {folder}: _Chimap, _mask and _fieldmap-local of each"
        console.results().print(told, highlight=False, soft_wrap=True)
    return 0
