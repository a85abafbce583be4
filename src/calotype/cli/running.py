"""The verbs that make something: run, resume, rerun."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from calotype.cli import console
from calotype.cli.attention_capture import Watcher
from calotype.cli.loading import Device, Dtype, load_model, look, output
from calotype.cli.options import Common, Help, early_value, input_metavar, parse
from calotype.cli.reporting import report_run
from calotype.errors import InputError
from calotype.index import MODELS
from calotype.registry import known_methods, resolve_method
from calotype.runs.presets import default_model, default_preset, preset_instance

if TYPE_CHECKING:
    from calotype.chains import ChainRun
    from calotype.core.method import Method
    from calotype.runs import ModelRequest, Parameter, Run

_EXAMPLES = {"image": ".png", "volume": ".nii.gz", "scan": ".png"}
"""Of what kinds the example on a method's help page shows files, and how they end."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Common):
    """Where and how a run takes place."""

    model: str = ""
    """Checkpoint: an embedded model, a folder in the diffusers layout, or a hub id that is on this machine."""
    preset: str = ""
    """Settings to begin with."""
    seed: int = 0
    """Seed of all noise."""
    out: Path | None = None
    """Folder of the run; by default runs/<time>-<method>."""
    overwrite: bool = False
    """Replace the run that is in --out."""
    preview: bool = False
    """Write pictures of intermediate results to previews/ in the run folder."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    dtype: Dtype = "auto"
    """Precision of the networks; auto is float16 on a GPU and float32 on the CPU."""
    variant: str | None = None
    """Variant of the weight files, such as fp16."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    offload: Literal["model", "sequential"] | None = None
    """On a GPU, keep whole networks (model) or single layers (sequential) in main memory until they are needed."""
    max_rows: int | None = None
    """Clips or pictures that the network evaluates at once; 1 needs the least memory."""
    decode_chunk_size: int | None = None
    """Frames that are decoded at once."""
    save_attention: str = ""
    """Words, separated by commas: write where the network looks for them at each step, as attention/index.html in the run folder."""


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(Common):
    """What `resume` takes."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the interrupted run."""
    trust: bool = False
    """Let the record name files and checkpoints outside of its folder; without it you are told which ones it names."""
    preview: bool = False
    """Write pictures of intermediate results to previews/ in the run folder."""


@dataclass(frozen=True, kw_only=True)
class RerunOptions(Common):
    """What `rerun` takes."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A run folder, its run.json, or a file that a run made."""
    inputs: Path | None = None
    """Folder with the input files, if they are not in the run's folder."""
    trust: bool = False
    """Let the record name files and checkpoints outside of its folder; without it you are told which ones it names."""
    out: Path | None = None
    """Folder of the new run; by default runs/<time>-<method>."""
    overwrite: bool = False
    """Replace the run that is in --out."""
    device: Device | None = None
    """Another device than the recorded one."""
    preview: bool = False
    """Write pictures of intermediate results to previews/ in the run folder."""


def run(arguments: Sequence[str]) -> int:
    """`calotype run METHOD ...`: the method's fields and its call's arguments are the flags."""
    slug, rest = _method_first(list(arguments))
    if slug is None:
        _help_without_method()
        return 0
    if slug.endswith(".json"):
        from calotype.cli.chaining import run_chain

        return run_chain(slug, rest)
    with console.starting(quiet="--quiet" in rest):
        method = resolve_method(slug)
    rest = _by_new_names(rest, method)
    model = early_value(rest, "--model") or default_model(method)
    preset = early_value(rest, "--preset") or default_preset(method, model)
    spec, parameters = _spec(method, preset_instance(method, preset), model, preset)
    page = _page(method, preset, parameters)
    titles = {"inputs": "What you give", "method": f"Settings of the method{f' (preset {preset})' if preset else ''}", "options": "The run"}
    parsed: Any = parse(spec, rest, page, groups=titles)
    options: RunOptions = parsed.options
    given = {name: value for name, value in vars(parsed.inputs).items() if value is not None} if parsed.inputs is not None else {}

    from calotype.runs import Session
    from calotype.runs.running import unobserved

    requests = {"model": _request(options, model)}
    for parameter in parameters:
        if parameter.kind == "model" and parameter.name in given:
            named = dataclasses.replace(_request(options, given[parameter.name]), variant=None, revision=None)
            given[parameter.name] = requests[parameter.name] = named
    with output(options) as events:
        if not early_value(rest, "--model") and model:
            known = MODELS[model].knows
            events.note(f"no --model was given, so this runs on {model}, which knows {known} only; `calotype models` lists others")
        for request in requests.values():
            look(request)
        if options.save_attention and not model:
            raise InputError(f"--save-attention watches a network, and {method.slug} runs without one; leave it out")
        watcher = Watcher(options.save_attention) if options.save_attention else None
        done = Session(load_model).run(
            parsed.method,
            given,
            model=requests["model"],
            preset=preset,
            seed=options.seed,
            out=options.out,
            overwrite=options.overwrite,
            previews=options.preview,
            command=("calotype", "run", *arguments),
            observe=unobserved if watcher is None else watcher.watching,
            events=events,
        )
        if watcher is not None:
            events.note(f"attention: {watcher.write(done.folder)[0]}")
    report_run(done, options)
    return 0


def _by_new_names(arguments: Sequence[str], method: type[Method]) -> list[str]:
    """Flags of fields that were called otherwise in the version before, by their names of today."""
    new = {f"--{old.replace('_', '-')}": f"--{name.replace('_', '-')}" for old, name in method.renamed.items()}
    parts = [argument.partition("=") for argument in arguments]
    return [new.get(flag.replace("_", "-"), flag) + equals + value for flag, equals, value in parts]


def resume(arguments: Sequence[str]) -> int:
    """`calotype resume RUN`."""
    page = Help(
        "calotype resume RUN", "Continue an interrupted run from its last saved state. The result is bit for bit that of a run in one go."
    )
    options = parse(ResumeOptions, arguments, page)

    from calotype import chains
    from calotype.runs import Session

    session = Session(load_model)
    return _recorded(
        options.run,
        options,
        partial(chains.resume_chain, load_model=session.load),
        partial(session.resume, previews=options.preview),
        unfinished_only=True,
    )


def rerun(arguments: Sequence[str]) -> int:
    """`calotype rerun FILE`."""
    page = Help(
        "calotype rerun FILE [--inputs DIR]",
        "Do a run again. On the same machine the result is bit for bit the same; elsewhere you are told what differs.",
        "The parameters are in the file itself, the input files in the run's folder. A file from somebody else reads and writes nothing"
        " outside of its folder unless you say --trust.",
    )
    options = parse(RerunOptions, arguments, page)

    from calotype import chains
    from calotype.runs import Session

    session = Session(load_model)
    shared: dict[str, Any] = {"out": options.out, "overwrite": options.overwrite, "device": options.device}
    return _recorded(
        options.file,
        options,
        partial(chains.rerun_chain, load_model=session.load, **shared),
        partial(
            session.rerun,
            input_folder=options.inputs,
            previews=options.preview,
            command=("calotype", "rerun", *arguments),
            **shared,
        ),
    )


def _recorded(
    source: Path,
    options: ResumeOptions | RerunOptions,
    chain: Callable[..., ChainRun],
    single: Callable[..., Run],
    *,
    unfinished_only: bool = False,
) -> int:
    """Go on with a recorded run or chain, or do it again, and report it."""
    from calotype import chains, runs

    with output(options) as events:
        if chains.is_chain(source):
            from calotype.cli.chaining import report_chain

            return report_chain(chain(source, resolve_method=resolve_method, trust=options.trust, events=events), options)
        record, _ = runs.read_record(source)
        for request in record.requests.values():
            if (options.trust or not request.is_folder) and not (unfinished_only and record.status == "finished"):
                look(request)
        done = single(source, resolve_method=resolve_method, trust=options.trust, events=events)
    report_run(done, options)
    return 0


def _request(options: RunOptions, model: str) -> ModelRequest:
    from calotype.backbones.hub import local_folder
    from calotype.runs import ModelRequest
    from calotype.runs.entries import shortened

    folder = local_folder(model) if model and model not in MODELS else None
    return ModelRequest(
        model if folder is None else shortened(folder),
        device=options.device,
        dtype=options.dtype,
        variant=options.variant,
        revision=options.revision,
        offload=options.offload,
        max_rows=options.max_rows,
        decode_chunk_size=options.decode_chunk_size,
    )


def _method_first(arguments: list[str]) -> tuple[str | None, list[str]]:
    """METHOD, wherever it stands, and the rest; None if only help is wanted."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    known = set(known_methods())
    for position, argument in enumerate(arguments):
        if argument in known:
            return argument, arguments[:position] + arguments[position + 1 :]
    if not arguments or "--help" in arguments or "-h" in arguments:
        return None, arguments
    raise InputError(f"METHOD is needed first, as in: calotype run {next(iter(known_methods()))} --start FILE; `calotype list` shows all")


def _help_without_method() -> None:
    from calotype.cli.listing import working_methods

    out = console.results()
    out.print("[dim]usage:[/] [bold]calotype run METHOD --help[/]    the flags of one method", highlight=False)
    out.print("       [bold]calotype run METHOD ...[/]       run it", highlight=False)
    out.print("       [bold]calotype run CHAIN.json[/]       run several methods, each with what the ones before made\n", highlight=False)
    out.print("Methods that work today", style="bold cyan")
    for slug, summary in working_methods():
        out.print(f"  {slug}  [dim]{summary}[/]", highlight=False)


def _spec(method: type[Method], default: Method, model: str, preset: str) -> tuple[type, tuple[Parameter, ...]]:
    """A dataclass of the call's arguments, the method's fields and the run's options, in this order."""
    from calotype.runs import call_parameters

    parameters = call_parameters(method)
    fields: list[Any] = []
    for parameter in parameters:
        kind: Any = str if parameter.kind == "model" else tuple[Path, ...] if parameter.several else Path
        kind = parameter.annotation if parameter.kind == "value" else kind
        note = tyro.conf.arg(help=parameter.help, metavar=input_metavar(parameter) if parameter.kind != "value" else None)
        if parameter.required:
            fields.append((parameter.name, Annotated[kind, note]))
        else:
            optional = kind if parameter.kind == "value" else kind | None
            fields.append((parameter.name, Annotated[optional, note], parameter.default))
    inputs = dataclasses.make_dataclass("Inputs", fields, frozen=True, kw_only=True)
    flat = tyro.conf.arg(name="")
    groups: list[Any] = [("inputs", Annotated[inputs, flat])] if fields else [("inputs", Annotated[None, tyro.conf.Fixed], None)]
    groups.append(("method", Annotated[method, flat], default))
    groups.append(("options", Annotated[RunOptions, flat], RunOptions(model=model, preset=preset)))
    return dataclasses.make_dataclass("Run", groups, frozen=True, kw_only=True), parameters


def _page(method: type[Method], preset: str, parameters: Sequence[Parameter]) -> Help:
    from calotype.cli.listing import first_paragraph

    needed = " ".join(f"--{parameter.name.replace('_', '-')} {input_metavar(parameter)}" for parameter in parameters if parameter.required)
    usage = f"calotype run {method.slug} {needed} [options]"
    others = "".join(f", {name}" for name in method.presets if name != preset)
    details = f"{f'Presets: {preset} (these defaults){others}. ' if preset else ''}Nothing is downloaded; nothing is overwritten."
    example = f"calotype run {method.slug} " + " ".join(
        f"--{parameter.name.replace('_', '-')} {parameter.name}{_EXAMPLES[parameter.kind]}"
        for parameter in parameters
        if parameter.kind in _EXAMPLES and not parameter.several
    )
    return Help(usage, first_paragraph(method), details, (f"{example} --seed 1 --out my-run",) if parameters else ())
