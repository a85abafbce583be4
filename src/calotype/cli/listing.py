"""The verbs `list` and `info`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from calotype.cli import console
from calotype.cli.options import Common, Help, parse, print_json
from calotype.index import METHODS, MODELS
from calotype.registry import has_training, known_trainings, plugins, resolve_method, resolve_training

if TYPE_CHECKING:
    from calotype.core.method import Method


@dataclass(frozen=True, kw_only=True)
class ListOptions(Common):
    """What `list` takes."""


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Common):
    """What `info` takes."""

    method: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")]
    """Name of the method, as `calotype list` shows it."""


def working_methods() -> list[tuple[str, str]]:
    """Slug and summary of every method that can be run."""
    own = [(slug, row.summary) for slug, row in METHODS.items() if row.target is not None]
    return own + [(slug, f"of the package {plugin.package}") for slug, plugin in plugins().items() if not plugin.problem]


def first_paragraph(thing: Any) -> str:
    """The first paragraph of a docstring, without its markup."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("`", "").replace("\n", " ")


def models_of(role: str) -> list[str]:
    """The checkpoints of a role that can be named."""
    return [name for name, model in MODELS.items() if model.role == role and not model.removed]


def list_methods(arguments: Sequence[str]) -> int:
    """`calotype list`."""
    options = parse(ListOptions, arguments, Help("calotype list", "The methods by family, and which of them work today."))
    added, trained = plugins(), known_trainings()
    if options.json:
        own = {
            slug: {
                "family": row.family,
                "summary": row.summary,
                "paper": row.paper,
                "works": row.target is not None,
                "trains": slug in trained,
                "package": "calotype",
            }
            for slug, row in METHODS.items()
        }
        others = {
            slug: {
                "family": "",
                "summary": "",
                "paper": "",
                "works": not plugin.problem,
                "trains": slug in trained,
                "package": plugin.package,
            }
            for slug, plugin in added.items()
        }
        print_json({"methods": {**own, **others}})
        return 0
    from rich.table import Table

    out = console.results()
    wide = out.width >= 130
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    if wide:
        table.add_column(no_wrap=True, style="dim")
    family = ""
    for slug, row in METHODS.items():
        if row.family != family:
            if family:
                table.add_row()
            family = row.family
            table.add_row(f"[bold cyan]{family}[/]")
        works = row.target is not None
        state = ("[green]works, trains[/]" if slug in trained else "[green]works[/]") if works else "planned"
        table.add_row(f"  {slug}", state, row.summary, *([row.paper] if wide else []), style="" if works else "dim")
    if added:
        table.add_row()
        table.add_row("[bold cyan]from other packages[/]")
        for slug, plugin in added.items():
            if not plugin.problem:
                table.add_row(f"  {slug}", f"[green]works{', trains' if slug in trained else ''}[/]", f"of the package {plugin.package}")
    out.print(table)
    out.print(
        "\n[dim]calotype info METHOD tells more; calotype run METHOD --help shows its flags,\n"
        "calotype train METHOD --help those of a method that trains.[/]",
        highlight=False,
    )
    for plugin in added.values():
        if plugin.problem:
            console.errors().print(f"warning: {plugin.problem}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    return 0


def info(arguments: Sequence[str]) -> int:
    """`calotype info METHOD`."""
    options = parse(InfoOptions, arguments, Help("calotype info METHOD", "What a method does, what it needs, its parameters and presets."))
    method = resolve_method(options.method)
    from calotype.runs import call_parameters, field_notes
    from calotype.runs.presets import preset_instance
    from calotype.runs.signature import needed_models
    from calotype.runs.values import encode

    parameters = call_parameters(method)
    presets = {name: encode(preset_instance(method, name)) for name in method.presets}
    row = METHODS.get(method.slug)
    models = models_of(method.role)
    named = {name: role for name, role in needed_models(method).items() if name != "model"}
    if options.json:
        inputs = [
            {"name": item.name, "kind": f"{item.kind}{'s' if item.several else ''}", "required": item.required, "help": item.help}
            for item in parameters
        ]
        print_json(
            {
                "method": method.slug,
                "summary": first_paragraph(method),
                "paper": row.paper if row else "",
                "role": method.role,
                "models": models,
                "named_models": {name: {"role": role, "models": models_of(role)} for name, role in named.items()},
                "inputs": inputs,
                "parameters": field_notes(method),
                "presets": presets,
                "defaults": encode(preset_instance(method, next(iter(method.presets), ""))),
                "training": _training_facts(method.slug),
            }
        )
        return 0
    _show_info(method, parameters, presets, models)
    return 0


def _show_info(method: type[Method], parameters: Sequence[Any], presets: dict[str, Any], models: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from calotype.runs.comparing import flat
    from calotype.runs.presets import preset_instance
    from calotype.runs.values import encode

    out = console.results()
    row = METHODS.get(method.slug)
    out.print(Text.assemble((method.slug, "bold"), f"  {row.summary if row else ''}  ", (row.paper if row else "", "dim")))
    out.print()
    text = (inspect.getdoc(method) or "").partition("\nExample:")[0].replace("`", "").strip()
    for paragraph in text.split("\n\n"):
        out.print(Text(paragraph.replace("\n", " ")))
        out.print()
    out.print(Text("What it needs", style="bold cyan"))
    needs = [("a model", f"{', '.join(models) or 'a folder'}; or another one of the role {method.role}")] if method.role else []
    for item in parameters:
        known = f" One of the role {item.role}: {', '.join(models_of(item.role)) or 'a folder'}." if item.role else ""
        need = "(needed)" if item.required else "(if you like)"
        needs.append((f"--{item.name.replace('_', '-')}", f"{item.help.replace('`', '')}{known} {need}"))
    out.print(_pairs(needs))
    out.print()
    if presets:
        out.print(Text("Presets", style="bold cyan"))
        out.print(_pairs([(name, first_paragraph(getattr(method, name))) for name in presets]))
        out.print()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold cyan")
    table.add_column("Parameters", no_wrap=True)
    shown_as = presets or {"default": encode(preset_instance(method, ""))}
    for name in shown_as:
        table.add_column(name, no_wrap=True)
    wide = out.width >= 110
    if wide:
        table.add_column("", style="dim")
    columns = {name: flat(values) for name, values in shown_as.items()}
    notes = _all_notes(method)
    for parameter in next(iter(columns.values())):
        cells = [_short(column.get(parameter)) for column in columns.values()]
        shown = [cell if index == 0 or cell != cells[0] else f"[dim]{cell}[/]" for index, cell in enumerate(cells)]
        table.add_row(f"  {parameter}", *shown, *([notes.get(parameter, "").replace("`", "")] if wide else []))
    out.print(table)
    if has_training(method.slug):
        training = resolve_training(method.slug)
        out.print(Text("\nTraining on your own data", style="bold cyan"))
        out.print(Text(f"  {first_paragraph(training)}"))
        out.print(Text(f"  calotype train {method.slug} --data DIR --out FOLDER; its --help shows the settings"), style="dim")
    out.print(
        f"\n[dim]calotype run {method.slug} --help shows the flags; calotype doctor {method.slug} says what it costs here.[/]",
        highlight=False,
    )


def _training_facts(slug: str) -> dict[str, Any] | None:
    """A training's settings, None where there is none."""
    if not has_training(slug):
        return None
    from calotype.runs import field_notes
    from calotype.runs.presets import preset_instance
    from calotype.runs.values import encode

    training: Any = resolve_training(slug)
    presets = {name: encode(preset_instance(training, name)) for name in training.presets}
    return {
        "summary": first_paragraph(training),
        "parameters": field_notes(training),
        "presets": presets,
        "defaults": encode(preset_instance(training, next(iter(training.presets), ""))),
    }


def _pairs(rows: Sequence[tuple[str, str]]) -> Any:
    """Names and what they mean, in two columns."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, text in rows:
        table.add_row(f"  {name}", text)
    return table


def _all_notes(kind: type, prefix: str = "") -> dict[str, str]:
    """The docstrings of all fields, those of nested dataclasses with their prefix."""
    from calotype.runs.signature import field_notes, field_types

    notes = {f"{prefix}{name}": text for name, text in field_notes(kind).items()}
    for name, annotation in field_types(kind).items():
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            notes |= _all_notes(annotation, f"{prefix}{name}.")
    return notes


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
