"""`calotype run CHAIN.json`: methods one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calotype.cli import console
from calotype.cli.loading import Device, Dtype, load_model, look, output
from calotype.cli.options import Common, Help, parse, print_json
from calotype.cli.reporting import show_place
from calotype.registry import resolve_method

if TYPE_CHECKING:
    from calotype.chains import ChainRun


@dataclass(frozen=True, kw_only=True)
class ChainOptions(Common):
    """What `run CHAIN.json` takes."""

    seed: int = 0
    """Seed of all noise; a link of the chain may name its own."""
    out: Path | None = None
    """Folder of the chain; by default runs/<time>-chain."""
    overwrite: bool = False
    """Replace the chain that is in --out."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    dtype: Dtype = "auto"
    """Precision of the networks; auto is float16 on a GPU and float32 on the CPU."""


def run_chain(file: str, arguments: Sequence[str]) -> int:
    """`calotype run CHAIN.json`."""
    page = Help(
        "calotype run CHAIN.json [options]",
        "Run several methods one after the other: what one link makes is what the next one is given, to the bit.",
        "The folder holds a run folder for each link, chain.json with every link's record, and chain.png with every link's result.",
        ("calotype run examples/chain.json --out my-chain",),
    )
    options = parse(ChainOptions, arguments, page)
    with console.starting(quiet=options.quiet):
        from calotype import chains

        chain = chains.Chain.read(file, resolve_method)
    with output(options) as events:
        from calotype.runs import ModelRequest

        for name in (name for link in chain.links for name in link.models.values()):
            look(ModelRequest(name))
        done = chains.run_chain(
            chain,
            load_model=load_model,
            seed=options.seed,
            device=options.device,
            dtype=options.dtype,
            out=options.out,
            overwrite=options.overwrite,
            events=events,
        )
    return report_chain(done, options)


def report_chain(done: ChainRun, options: Common) -> int:
    """What was made and where it lies."""
    if options.json:
        records = {name: run.record.to_json() for name, run in done.runs.items()}
        told = {} if done.identical is None else {"identical": done.identical}
        print_json({"folder": str(done.folder), "links": records, **told})
        return 0
    out = console.results()
    if options.quiet:
        out.print(str(done.folder), markup=False, highlight=False, soft_wrap=True)
        return 0
    for name, run in done.runs.items():
        for entry in run.record.outputs.values():
            show_place(name, run.folder / entry.get("file", ""))
    for file in ("chain.json", "chain.png"):
        show_place("all", done.folder / file)
    if done.identical is not None:
        line = "[green]bit for bit the same as the recorded chain[/]" if done.identical else "[yellow]not bit for bit the recorded chain[/]"
        out.print(f"  {line}", highlight=False)
    return 0
