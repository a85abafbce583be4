"""The verb `doctor`: whether this machine can run it, told before anything heavy is loaded."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from calotype import __version__
from calotype.cli import console, machine
from calotype.cli.estimates import estimate, gpu_rate, processor_rate
from calotype.cli.options import Common, Help, parse, print_json
from calotype.errors import CalotypeError, MissingError
from calotype.index import MODELS
from calotype.registry import plugins, resolve_method
from calotype.runs.presets import default_model, default_preset, preset_instance

if TYPE_CHECKING:
    from calotype.core.method import Method

OK, NOTE, BAD = "ok", "note", "missing"


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Common):
    """What `doctor` takes."""

    method: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")] = ""
    """Also say what this method takes here."""
    model: str = ""
    """On this checkpoint; by default the embedded one."""
    preset: str = ""
    """With these settings; by default those that fit the checkpoint."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    state: str
    text: str


def doctor(arguments: Sequence[str]) -> int:
    """`calotype doctor [METHOD]`."""
    page = Help("calotype doctor [METHOD] [--model NAME]", "Whether this machine can run it: memory, time, disk, and what is missing.")
    options = parse(DoctorOptions, arguments, page)
    findings = [*_software(), *_hardware(), *_checkpoints()]
    if options.method:
        findings += _method(options)
    healthy = all(finding.state != BAD for finding in findings)
    if options.json:
        print_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
        return 0 if healthy else MissingError.exit_status
    _show(findings, quiet=options.quiet)
    return 0 if healthy else MissingError.exit_status


def _show(findings: Sequence[Finding], *, quiet: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    marks = {OK: ("✓", "green"), NOTE: ("•", "yellow"), BAD: ("✗", "bold red")}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        if not quiet or finding.state == BAD:
            table.add_row(Text(*marks[finding.state]), Text(finding.subject, style="bold"), Text(finding.text))
    console.results().print(table)


def _software() -> list[Finding]:
    found = [Finding("calotype", OK, f"{__version__}, {Path(sys.modules['calotype'].__file__ or '').parent}")]
    old = sys.version_info < (3, 11)
    found.append(
        Finding("Python", BAD if old else OK, f"{platform.python_version()}, {sys.executable}{'; 3.11 or newer is needed' if old else ''}")
    )
    version, build = machine.torch_build()
    if not version:
        found.append(Finding("torch", BAD, "not installed; pip install torch"))
    else:
        blind = build == "CPU" and any("mps" not in gpu.name for gpu in machine.gpus())
        remedy = (
            "; there is a GPU that this build can't use: pip install torch --index-url https://download.pytorch.org/whl/cu128"
            if blind
            else ""
        )
        found.append(Finding("torch", NOTE if blind else OK, f"{version}, {build} build{remedy}"))
    problems = machine.unmet_requirements()
    text = "; ".join(problems) + '; pip install "calotype"' if problems else "all of the versions that are needed"
    found.append(Finding("packages", BAD if problems else OK, text))
    vision = machine.torchvision_problem()
    if vision:
        found.append(Finding("torchvision", BAD, f"does not fit torch and breaks transformers ({vision}); pip uninstall torchvision"))
    missing = machine.missing_extras()
    if missing:
        told = ", ".join(
            f"{extra} ({', '.join(packages[:3])}{', ...' if len(packages) > 3 else ''})" for extra, packages in missing.items()
        )
        found.append(Finding("extras", NOTE, f"not installed: {told}"))
    found += [Finding("plug-in", NOTE, plugin.problem) for plugin in plugins().values() if plugin.problem]
    return found


def _hardware() -> list[Finding]:
    total, free = machine.memory()
    found = [
        Finding("processor", OK, f"{machine.processor()}, {machine.cores()} cores"),
        Finding("memory", OK if free > 2**30 else NOTE, f"{free / 2**30:.1f} GB free of {total / 2**30:.1f} GB" if total else "unknown"),
    ]
    devices = machine.gpus()
    for gpu in devices:
        found.append(Finding("GPU", OK, f"{gpu.name}, {gpu.memory / 2**30:.0f} GB"))
    if not devices:
        found.append(Finding("GPU", NOTE, "none found; the toy models run on the CPU, the public ones take very long there"))
    for label, path in (("runs", Path("runs")), ("hub cache", _hub_cache())):
        free = machine.free_disk(path)
        found.append(Finding(f"disk, {label}", OK if free > 2**30 else NOTE, f"{free / 2**30:.0f} GB free at {path.absolute()}"))
    return found


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _checkpoints() -> list[Finding]:
    from calotype.cli.models import state_of

    found = []
    for name, row in MODELS.items():
        state, detail = state_of(name)
        if row.folder is not None or state == "here":
            found.append(Finding(f"model {name}", OK if state == "here" else NOTE, detail))
    return found


def _method(options: DoctorOptions) -> list[Finding]:
    """What one method needs: its checkpoint, and the time and memory of one run."""
    method = resolve_method(options.method)
    model = options.model or default_model(method)
    if not model:
        return [Finding(options.method, OK, "needs no checkpoint")]
    preset = options.preset or default_preset(method, model)
    configured = preset_instance(method, preset)
    subject = f"{options.method}"
    from calotype.backbones.hub import locate

    try:
        checkpoint = locate(model).checkpoint
    except CalotypeError as error:
        return [Finding(subject, BAD, str(error))]
    if checkpoint.role not in (method.role, *method.further_roles):
        return [Finding(subject, BAD, f"{model} is a {checkpoint.role} model, {method.role} is needed; `calotype models` lists them")]
    devices = machine.gpus() if options.device in ("auto", "cuda", "mps") and "CPU" not in machine.torch_build()[1] else []
    gpu = devices[0] if devices else None
    cost = estimate(configured, checkpoint, rate=gpu_rate(gpu.name) if gpu else processor_rate(), bytes_per_number=2 if gpu else 4)
    found = []
    where = f"on {model}{f', preset {preset}' if preset else ''}"
    if cost is not None:
        available = gpu.memory if gpu else machine.memory()[1]
        fits = cost.bytes < available
        text = (
            f"{where}: about {console.seconds_text(cost.seconds)} and {cost.bytes / 2**30:.1f} GB"
            f" on {'the ' + gpu.name if gpu else 'the CPU'} (rough estimate, some {cost.calls} model calls)"
        )
        remedy = f"; only {available / 2**30:.1f} GB are free: try --max-rows 1{' --offload model' if gpu else ''}" if not fits else ""
        found.append(Finding(subject, OK if fits else NOTE, text + remedy))
    else:
        found.append(Finding(subject, OK, f"{where}; time and memory depend on the input"))
    found += _named_models(method)
    last = _last_run(options.method, model, Path("runs"))
    if last:
        found.append(Finding("", OK, last))
    return found


def _named_models(method: type[Method]) -> list[Finding]:
    """The further checkpoints that arguments of the method name, and which of them are on this machine."""
    from calotype.cli.listing import models_of
    from calotype.cli.models import state_of
    from calotype.runs.signature import needed_models

    found = []
    for name, role in needed_models(method).items():
        if name != "model":
            known = models_of(role)
            here = [each for each in known if state_of(each)[0] == "here"]
            told = f"takes a {role} checkpoint: {', '.join(here) or f'none is here, {known[0]} is known' if known else 'a folder'}"
            found.append(Finding(f"--{name.replace('_', '-')}", OK if here else NOTE, told))
    return found


def _last_run(slug: str, model: str, folder: Path) -> str:
    """How long the last run of that kind in ./runs took."""
    for path in sorted(folder.glob("*/run.json"), reverse=True)[:50]:
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if record["method"] == slug and record["model"]["name"] == model and record["status"] == "finished":
                peak = record["peak_memory_bytes"].get("device") or record["peak_memory_bytes"].get("ram", 0)
                taken = console.seconds_text(float(record["seconds"]["total"]))
                return f"the last such run took {taken} and {peak / 2**30:.1f} GB on {record['environment']['device']} ({path.parent})"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""
