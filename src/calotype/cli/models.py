"""The verb `models`: the checkpoints that can be named, which of them are on this machine, the one explicit download, and conversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from calotype.cli import console
from calotype.cli.options import Common, Help, parse, print_json
from calotype.errors import CalotypeError, InputError, one_line
from calotype.index import CHECKED, MODELS, ModelRow
from calotype.registry import did_you_mean

ACTIONS = ("get", "convert")


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(Common):
    """What `models` takes."""

    taps: str = ""
    """Instead of the list, show where one checkpoint on this machine can be looked into: its attention sites and feature taps."""


@dataclass(frozen=True, kw_only=True)
class GetOptions(Common):
    """What `models get` takes."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Hub id, such as stabilityai/stable-video-diffusion-img2vid-xt."""
    variant: str | None = None
    """Variant of the weight files; by default fp16 where there is one, which is half the size."""
    revision: str | None = None
    """Branch, tag or commit."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Common):
    """What `models convert` takes."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """`model.pth` of a cvg-unibe/cage_* repository."""
    out: Path
    """Folder of the checkpoint, which must not be there yet."""
    features: str
    """Folder of the DINOv2 model that the weights know (CLEVRER: dinov2-small; BAIR, EPIC: dinov2-base)."""
    autoencoder: str
    """Folder of the VQModel or AutoencoderKL that the weights know."""
    size: tuple[int, int] = (256, 256)
    """Height and width of the frames (CLEVRER: 128 128)."""
    feature_layers: int = 2
    """Last layers of the DINOv2 model (CLEVRER: 1)."""
    stride: int = 1
    """Every so many frames one was taken (CLEVRER, EPIC: 5)."""


def models(arguments: Sequence[str]) -> int:
    """`calotype models`, `calotype models get NAME` and `calotype models convert FILE`."""
    if arguments and arguments[0] in ACTIONS:
        return {"get": _get, "convert": _convert}[arguments[0]](arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"no action {arguments[0]!r}; {did_you_mean(arguments[0], ACTIONS)}`calotype models` lists, `models get NAME` downloads, "
            "`models convert FILE` converts CAGE's public weights"
        )
    page = Help(
        "calotype models [get NAME | convert FILE] [--taps NAME]",
        "The checkpoints that can be named, and which of them are on this machine.",
        "A folder in the diffusers layout and other hub ids work as --model too. `get` is the only thing that downloads.",
    )
    options = parse(ModelsOptions, arguments, page)
    if options.taps:
        from calotype.cli.taps import show_taps

        return show_taps(options.taps, as_json=options.json)
    states = {name: state_of(name) for name in MODELS}
    if options.json:
        rows = {
            name: {
                "role": row.role,
                "summary": row.summary,
                "licence": row.licence,
                "embedded": row.folder is not None,
                "megabytes": row.megabytes,
                "verified": list(row.verified),
                "removed": row.removed,
                "mirror": row.mirror,
                "note": row.note,
                "state": states[name][0],
                "detail": states[name][1],
            }
            for name, row in MODELS.items()
        }
        print_json({"models": rows})
        return 0
    from rich.table import Table

    from calotype.backbones.hub import removal

    colours = {"here": "green", "incomplete": "red", "unclear": "yellow", "absent": "dim"}
    wide = console.results().width >= 110
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold cyan")
    table.add_column("Model", overflow="fold")
    table.add_column("Role", no_wrap=True)
    table.add_column("State", no_wrap=True)
    if wide:
        table.add_column("Licence", style="dim")
    for name, row in MODELS.items():
        state, detail = states[name]
        licence = "" if wide or row.folder is not None else _marked(row, "licence", row.licence)
        about = "; ".join(part for part in (row.summary, licence, removal(name), row.note) if part)
        cells = [f"[bold]{name}[/]\n  [dim]{about}[/]", row.role, f"[{colours[state]}]{_shown(row, state, detail)}[/]"]
        table.add_row(*cells, *([_marked(row, "licence", row.licence)] if wide else []))
    console.results().print(table)
    console.results().print(
        "\n[dim]calotype models get NAME downloads one; --model also takes a folder in the diffusers layout.\n"
        f"Licences and sizes are as of {CHECKED}, from copies of the hub's pages; what they don't show is marked (unverified).[/]",
        highlight=False,
    )
    return 0


def _marked(row: ModelRow, what: str, text: str) -> str:
    return text if row.folder is not None or what in row.verified else f"{text} (unverified)"


def _shown(row: ModelRow, state: str, detail: str) -> str:
    """The cell that says whether a checkpoint is here."""
    if state in ("here", "incomplete"):
        return detail if state == "here" else "incomplete"
    if state == "unclear":
        return "several snapshots"
    if row.folder is not None:
        return "not trained yet"
    if row.removed:
        return f"removed {row.removed}"
    return _marked(row, "size", f"not here, {row.megabytes / 1000:.1f} GB") if row.megabytes else "not here, size unverified"


def state_of(name: str) -> tuple[str, str]:
    """("here" | "incomplete" | "unclear" | "absent", what there is to say about it)."""
    from calotype.backbones.hub import locate

    try:
        found = locate(name)
    except CalotypeError as error:
        text = str(error)
        return ("unclear" if isinstance(error, InputError) else "incomplete" if "incomplete" in text else "absent"), text
    size = found.checkpoint.bytes / 1e6
    where = "embedded" if found.embedded else f"in the hub cache{', without a main branch' if found.note else ''}"
    return "here", f"{where}, {size / 1000:.1f} GB" if size >= 1000 else f"{where}, {size:.0f} MB"


def _get(arguments: Sequence[str]) -> int:
    page = Help(
        "calotype models get NAME", "Download a checkpoint into the Hugging Face cache: only safetensors, only the parts that are needed."
    )
    options = parse(GetOptions, arguments, page)
    from calotype.backbones.hub import download, is_hub_id

    if options.name not in MODELS and not is_hub_id(options.name):
        near = did_you_mean(options.name, MODELS)
        raise InputError(f"no model '{one_line(options.name, 120)}'; {near}`calotype models` lists them; a hub id is OWNER/NAME")
    with console.listening(quiet=options.quiet) as events:
        folder = download(options.name, variant=options.variant, revision=options.revision, events=events)
    if options.json:
        print_json({"name": options.name, "folder": str(folder)})
    else:
        console.results().print(f"  {options.name} is at {folder}", highlight=False, soft_wrap=True)
    return 0


def _convert(arguments: Sequence[str]) -> int:
    page = Help(
        "calotype models convert FILE --out DIR --features DIR --autoencoder DIR",
        "CAGE's public weights as a checkpoint folder of safetensors. The file is read without running code of it.",
    )
    options = parse(ConvertOptions, arguments, page)
    if not options.file.is_file():
        raise InputError(f"{options.file} is no file; give model.pth of a cvg-unibe/cage_* repository")
    if options.out.exists():
        raise InputError(f"{options.out} is there already; give another --out")
    from calotype.methods.cage.converting import convert

    with console.listening(quiet=options.quiet) as events:
        folder = convert(
            options.file, options.out, features=options.features, autoencoder=options.autoencoder, size=options.size,
            feature_layers=options.feature_layers, stride=options.stride, events=events,
        )  # fmt: skip
    if options.json:
        print_json({"folder": str(folder)})
    else:
        console.results().print(f"  {folder}\n  use it: calotype run cage --model {folder} ...", highlight=False, soft_wrap=True)
    return 0
