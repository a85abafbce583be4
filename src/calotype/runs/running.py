"""Run a method in a folder, resume it after any interruption, do it again from its record."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from calotype.core.events import SILENT, Events, warnings_noted
from calotype.core.method import Method
from calotype.core.untrusted import whole
from calotype.errors import CalotypeError, Cancelled, InputError, printable
from calotype.imaging.files import atomic_path, disk_trouble, user_path
from calotype.runs import inputs, outputs
from calotype.runs.entries import InputEntry, ModelRequest, Record, recordable, shortened
from calotype.runs.environment import differences, environment, peak_memory, repeatable
from calotype.runs.folders import TRACEBACK_NAME, Taken, locked, sweep, taken
from calotype.runs.listener import RunEvents, last_second
from calotype.runs.outputs import Result, named_results
from calotype.runs.record import MOST_SEED, own_copy, read_record
from calotype.runs.recorded import ResolveMethod, checked_values, grouped, prepared
from calotype.runs.signature import call_parameters
from calotype.runs.trust import named_places
from calotype.runs.values import by_new_names, encode
from calotype.runs.weights import checkpoint_description, other_weights

LoadModel = Callable[[ModelRequest], Any]
"""Loads the checkpoint that a request names."""
Observe = Callable[[Mapping[str, Any]], AbstractContextManager[Mapping[str, Any]]]
"""Given the loaded checkpoints by what they are called, what is entered while the method runs: it gives the same checkpoints, watched."""


def unobserved(models: Mapping[str, Any]) -> AbstractContextManager[Mapping[str, Any]]:
    """Nothing watches the run."""
    return nullcontext(models)


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
    observe: Observe = unobserved,
    events: Events = SILENT,
) -> Run:
    """Call `method(loaded model, **arguments, seed=seed, events=...)` and keep everything about it in a folder.

    The user's files are read, checked and copied before the checkpoint is loaded; a run that is replaced stays until then. The folder
    holds the results, `inputs/`, `run.json` and `progress.jsonl`; while it runs also `state/`, from which `resume` continues.

    Args:
        method: the configured method.
        arguments: its call's arguments by name: paths (or `Image`, `Mask` and so on) for files and folders, names (or a `ModelRequest`)
            for further checkpoints, which are loaded as `model` is, plain values for the rest.
        load_model: loads the checkpoint.
        model: what to load; with an empty name nothing is loaded and the method gets None.
        preset: the name of the preset that the configuration began as, for the record.
        seed: seed of all noise.
        out: the folder; `./runs/<time>-<slug>` if None.
        overwrite: replace the run that is in `out`: the files that its record lists, if they are as it wrote them, and nothing else.
        previews: write pictures of intermediate results to `previews/`.
        command: the command line, for the record.
        observe: what watches the models while the method runs, such as a capture of attention.
        events: hears what the method tells; its `check` may raise `Cancelled`.

    Raises:
        InputError: a file or argument that can't be used, or a folder that holds something.
        Cancelled: the user stopped it; the state is saved.
        CalotypeError: the method failed; unexpected errors leave `traceback.log` in the folder.
    """
    whole(seed, "seed", 0, MOST_SEED)
    media, named, plain = inputs.split(call_parameters(type(method)), method.prepare(arguments))
    models = {name: value if isinstance(value, ModelRequest) else _like(model, value) for name, value in named.items()}
    heard = _Heard(events)
    media = {name: (kind, inputs.settled(kind, value, name, heard)) for name, (kind, value) in media.items()}
    values = checked_values(method, media, models, plain, heard)
    entries = {name: inputs.entry(kind, value, name) for name, (kind, value) in media.items()}
    record = Record(
        method=method.slug,
        model=model,
        models=models,
        preset=preset,
        parameters=encode(method, "parameters"),
        arguments={name: encode(value, name) for name, value in plain.items()},
        seed=seed,
        started=_now(),
        command=tuple(map(recordable, command)),
        notes=tuple(heard.notes),
    )
    sources = {name: (value, entries[name]) for name, (_, value) in media.items()}
    with taken(out, method.slug, overwrite) as held:
        return _begin(_Work(method, values, plain, load_model, observe, events, previews), record, held, sources)


def resume(
    source: str | os.PathLike[str],
    *,
    resolve_method: ResolveMethod,
    load_model: LoadModel,
    input_folder: str | os.PathLike[str] | None = None,
    trust: bool = False,
    previews: bool = False,
    observe: Observe = unobserved,
    events: Events = SILENT,
) -> Run:
    """Continue an interrupted run where its last state was saved; the result is bit for bit that of an uninterrupted one.

    Args:
        source: the run's folder.
        resolve_method, load_model: find the method and load the checkpoint.
        input_folder: where to look for input files that are not in the run's folder.
        trust: whether the record may name files and checkpoints outside of its folder (see `calotype.runs.trust`).
        previews, observe, events: as `run`.

    Raises:
        InputError: no run folder, another process works on it, it names places outside and `trust` is false, or the checkpoint is not the
            one that it began with.
        Cancelled, CalotypeError: as `run`.
    """
    record, folder = read_record(source)
    if folder is None:
        raise InputError(f"{source} lies in no run folder; give the folder of the run that is to be continued")
    if record.status == "finished":
        events.note(f"{folder} is finished already; `calotype rerun` does it again")
        return Run(folder, record)
    with locked(folder) as file:
        record, _ = read_record(folder)
        sweep(folder)
        extra = user_path(input_folder) if input_folder is not None else None
        found = prepared(record, resolve_method, source, folder, extra, events, trust=trust, flag=False)
        record = found.record.changed(sessions=record.sessions + 1, error="")
        work = _Work(found.method, found.values, found.plain, load_model, observe, events, previews)
        return _execute(work, record, folder, file, resumed=True)


def rerun(
    source: str | os.PathLike[str],
    *,
    resolve_method: ResolveMethod,
    load_model: LoadModel,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    input_folder: str | os.PathLike[str] | None = None,
    trust: bool = False,
    device: str | None = None,
    previews: bool = False,
    command: Sequence[str] = (),
    observe: Observe = unobserved,
    events: Events = SILENT,
) -> Run:
    """Do a recorded run again: bit for bit the same on the same machine; elsewhere `differences` says what is different.

    Args:
        source: a run folder, its `run.json`, or a file that a run made.
        input_folder: where to look for the input files if they are not in the run's folder.
        trust: whether the record may name files and checkpoints outside of its folder: the inputs where they were, files that arguments
            name, a model's folder. A record that came with a picture from somebody else should not.
        device: another device than the recorded one.

    Raises:
        InputError: no record, an input that is not found, a parameter that this version doesn't have, or places outside of the record's
            folder and `trust` is false.
        Cancelled, CalotypeError: as `run`.
    """
    old, old_folder = read_record(source)
    extra = user_path(input_folder) if input_folder is not None else None
    found = prepared(old, resolve_method, source, old_folder, extra, events, trust=trust)
    requests = {name: request if device is None else replace(request, device=device) for name, request in old.requests.items()}
    record = Record(
        method=old.method,
        model=requests.pop("model"),
        models=requests,
        preset=old.preset,
        parameters=encode(found.method, "parameters"),
        arguments=found.record.arguments,
        seed=old.seed,
        started=_now(),
        command=tuple(map(recordable, command)),
        environment={"threads": old.environment.get("threads")},
        rerun_of=shortened(user_path(source)),
    )
    sources = {name: (place, found.record.inputs[name]) for name, place in found.places.items()}
    with taken(out, old.method, overwrite) as held:
        done = _begin(_Work(found.method, found.values, found.plain, load_model, observe, events, previews), record, held, sources)
    changed = differences(old.environment, done.record.environment)
    for name, then, now in other_weights(old, done.record):
        changed.append(f"checkpoint {name} has other weights: sha256 {then[:12]}... then, {now[:12]}... now")
    if encode(found.method, "parameters") != by_new_names(type(found.method), old.parameters):
        changed.append("parameters that the record lacks took this version's defaults")
    pairs = [(entry, done.record.outputs[name]) for name, entry in old.outputs.items() if name in done.record.outputs]
    same = all(before["pixels_sha256"] == after["pixels_sha256"] for before, after in pairs) if pairs else None
    return Run(done.folder, done.record, done.results, same, tuple(changed))


@dataclass(frozen=True)
class _Work:
    """What is done, and who hears it."""

    method: Method
    values: Mapping[str, Any]
    """The inputs, read."""
    plain: Mapping[str, Any]
    load_model: LoadModel
    observe: Observe
    events: Events
    previews: bool


def _begin(work: _Work, record: Record, held: Taken, sources: Mapping[str, tuple[Any, InputEntry]]) -> Run:
    """Fill the folder and run. A run that is in it is replaced once everything that the new one needs is there."""
    record = record.changed(inputs=held.stage(sources))
    loaded = None
    if held.replaced is not None:
        heard = _Heard(work.events)
        with warnings_noted(heard):
            loaded = _loaded(record, work.load_model, work.events)
        record = record.changed(notes=(*record.notes, *heard.notes))
    held.begin(record)
    return _execute(work, record, held.folder, held.file, loaded=loaded)


def _like(model: ModelRequest, name: str) -> ModelRequest:
    """Another checkpoint, loaded as the main one is."""
    return ModelRequest(name, device=model.device, dtype=model.dtype, offload=model.offload)


def _loaded(record: Record, load_model: LoadModel, events: Events) -> tuple[dict[str, Any], float]:
    """The checkpoints of a run by what they are called, `model` None where none is named, and the seconds that they took."""
    began = time.monotonic()
    loaded: dict[str, Any] = {"model": None}
    for name, request in record.requests.items():
        if request.name:
            events.stage(f"load {request.name}")
            loaded[name] = load_model(request)
    return loaded, round(time.monotonic() - began, 3)


def _execute(
    work: _Work,
    record: Record,
    folder: Path,
    file: int,
    *,
    resumed: bool = False,
    loaded: tuple[dict[str, Any], float] | None = None,
) -> Run:
    before = last_second(file) if resumed else 0.0
    listener = RunEvents(folder, file, work.events, previews=work.previews, elapsed=before)
    seconds = {"total": 0.0}
    outside = any(own_copy(folder, entry["file"]) is None for entry in record.inputs.values())
    outside = outside or bool(named_places(work.method, work.plain, record.requests))
    again = f"calotype resume {folder}{' --trust' if outside else ''}"
    try:
        if resumed:
            listener.log("resumed", session=record.sessions)
        record = record.changed(status="running")
        record.write(folder)
        with warnings_noted(listener):
            if loaded is None:
                loaded = _loaded(record, work.load_model, listener)
            models, seconds["load"] = loaded
            threads = _threads(record)
            record = _located(record, models, listener, resumed)
            record.write(folder)
            with work.observe(models) as seen, repeatable(record.environment["device"], threads):
                record.environment["threads"] = torch.get_num_threads()
                began = time.monotonic()
                given = {**grouped(work.values), **{name: seen[name] for name in record.models}, **work.plain}
                returned = work.method(seen["model"], **given, seed=record.seed, events=listener)  # type: ignore[operator]
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
        _flush(listener)
        where = "the state is saved, continue with" if listener.store.kept() else "there is no state yet, begin again with"
        _ended(record, listener, seconds, "interrupted").settle(folder)
        raise Cancelled(f"stopped; {where}: {again}") from None
    except Exception as error:
        trouble = disk_trouble(error)
        _flush(listener)
        if trouble:
            # A full disk is no fault of the run: with room it goes on.
            _ended(record, listener, seconds, "interrupted").changed(error=trouble).settle(folder)
            raise CalotypeError(f"{trouble}; the run is interrupted: mend that, then continue with: {again}") from error
        if isinstance(error, CalotypeError):
            _ended(record, listener, seconds, "failed").changed(error=printable(str(error))).settle(folder)
            raise
        with suppress(OSError), atomic_path(folder / TRACEBACK_NAME, overwrite=True) as temporary:
            temporary.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        line = _described(error)
        _ended(record, listener, seconds, "failed").changed(error=printable(line)).settle(folder)
        raise CalotypeError(f"{line} (traceback: {folder / TRACEBACK_NAME})") from error


def _flush(listener: RunEvents) -> None:
    """Write the state that is in memory, as far as the disk takes it."""
    with suppress(OSError, SafetensorError, CalotypeError):
        listener.store.flush()


def _located(record: Record, models: Mapping[str, Any], listener: RunEvents, resumed: bool) -> Record:
    """The record with the device and the checkpoints that were found; a resumed run needs the ones that it began with."""
    found = environment(next((str(model.device) for model in models.values() if hasattr(model, "device")), "cpu"))
    checkpoints = {name: checkpoint_description(model) for name, model in models.items()}
    located = record.changed(environment=found, checkpoint=checkpoints.pop("model"), checkpoints=checkpoints)
    if resumed:
        for line in differences({**record.environment, "threads": found["threads"]}, found):
            listener.note(f"this run began elsewhere: {line}")
        for name, _, _ in other_weights(record, located):
            raise InputError(f"the checkpoint {name} has changed since this run began; start it anew with: calotype rerun")
    return located


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

    def check(self) -> None:
        self.inner.check()
