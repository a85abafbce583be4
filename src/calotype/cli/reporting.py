"""What a run made, told on stdout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.cli import console
from calotype.cli.options import Common, print_json
from calotype.errors import printable

if TYPE_CHECKING:
    from calotype.runs import Run
    from calotype.runs.entries import OutputEntry


def report_run(done: Run, options: Common) -> None:
    """What was made and where it lies."""
    record = done.record
    if options.json:
        value = {"folder": str(done.folder), **record.to_json()}
        if done.identical is not None or done.differences:
            value["identical"], value["differences"] = done.identical, list(done.differences)
        print_json(value)
        return
    out = console.results()
    if options.quiet:
        out.print(str(done.folder), markup=False, highlight=False, soft_wrap=True)
        return
    from rich.text import Text

    lines: list[tuple[str, str, str]] = []
    for name, entry in record.outputs.items():
        lines.append((name, str(done.folder / entry.get("file", "")), f"  {_facts(entry)}"))
    lines += [("record", str(done.folder / "run.json"), ""), ("cost", _cost(record), "")]
    for name, told, shape in lines:
        show_place(name, told, shape)
    if done.identical is True:
        out.print("  [green]bit for bit the same as the recorded run[/]", highlight=False)
    elif done.identical is False:
        out.print("  [yellow]not bit for bit the recorded run[/]; `calotype compare` shows how far apart they are", highlight=False)
    for line in done.differences:
        out.print(Text.assemble("  ", ("differs:", "yellow"), " ", printable(line)), highlight=False, soft_wrap=True)


def show_place(name: str, place: str | Path, note: str = "") -> None:
    """One line of a report: what something is called, and where it lies, as it is."""
    from rich.text import Text

    row = Text.assemble("  ", (f"{printable(name):<14}", "bold"), " ", printable(str(place)), (printable(note), "dim"))
    console.results().print(row, highlight=False, soft_wrap=True)


def _facts(entry: OutputEntry) -> str:
    from calotype.runs.artifact import NO_METADATA
    from calotype.runs.kinds import KINDS

    kind = KINDS.get(entry["kind"])
    return (kind.metadata if kind is not None else NO_METADATA).shown(entry)


def _cost(record: Any) -> str:
    parts = [console.seconds_text(record.seconds.get("total", 0.0))]
    if "model_calls" in record.metrics:
        since = " since it was resumed" if record.sessions > 1 else ""
        parts.append(f"{record.metrics['model_calls']:.0f} model calls{since}")
    for name, value in record.peak_memory_bytes.items():
        parts.append(f"at most {value / 2**30:.1f} GB {'of memory' if name == 'ram' else 'on the GPU'}")
    if record.environment.get("device"):
        parts.append(str(record.environment["device"]))
    return ", ".join(parts)
