"""Run a chain in a folder: a run folder for every link, what they hand on to the bit, and `chain.json`, which holds every link's record."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from calotype.chains.handing import HANDED_ON, hand_on, handed, resolved
from calotype.chains.record import RECORD, ChainRecord, read_chain_record
from calotype.chains.sequence import Chain, Link, Reference
from calotype.core.events import SILENT, Events
from calotype.core.method import Place
from calotype.data import rows_sheet
from calotype.errors import CalotypeError, Cancelled, InputError
from calotype.imaging.files import disk_trouble, take_lock, temporary_beside, user_path
from calotype.imaging.types import Image
from calotype.runs import inputs
from calotype.runs.entries import RECORD_NAME, InputEntry, ModelRequest, plain_name
from calotype.runs.folders import choose, clear, foreign, refuse_link, remove_listed, sweep
from calotype.runs.hashing import path_digest
from calotype.runs.kinds import kind_named
from calotype.runs.listener import PROGRESS_NAME
from calotype.runs.record import INPUTS, own_file, read_record
from calotype.runs.recorded import ResolveMethod, recorded_places
from calotype.runs.running import LoadModel, Run
from calotype.runs.session import Session
from calotype.runs.trust import allow, named_places

SHEET = "chain.png"


@dataclass(frozen=True)
class ChainRun:
    """A chain that ended well."""

    folder: Path
    runs: Mapping[str, Run] = field(default_factory=dict)
    """By link; a link that was finished before has no results here."""
    identical: bool | None = None
    """Of a rerun: whether every result of every link is bit for bit the recorded one."""


def run_chain(
    chain: Chain,
    *,
    load_model: LoadModel,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    out: Path | str | None = None,
    overwrite: bool = False,
    events: Events = SILENT,
) -> ChainRun:
    """Run every link, the user's files first copied into the folder.

    Args:
        chain: what to do.
        load_model: loads a checkpoint; each is loaded once.
        seed: of all noise; link i's own if it names one.
        device: of all links.
        dtype: of all networks.
        out: the folder; `./runs/<time>-chain` if None.
        overwrite: replace the chain that is in `out`.
        events: hears what the methods tell.

    Raises:
        InputError: as `calotype.runs.run`, or a link didn't make what a later one asks for.
        Cancelled: the user stopped it; `resume_chain` goes on.
    """
    session = Session(load_model)
    with _taken(out, overwrite) as (folder, replaced):
        staged = temporary_beside(folder / INPUTS)
        try:
            staged.mkdir()
            places, files = _staged(chain, folder, staged)
            own = Chain(tuple(link.with_files(places) for link in chain.links))
            record = ChainRecord(own.to_json()["links"], seed, device, dtype, files)
            if replaced is not None:
                for request in (each for link in own.links for each in _requests(link, record).values()):
                    if request.name:
                        session.load(request)
                _clear(folder, replaced)
            target = folder / INPUTS
            target.mkdir(exist_ok=True)
            for item in sorted(staged.iterdir()):
                if os.path.lexists(target / item.name):
                    raise InputError(f"{target / item.name} is in the way; move it, or choose another folder")
                os.replace(item, target / item.name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        record.write(folder)
        return _follow(own, folder, session, record, events)


def _staged(chain: Chain, folder: Path, staged: Path) -> tuple[dict[Path, Path], dict[str, str]]:
    """Copy the user's files to where nothing of an earlier chain is touched; where they will lie, and their hashes."""
    places: dict[Path, Path] = {}
    files: dict[str, str] = {}
    for path in dict.fromkeys(path for link in chain.links for path in link.files):
        name = f"{len(places)}-{plain_name(path.name)}"
        entry: InputEntry = {"kind": "", "file": f"{INPUTS}/{name}", "path": "", "name": name, "sha256": ""}
        inputs.keep(staged, path, entry)
        places[path], files[entry["file"]] = folder / entry["file"], path_digest(staged / name)
    return places, files


@contextmanager
def _taken(out: Path | str | None, overwrite: bool) -> Iterator[tuple[Path, ChainRecord | None]]:
    """The folder of a chain, kept for this process, and the record of the chain that is in it; a folder made for nothing goes again."""
    try:
        folder, made = choose(out, "chain", overwrite, records=(RECORD,))
    except OSError as error:
        raise InputError(
            f"the chain's folder can't be made ({(error.strerror or str(error)).lower()}): give another one with --out"
        ) from None
    try:
        with _locked(folder):
            yield folder, read_chain_record(folder) if (folder / RECORD).is_file() else None
    finally:
        if made:
            with suppress(OSError):
                (folder / INPUTS).rmdir()
                folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a chain's folder for this process; none of its places leads out of it."""
    refuse_link(folder / INPUTS)
    refuse_link(folder / HANDED_ON)
    if sys.platform == "win32":
        yield  # There a folder can't be opened; its links' own folders are locked.
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        take_lock(file, f"{folder} is still being worked on by another process; wait for it or stop it first")
        yield
    finally:
        os.close(file)


def _requests(link: Link, record: ChainRecord) -> dict[str, ModelRequest]:
    return {name: ModelRequest(model, device=record.device, dtype=record.dtype) for name, model in link.models.items()}


def resume_chain(
    folder: Path | str, *, resolve_method: ResolveMethod, load_model: LoadModel, trust: bool = False, events: Events = SILENT
) -> ChainRun:
    """Go on where a chain was stopped: finished links stay, a begun one continues from its state; the results are those of one go.

    Args:
        folder: the chain's.
        resolve_method, load_model: find the methods and load the checkpoints.
        trust: whether the records may name files and checkpoints outside of the folder (see `calotype.runs.trust`).
        events: hears what the methods tell.

    Raises:
        InputError: no chain's folder, a file in it has changed, or it names places outside and `trust` is false.
        Cancelled: as `run_chain`.
    """
    place = chain_folder(folder)
    read_chain_record(place)
    with _locked(place):
        record = read_chain_record(place)
        sweep(place)
        chain = Chain.of(record.to_links(), place, resolve_method, str(place / RECORD), own=record.own_files(place))
        named = _places(chain, record)
        for link in map(place.joinpath, record.link_folders()):
            refuse_link(link)
            if (link / RECORD_NAME).is_file():
                named += recorded_places(read_record(link)[0], resolve_method)
        allow(list(dict.fromkeys(named)), place, events, trust=trust)
        return _follow(chain, place, Session(load_model), record, events, resolve_method=resolve_method, trust=trust)


def _places(chain: Chain, record: ChainRecord) -> list[Place]:
    """What the links touch outside of the chain's folder."""
    return [place for link in chain.links for place in named_places(link.method, link.plain, _requests(link, record))]


def rerun_chain(
    source: Path | str,
    *,
    resolve_method: ResolveMethod,
    load_model: LoadModel,
    out: Path | str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    trust: bool = False,
    events: Events = SILENT,
) -> ChainRun:
    """Do a recorded chain again from the files that its folder keeps, each link with what the link before makes now.

    Args:
        source: the chain's folder, or its `chain.json`.
        resolve_method, load_model: find the methods and load the checkpoints.
        out, overwrite, device: as `run_chain`.
        trust: whether the record may name files and checkpoints outside of the folder (see `calotype.runs.trust`).
        events: hears what the methods tell.

    Raises:
        InputError: no chain's folder, a file in it has changed, or it names places outside and `trust` is false.
    """
    place = chain_folder(source)
    record = read_chain_record(place)
    chain = Chain.of(record.to_links(), place, resolve_method, str(place / RECORD), own=record.own_files(place))
    allow(_places(chain, record), place, events, trust=trust)
    done = run_chain(
        chain, load_model=load_model, seed=record.seed, device=device or record.device, dtype=record.dtype, out=out,
        overwrite=overwrite, events=events,
    )  # fmt: skip
    then = {name: record_of_link.outputs for name, record_of_link in record.records.items()}
    now = {name: link.record.outputs for name, link in done.runs.items()}
    pairs = [(then[name][key], now[name][key]) for name in then for key in then[name] if key in now.get(name, {})]
    same = all(before["pixels_sha256"] == after["pixels_sha256"] for before, after in pairs) if pairs else None
    return ChainRun(done.folder, done.runs, same)


def chain_folder(source: Path | str) -> Path:
    """The folder of a recorded chain, given as the folder or as the `chain.json` in it."""
    place = user_path(source)
    return place.parent if place.name == RECORD else place


def is_chain(source: Path | str) -> bool:
    """Whether that is the folder of a chain, or its record."""
    return (chain_folder(source) / RECORD).is_file()


def _clear(folder: Path, record: ChainRecord) -> None:
    """Remove what an earlier chain left, and nothing else: as `calotype.runs.folders.clear` for each link."""
    places = [place for place in map(folder.joinpath, record.link_folders()) if not place.is_symlink() and own_file(place, RECORD_NAME)]
    earlier = {place: read_record(place)[0] for place in places}
    for place, record_of_link in earlier.items():
        others = foreign(place, record_of_link)
        if others:
            raise InputError(
                f"{others[0]} is in a folder that would be replaced and no part of that run; move it, or choose another folder"
            )
    for place, record_of_link in earlier.items():
        clear(place, record_of_link)
        for own in (RECORD_NAME, PROGRESS_NAME):
            if own_file(place, own) is not None:
                (place / own).unlink()
        with suppress(OSError):
            place.rmdir()
    for file, digest in record.files.items():
        remove_listed(folder, file, digest)
    handed = folder / HANDED_ON
    if handed.is_dir() and not handed.is_symlink():
        for name in sorted(item.name for item in handed.iterdir()):
            if any(name.startswith((f"{link}.", f"{link}-")) and name.endswith(".safetensors") for link in record.links):
                left = own_file(handed, name)
                if left is not None:
                    left.unlink()
    for name in (INPUTS, HANDED_ON):
        with suppress(OSError):
            (folder / name).rmdir()
    if own_file(folder, SHEET) is not None:
        (folder / SHEET).unlink()


def _follow(
    chain: Chain,
    folder: Path,
    session: Session,
    record: ChainRecord,
    events: Events,
    *,
    resolve_method: ResolveMethod | None = None,
    trust: bool = False,
) -> ChainRun:
    runs: dict[str, Run] = {}
    places = {link.name: folder / f"{number}-{link.name}" for number, link in enumerate(chain.links, start=1)}
    again = f"calotype resume {folder}{' --trust' if _places(chain, record) else ''}"
    for number, link in enumerate(chain.links, start=1):
        refuse_link(places[link.name])
        later = {reference for follower in chain.links[number:] for reference in follower.references}
        wanted = sorted((reference for reference in later if reference.link == link.name), key=str)
        events.note(f"link {number} of {len(chain.links)}: {link.name} ({link.method.slug})")
        try:
            runs[link.name] = _one(link, places, folder, session, record, wanted, resolve_method, events, trust=trust)
            record = replace(record, records={**record.records, link.name: runs[link.name].record})
            record.write(folder)
        except Cancelled:
            raise Cancelled(f"stopped in the link {link.name}; continue with: {again}") from None
        except (CalotypeError, OSError) as error:
            trouble = disk_trouble(error)
            if not trouble:
                raise
            raise CalotypeError(
                f"{trouble}; the chain is interrupted in the link {link.name}: mend that, then continue with: {again}"
            ) from error
    _sheet(folder, runs)
    return ChainRun(folder, runs)


def _one(
    link: Link,
    places: Mapping[str, Path],
    folder: Path,
    session: Session,
    record: ChainRecord,
    wanted: list[Reference],
    resolve_method: ResolveMethod | None,
    events: Events,
    *,
    trust: bool,
) -> Run:
    """One link's run, anew or gone on with, and what later links need of it written to the bit."""
    place = places[link.name]
    complete = all(handed(reference, folder, place) is not None for reference in wanted)
    if resolve_method is not None and (place / RECORD_NAME).is_file():
        found, _ = read_record(place)
        if found.status != "finished" or complete:
            done = session.resume(place, resolve_method=resolve_method, input_folder=folder / INPUTS, trust=trust, events=events)
            if done.results:
                hand_on(done.results, wanted, folder)
            return done
    done = session.run(
        link.method,
        {name: resolved(value, link.parameters[name], folder, places) for name, value in link.give.items()},
        model=_requests(link, record)["model"],
        preset=link.preset,
        seed=record.seed if link.seed is None else link.seed,
        out=place,
        overwrite=True,
        events=events,
    )
    hand_on(done.results, wanted, folder)
    return done


def _sheet(folder: Path, runs: Mapping[str, Run]) -> None:
    """`chain.png`: a row for each link, its clip's frames or its pictures."""
    rows = []
    for number, (name, done) in enumerate(runs.items(), start=1):
        shown: list[Image] = []
        for key, entry in done.record.outputs.items():
            path = own_file(folder, f"{number}-{name}/{entry.get('file', '')}")
            if path is not None and not key.endswith("contact-sheet"):
                kind = kind_named(entry["kind"])
                shown += kind.pictures(kind.read(path, name=key, events=SILENT))
        rows.append(shown)
    rows_sheet(rows).save(folder / SHEET, overwrite=True)
