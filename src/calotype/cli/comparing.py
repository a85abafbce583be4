"""The verb `compare`: two runs, or two folders of clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from calotype.cli import console
from calotype.cli.loading import Device, output
from calotype.cli.options import Common, Help, parse, print_json
from calotype.errors import InputError, printable

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Common):
    """What `compare` takes."""

    left: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, its run.json, or a file that a run made; with --features, a folder of clips."""
    right: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN ")]
    """The other one."""
    all: bool = False
    """Show what is the same, too."""
    features: str = ""
    """Compare two folders of clips as samples, by the features of toy-clip-features (clips of the toy world) or of the I3D in a
    safetensors file (FVD)."""
    frames: int | None = None
    """With --features: frames of each clip that are looked at; by default 8 for toy-clip-features and 16 for I3D."""
    stride: int = 1
    """With --features: every so many frames one is taken."""
    device: Device = "auto"
    """With --features: where the network runs."""


def compare(arguments: Sequence[str]) -> int:
    """`calotype compare RUN RUN`."""
    page = Help(
        "calotype compare RUN RUN | DIR DIR --features NAME",
        "Two runs side by side: in what their settings differ, what they cost, how far the results are apart.",
        "With --features, two folders of clips as samples: how far their distributions are apart.",
        ("calotype compare runs/a runs/b", "calotype compare clips made --features toy-clip-features"),
    )
    options = parse(CompareOptions, arguments, page)
    if options.features:
        return _compare_clips(options)
    _refuse_others(options)

    from calotype import runs

    comparison = runs.compare(options.left, options.right)
    if options.json:
        print_json(comparison.to_json())
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold cyan")
    table.add_column("")
    table.add_column(Text(printable(comparison.left)), overflow="fold")
    table.add_column(Text(printable(comparison.right)), overflow="fold")
    section, equal = "", 0
    for line in comparison.lines:
        if line.same and not options.all and line.section not in ("results", "metrics"):
            equal += 1
            continue
        if line.section != section:
            table.add_row(Text(line.section, style="bold"), "", "")
            section = line.section
        style = "dim" if line.same else ""
        table.add_row(Text(f"  {printable(line.name)}"), _cell(line.left), _cell(line.right), style=style)
    console.results().print(table)
    if equal:
        console.results().print(f"{equal} more values are the same; --all shows them", style="dim", highlight=False)
    return 0


def _refuse_others(options: CompareOptions) -> None:
    """Refuse flags that only two folders of clips have."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    given = [f"--{name}" for name in ("frames", "stride", "device") if getattr(options, name) != defaults[name]]
    if given:
        raise InputError(f"only --features takes {', '.join(given)}; add it, or leave {'it' if len(given) == 1 else 'them'} out")


def _compare_clips(options: CompareOptions) -> int:
    """`calotype compare DIR DIR --features NAME`."""
    with console.starting(quiet=options.quiet):
        from calotype.evaluation.clip_distance import clip_distance
    with output(options) as events:
        found = clip_distance(
            options.left,
            options.right,
            features=options.features,
            num_frames=options.frames,
            stride=options.stride,
            device=options.device,
            events=events,
        )
    if options.json:
        print_json({"left": str(options.left), "right": str(options.right), **found.to_json()})
        return 0
    frechet, kernel = found.frechet, found.kernel
    lines = (
        f"{found.name}: {frechet.value:.4g}; without its bias by the number of clips {frechet.corrected:.4g} +- {frechet.error:.2g}",
        f"kernel distance of the same features: {kernel.value:.4g} +- {kernel.error:.2g}",
        f"{frechet.counts[0]} and {frechet.counts[1]} clips, {found.num_frames} frames each, {frechet.dimensions} features",
    )
    for line in lines:
        console.results().print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _cell(value: Any) -> Text:
    """A value as it is: records are no markup, and steer no terminal."""
    from rich.text import Text

    if value is None:
        return Text("-")
    return Text(f"{value:.6g}" if isinstance(value, float) else printable(str(value)))
