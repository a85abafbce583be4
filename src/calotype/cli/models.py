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
    """`model.pth` of a cvg-unibe/cage_* repository, or a StyleGAN2 generator in rosinality's layout, such as sg2-lhq-1024.pt."""
    out: Path
    """Folder of the checkpoint, which must not be there yet."""
    encoder: Path | None = None
    """StyleGAN2: `enc.pth.tar` of the feature-style encoder that was trained for the generator."""
    feature_layer: int | None = None
    """StyleGAN2: the layer that receives the encoder's feature; otherwise the encoder's folder says it, as lhq_k9 does."""
    mean: Path | None = None
    """StyleGAN2: file of the generator's mean w, such as sg2-lhq-1024-mean.pt; otherwise it is measured."""
    features: str = ""
    """CAGE: folder of the DINOv2 model that the weights know (CLEVRER: dinov2-small; BAIR, EPIC: dinov2-base)."""
    autoencoder: str = ""
    """CAGE: folder of the VQModel or AutoencoderKL that the weights know."""
    size: tuple[int, int] = (256, 256)
    """CAGE: height and width of the frames (CLEVRER: 128 128)."""
    feature_layers: int = 2
    """CAGE: last layers of the DINOv2 model (CLEVRER: 1)."""
    stride: int = 1
    """CAGE: every so many frames one was taken (CLEVRER, EPIC: 5)."""


def models(arguments: Sequence[str]) -> int:
    """`calotype models`, `calotype models get NAME` and `calotype models convert FILE`."""
    if arguments and arguments[0] in ACTIONS:
        return {"get": _get, "convert": _convert}[arguments[0]](arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        raise InputError(
            f"no action {arguments[0]!r}; {did_you_mean(arguments[0], ACTIONS)}`calotype models` lists, `models get NAME` downloads, "
            "`models convert FILE` converts public weights of CAGE and StyleGAN2"
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
        "calotype models convert FILE --out DIR [--encoder FILE | --features DIR --autoencoder DIR]",
        "Public weights as a checkpoint folder of safetensors. The files are read without running code of them.",
    )
    options = parse(ConvertOptions, arguments, page)
    files = {"": options.file, "encoder": options.encoder, "mean": options.mean}
    for flag, file in files.items():
        if file is not None and not file.is_file():
            wanted = f"give a file as --{flag}" if flag else "give model.pth of a cvg-unibe/cage_* repository, or sg2-lhq-1024.pt"
            raise InputError(f"{file} is no file; {wanted}")
    if options.out.exists():
        raise InputError(f"{options.out} is there already; give another --out")
    from calotype.backbones.official_stylegan2 import convert_stylegan2, is_stylegan2
    from calotype.backbones.official_weights import read_weights
    from calotype.methods.cage.converting import convert

    generator = is_stylegan2(read_weights(options.file, "give a file of public weights"))
    with console.listening(quiet=options.quiet) as events:
        if generator:
            if options.encoder is None:
                raise InputError(
                    f"{options.file} is a StyleGAN2 generator, which needs the encoder that was trained for it: give its enc.pth.tar as "
                    "--encoder"
                )
            folder = convert_stylegan2(
                options.file, options.out, encoder=options.encoder, mean=options.mean, feature_layer=options.feature_layer, events=events
            )  # fmt: skip
        else:
            if not options.features or not options.autoencoder:
                raise InputError(
                    f"{options.file} is no StyleGAN2 generator; for CAGE's weights give the DINOv2 folder as --features and the "
                    "VQModel's as --autoencoder"
                )
            folder = convert(
                options.file, options.out, features=options.features, autoencoder=options.autoencoder, size=options.size,
                feature_layers=options.feature_layers, stride=options.stride, events=events,
            )  # fmt: skip
    if options.json:
        print_json({"folder": str(folder)})
    else:
        method = "stylecinegan" if generator else "cage"
        console.results().print(f"  {folder}\n  use it: calotype run {method} --model {folder} ...", highlight=False, soft_wrap=True)
    return 0
