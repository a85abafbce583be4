"""Run a method in a folder, resume it after any interruption, do it again from its record."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from calotype.core.errors import CalotypeError, Cancelled, InputError
from calotype.core.events import SILENT, Events
from calotype.core.method import Method
from calotype.runs import inputs, outputs
from calotype.runs.environment import differences, environment, peak_memory, repeatable
from calotype.runs.listener import PROGRESS_NAME, RunEvents, last_second
from calotype.runs.outputs import Result, named_results
from calotype.runs.record import RECORD_NAME, ModelRequest, Record, read_record, shortened
from calotype.runs.signature import call_parameters
from calotype.runs.values import decode, decode_dataclass, encode

LoadModel = Callable[[ModelRequest], Any]
"""Loads the checkpoint that a request names."""
ResolveMethod = Callable[[str], type[Method]]
"""Finds the class of a method by its slug."""

TRACEBACK_NAME = "traceback.log"


@dataclass(frozen=True)
class Run:
    """A run that ended well."""

    folder: Path
    record: Record
    results: Mapping[str, Result] = field(default_factory=dict)
    """What the method returned, by name; empty if the run was finished already."""
    identical: bool | None = None
    """Of a rerun: whether every result is bit for bit the recorded one; None if there was nothing to compare with."""
    differences: tuple[str, ...] = ()
    """Of a rerun: in what this machine differs from the recorded one."""


def run(
    method: Method,
    arguments: Mapping[str, Any],
    load_model: LoadModel,
    *,
    model: ModelRequest,
    preset: str = "",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    previews: bool = False,
    command: Sequence[str] = (),
    events: Events = SILENT,
) -> Run:
    """Call `method(loaded model, **arguments, seed=seed, events=...)` and keep everything about it in a folder.

    The user's files are read, checked and copied before the checkpoint is loaded. The folder holds the results, `inputs/`, `run.json` and
    `progress.jsonl`; while it runs also `state/`, from which `resume` continues.

    Args:
        method: the configured method.
        arguments: its call's arguments by name: paths (or `Image`, `Mask`, `Video`, `Volume`) for files, plain values for the rest.
        load_model: loads the checkpoint.
        model: what to load; with an empty name nothing is loaded and the method gets None.
        preset: the name of the preset that the configuration began as, for the record.
        seed: seed of all noise.
        out: the folder; `./runs/<time>-<slug>` if None.
        overwrite: replace the run that is in `out`.
        previews: write pictures of intermediate results to `previews/`.
        command: the command line, for the record.
        events: hears what the method tells; its `check` may raise `Cancelled`.

    Raises:
        InputError: a file or argument that can't be used, or a folder that holds something.
        Cancelled: the user stopped it; the state is saved.
        CalotypeError: the method failed; unexpected errors leave `traceback.log` in the folder.
    """
    media, plain = inputs.split(call_parameters(type(method)), method.prepare(arguments))
    heard = _Heard(events)
    values = {name: inputs.read(kind, value, name, heard) for name, (kind, value) in media.items()}
    method.check({**_grouped(values), **plain})
    told = {name: inputs.entry(kind, value, name) for name, (kind, value) in media.items()}
    record = Record(
        method=method.slug,
        model=model,
        preset=preset,
        parameters=encode(method, "parameters"),
        arguments={name: encode(value, name) for name, value in plain.items()},
        seed=seed,
        started=_now(),
        command=tuple(command),
        notes=tuple(heard.notes),
    )
    folder = make_folder(out, method.slug, overwrite)
    kept = {name: inputs.keep(folder, value, told[name]) for name, (_, value) in media.items()}
    record = record.changed(inputs=kept)
    record.write(folder)
    return _execute(method, record, folder, values, plain, load_model, events, previews=previews)


def resume(
    source: str | os.PathLike[str],
    *,
    resolve_method: ResolveMethod,
    load_model: LoadModel,
    previews: bool = False,
    events: Events = SILENT,
) -> Run:
    """Continue an interrupted run where its last state was saved; the result is bit for bit that of an uninterrupted one.

    Raises:
        InputError: no run folder, another process works on it, or the checkpoint is not the one that it began with.
        Cancelled, CalotypeError: as `run`.
    """
    record, folder = read_record(source)
    if folder is None:
        raise InputError(f"{source} lies in no run folder; give the folder of the run that is to be continued")
    if record.status == "finished":
        events.note(f"{folder} is finished already; `calotype rerun` does it again")
        return Run(folder, record)
    for stale in folder.rglob(".*.tmp*"):
        stale.unlink(missing_ok=True)
    method = _method(record, resolve_method)
    places = {name: inputs.find(name, told, folder, None) for name, told in record.inputs.items()}
    values = {name: inputs.read(record.inputs[name]["kind"], place, name, SILENT) for name, place in places.items()}
    plain = _plain_arguments(method, record)
    record = record.changed(sessions=record.sessions + 1, error="")
    return _execute(method, record, folder, values, plain, load_model, events, previews=previews, resumed=True)


def rerun(
    source: str | os.PathLike[str],
    *,
    resolve_method: ResolveMethod,
    load_model: LoadModel,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    input_folder: str | os.PathLike[str] | None = None,
    device: str | None = None,
    previews: bool = False,
    command: Sequence[str] = (),
    events: Events = SILENT,
) -> Run:
    """Do a recorded run again: bit for bit the same on the same machine; elsewhere `differences` says what is different.

    Args:
        source: a run folder, its `run.json`, or a file that a run made.
        input_folder: where to look for the input files if they are neither in the run's folder nor where they were.
        device: another device than the recorded one.

    Raises:
        InputError: no record, an input that is not found, or a parameter that this version doesn't have.
        Cancelled, CalotypeError: as `run`.
    """
    old, old_folder = read_record(source)
    method = _method(old, resolve_method)
    extra = Path(input_folder).expanduser() if input_folder is not None else None
    places = {name: inputs.find(name, told, old_folder, extra) for name, told in old.inputs.items()}
    values = {name: inputs.read(old.inputs[name]["kind"], place, name, SILENT) for name, place in places.items()}
    model = old.model if device is None else ModelRequest(**{**asdict(old.model), "device": device})
    folder = make_folder(out, old.method, overwrite)
    kept = {name: inputs.keep(folder, place, old.inputs[name]) for name, place in places.items()}
    record = Record(
        method=old.method,
        model=model,
        preset=old.preset,
        parameters=encode(method, "parameters"),
        arguments=old.arguments,
        seed=old.seed,
        inputs=kept,
        started=_now(),
        command=tuple(command),
        environment={"threads": old.environment.get("threads")},
        rerun_of=shortened(Path(source).expanduser()),
    )
    record.write(folder)
    done = _execute(method, record, folder, values, _plain_arguments(method, record), load_model, events, previews=previews)
    told = differences(old.environment, done.record.environment)
    then, now = old.checkpoint.get("sha256"), done.record.checkpoint.get("sha256")
    if then and now and then != now:
        told.append(f"checkpoint {old.model.name} has other weights: sha256 {then[:12]}... then, {now[:12]}... now")
    if encode(method, "parameters") != old.parameters:
        told.append("parameters that the record lacks took this version's defaults")
    pairs = [(entry, done.record.outputs[name]) for name, entry in old.outputs.items() if name in done.record.outputs]
    same = all(before["pixels_sha256"] == after["pixels_sha256"] for before, after in pairs) if pairs else None
    return Run(folder, done.record, done.results, same, tuple(told))


def _execute(
    method: Method,
    record: Record,
    folder: Path,
    values: Mapping[str, Any],
    plain: Mapping[str, Any],
    load_model: LoadModel,
    events: Events,
    *,
    previews: bool,
    resumed: bool = False,
) -> Run:
    before = last_second(folder) if resumed else 0.0
    listener = RunEvents(folder, events, previews=previews, elapsed=before)
    seconds = {"total": 0.0}
    try:
        if resumed:
            listener.log("resumed", session=record.sessions)
        record = record.changed(status="running")
        record.write(folder)
        if record.model.name:
            listener.stage(f"load {record.model.name}")
        began = time.monotonic()
        model = load_model(record.model) if record.model.name else None
        seconds["load"] = round(time.monotonic() - began, 3)
        threads = _threads(record)
        record = _located(record, model, listener, resumed)
        record.write(folder)
        with repeatable(record.environment["device"], threads):
            record.environment["threads"] = torch.get_num_threads()
            began = time.monotonic()
            returned = method(model, **_grouped(values), **plain, seed=record.seed, events=listener)  # type: ignore[operator]
            seconds["method"] = round(time.monotonic() - began, 3)
        listener.stage("save")
        results = named_results(returned)
        saved = outputs.save(folder, results, record)
        record = _ended(record, listener, seconds, "finished").changed(outputs=saved)
        listener.log("finished")
        record.write(folder)
        listener.store.clear()
        return Run(folder, record, results)
    except (Cancelled, KeyboardInterrupt):
        told = "the state is saved, continue with" if listener.store.flush() else "there is no state yet, begin again with"
        _ended(record, listener, seconds, "interrupted").write(folder)
        raise Cancelled(f"stopped; {told}: calotype resume {folder}") from None
    except CalotypeError as error:
        _ended(record, listener, seconds, "failed").changed(error=str(error)).write(folder)
        raise
    except Exception as error:
        listener.store.flush()
        (folder / TRACEBACK_NAME).write_text(traceback.format_exc(), encoding="utf-8")
        line = _described(error)
        _ended(record, listener, seconds, "failed").changed(error=line).write(folder)
        raise CalotypeError(f"{line} (traceback: {folder / TRACEBACK_NAME})") from error
    finally:
        listener.close()


def _located(record: Record, model: Any, listener: RunEvents, resumed: bool) -> Record:
    """The record with the device and the checkpoint that were found; a resumed run needs the ones that it began with."""
    device = str(getattr(model, "device", "cpu"))
    found, checkpoint = environment(device), checkpoint_description(model)
    if resumed:
        for line in differences({**record.environment, "threads": found["threads"]}, found):
            listener.note(f"this run began elsewhere: {line}")
        then, now = record.checkpoint.get("sha256"), checkpoint.get("sha256")
        if then and now and then != now:
            raise InputError(f"the checkpoint {record.model.name} has changed since this run began; start it anew with: calotype rerun")
    return record.changed(environment=found, checkpoint=checkpoint)


def checkpoint_description(model: Any) -> dict[str, Any]:
    """What a loaded checkpoint is, without where it lies, and the hash over its weights; nothing of an object that is no checkpoint."""
    if getattr(model, "source", None) is None:
        return {}
    from calotype.backbones import checkpoint_hash, describe

    told = {key: value for key, value in describe(model).items() if key not in ("folder", "device", "name") and value is not None}
    return {**told, "sha256": checkpoint_hash(model)}


def _ended(record: Record, listener: RunEvents, seconds: dict[str, float], status: str) -> Record:
    device = str(record.environment.get("device", "cpu"))
    return record.changed(
        status=status,
        finished=_now(),
        metrics=dict(listener.metrics),
        seconds={**seconds, "total": round(listener.elapsed, 3)},
        peak_memory_bytes=peak_memory(device),
        notes=tuple(dict.fromkeys((*record.notes, *listener.notes))),
    )


def _threads(record: Record) -> int | None:
    """The recorded number of threads, if this machine has that many processors."""
    threads = record.environment.get("threads")
    return int(threads) if threads and int(threads) <= (os.cpu_count() or 1) else None


def _grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """`name.0`, `name.1` back to lists; one key for every argument."""
    grouped: dict[str, Any] = {}
    for name, value in values.items():
        head, _, index = name.partition(".")
        if index:
            grouped.setdefault(head, []).append(value)
        else:
            grouped[head] = value
    return grouped


def _method(record: Record, resolve_method: ResolveMethod) -> Method:
    method: Method = decode_dataclass(resolve_method(record.method), record.parameters, record.method)
    return method


def _plain_arguments(method: Method, record: Record) -> dict[str, Any]:
    known = {parameter.name: parameter for parameter in call_parameters(type(method))}
    return {name: decode(known[name].annotation, value, name) for name, value in record.arguments.items() if name in known}


def make_folder(out: str | os.PathLike[str] | None, slug: str, overwrite: bool) -> Path:
    """A folder for a run: `out`, or `./runs/<time>-<slug>`.

    Raises:
        InputError: it holds something and `overwrite` is false, or it can't be made.
    """
    try:
        if out is None:
            return _fresh_folder(slug)
        folder = Path(out).expanduser()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--out {folder} is a file; give the name of a folder")
        if folder.is_dir() and any(folder.iterdir()):
            if not overwrite:
                raise InputError(f"--out {folder} holds files already; choose another folder or pass --overwrite")
            if (folder / RECORD_NAME).is_file():
                _clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the run folder can't be made ({error.strerror or error}): give another one with --out") from None
    return folder


def _fresh_folder(slug: str) -> Path:
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{slug}"
    root = Path("runs")
    root.mkdir(exist_ok=True)
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InputError(f"{root} holds a thousand runs of this second; give a folder with --out")


def _clear(folder: Path) -> None:
    """Remove what an earlier run left, its record last, and nothing else."""
    for name in (inputs.FOLDER, "previews", "attention", "state"):
        shutil.rmtree(folder / name, ignore_errors=True)
    record, _ = read_record(folder)
    for name in (PROGRESS_NAME, TRACEBACK_NAME, *(entry["file"] for entry in record.outputs.values()), RECORD_NAME):
        (folder / name).unlink(missing_ok=True)


def _described(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "the memory is not enough for this run; use a smaller size or fewer frames, or another --device"
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text[:300]}" if text else f"unexpected {type(error).__name__}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


class _Heard(Events):
    """Remembers the notes that fall before there is a run folder."""

    def __init__(self, inner: Events) -> None:
        self.inner = inner
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.inner.note(message)
