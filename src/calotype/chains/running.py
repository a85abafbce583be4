"""Run a chain in a folder: a run folder for every link, what they hand on to the bit, and `chain.json`, which holds every link's record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calotype.chains.sequence import Chain, Link, Reference
from calotype.core.errors import Cancelled, InputError
from calotype.core.events import SILENT, Events
from calotype.core.files import write_json
from calotype.core.types import Image, Video
from calotype.data import read_image, read_video, rows_sheet
from calotype.runs import inputs
from calotype.runs.hashing import path_digest
from calotype.runs.kinds import suited
from calotype.runs.outputs import Result
from calotype.runs.record import RECORD_NAME, ModelRequest, read_record
from calotype.runs.running import LoadModel, ResolveMethod, Run, make_folder, resume, run

RECORD = "chain.json"
SHEET = "chain.png"
HANDED_ON = "handed-on"
FORMAT = 1


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
    if out is not None and overwrite and is_chain(out):
        _clear(Path(out).expanduser())
    folder = make_folder(out, "chain", overwrite)
    places: dict[Path, Path] = {}
    kept: dict[str, str] = {}
    for link in chain.links:
        for path in link.files:
            if path not in places:
                target = folder / inputs.FOLDER / f"{len(places)}-{path.name}"
                inputs.keep(folder, path, {"file": str(target.relative_to(folder))})
                places[path], kept[str(target.relative_to(folder))] = target, path_digest(target)
    own = Chain(tuple(link.with_files(places) for link in chain.links))
    values = {"calotype_chain": FORMAT, "seed": seed, "device": device, "dtype": dtype, "files": kept, **own.to_json(), "records": {}}
    write_json(folder / RECORD, _relative(values, folder))
    return _follow(own, folder, load_model, values, events)


def resume_chain(folder: Path | str, *, resolve_method: ResolveMethod, load_model: LoadModel, events: Events = SILENT) -> ChainRun:
    """Go on where a chain was stopped: finished links stay, a begun one continues from its state; the results are those of one go.

    Raises:
        InputError: no chain's folder.
        Cancelled: as `run_chain`.
    """
    place = Path(folder).expanduser()
    values = read_chain_record(place)
    chain = Chain.of(values, place, resolve_method, str(place / RECORD))
    return _follow(chain, place, load_model, values, events, resolve_method=resolve_method)


def rerun_chain(
    source: Path | str,
    *,
    resolve_method: ResolveMethod,
    load_model: LoadModel,
    out: Path | str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    events: Events = SILENT,
) -> ChainRun:
    """Do a recorded chain again from the files that its folder keeps, each link with what the link before makes now.

    Raises:
        InputError: no chain's folder, or a file in it has changed.
    """
    place = chain_folder(source)
    values = read_chain_record(place)
    for name, digest in values["files"].items():
        if not (place / name).exists() or path_digest(place / name) != digest:
            raise InputError(f"{place / name} is missing or has changed since the chain ran; copy it back")
    chain = Chain.of(values, place, resolve_method, str(place / RECORD))
    done = run_chain(
        chain, load_model=load_model, seed=values["seed"], device=device or values["device"], dtype=values["dtype"], out=out,
        overwrite=overwrite, events=events,
    )  # fmt: skip
    then = {name: record["outputs"] for name, record in values["records"].items()}
    now = {name: link.record.outputs for name, link in done.runs.items()}
    pairs = [(then[name][key], now[name][key]) for name in then for key in then[name] if key in now.get(name, {})]
    same = all(before["pixels_sha256"] == after["pixels_sha256"] for before, after in pairs) if pairs else None
    return ChainRun(done.folder, done.runs, same)


def chain_folder(source: Path | str) -> Path:
    """The folder of a recorded chain, given as the folder or as the `chain.json` in it."""
    place = Path(source).expanduser()
    return place.parent if place.name == RECORD else place


def is_chain(source: Path | str) -> bool:
    """Whether that is the folder of a chain, or its record."""
    return (chain_folder(source) / RECORD).is_file()


def read_chain_record(folder: Path) -> dict[str, Any]:
    """What `chain.json` holds.

    Raises:
        InputError: there is none, or one of another format.
    """
    path = folder / RECORD
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {RECORD}, so it is no folder of a chain") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(values, dict) or values.get("calotype_chain") != FORMAT:
        raise InputError(f"{path} is no record of a chain that this version reads (format {FORMAT})")
    return values


def _clear(folder: Path) -> None:
    """Remove what an earlier chain left, its record last, and nothing else."""
    numbered = enumerate(read_chain_record(folder)["links"], start=1)
    for name in (*(f"{number}-{link}" for number, link in numbered), inputs.FOLDER, HANDED_ON):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (SHEET, RECORD):
        (folder / name).unlink(missing_ok=True)


def _follow(
    chain: Chain,
    folder: Path,
    load_model: LoadModel,
    values: dict[str, Any],
    events: Events,
    *,
    resolve_method: ResolveMethod | None = None,
) -> ChainRun:
    load, runs = _once(load_model), {}
    for number, link in enumerate(chain.links, start=1):
        place = folder / f"{number}-{link.name}"
        later = {reference for follower in chain.links[number:] for reference in follower.references}
        wanted = sorted((reference for reference in later if reference.link == link.name), key=str)
        events.note(f"link {number} of {len(chain.links)}: {link.name} ({link.method.slug})")
        try:
            runs[link.name] = _one(link, place, folder, load, values, wanted, resolve_method, events)
        except Cancelled:
            raise Cancelled(f"stopped in the link {link.name}; continue with: calotype resume {folder}") from None
        values["records"][link.name] = runs[link.name].record.to_json()
        write_json(folder / RECORD, _relative(values, folder))
    _sheet(folder, runs)
    return ChainRun(folder, runs)


def _one(
    link: Link,
    place: Path,
    folder: Path,
    load: LoadModel,
    values: Mapping[str, Any],
    wanted: list[Reference],
    resolve_method: ResolveMethod | None,
    events: Events,
) -> Run:
    """One link's run, anew or gone on with, and what later links need of it written to the bit."""
    complete = all((folder / HANDED_ON / reference.file).is_file() for reference in wanted)
    if resolve_method is not None and (place / RECORD_NAME).is_file():
        record, _ = read_record(place)
        if record.status != "finished" or complete:
            done = resume(place, resolve_method=resolve_method, load_model=load, events=events)
            if done.results:
                _hand_on(done.results, wanted, folder)
            return done
    done = run(
        link.method,
        {name: _resolved(value, link.parameters[name].kind, folder) for name, value in link.give.items()},
        load,
        model=ModelRequest(link.model, device=values["device"], dtype=values["dtype"]),
        preset=link.preset,
        seed=values["seed"] if link.seed is None else link.seed,
        out=place,
        overwrite=True,
        events=events,
    )
    _hand_on(done.results, wanted, folder)
    return done


def _hand_on(results: Mapping[str, Result], wanted: list[Reference], folder: Path) -> None:
    for reference in wanted:
        inputs.write_exact(select(results, reference), folder / HANDED_ON / reference.file)


def select(results: Mapping[str, Result], reference: Reference) -> Result:
    """What a reference names among a link's results.

    Raises:
        InputError: no such result, several to choose from, or a frame of what is no clip.
    """
    name = reference.result or (next(iter(results)) if len(results) == 1 else "")
    if name not in results:
        what = f"has no result {name!r}" if name else "made several results"
        raise InputError(f"{reference}: {reference.link} {what}; take one of {', '.join(f'@{reference.link}.{key}' for key in results)}")
    found = results[name]
    if not reference.frame:
        return found
    if not isinstance(found, Video):
        raise InputError(f"{reference}: {reference.link} made a {type(found).__name__.lower()}, not a clip; leave out :{reference.frame}")
    return Image(found.frames[0 if reference.frame == "first" else -1])


def _resolved(value: Any, kind: str, folder: Path) -> Any:
    """An argument for `run`: what was handed on in the place of every reference."""
    if isinstance(value, list):
        return [_resolved(item, kind.removesuffix("s"), folder) for item in value]
    if not isinstance(value, Reference):
        return value
    found = inputs.read_exact(folder / HANDED_ON / value.file)
    return suited(kind, found, f"{value} is", f"; take {value}:first or {value}:last" if isinstance(found, Video) else "")


def _once(load_model: LoadModel) -> Callable[[ModelRequest], Any]:
    """Loads each checkpoint once."""
    loaded: dict[tuple[Any, ...], Any] = {}

    def load(request: ModelRequest) -> Any:
        key = tuple(asdict(request).values())
        if key not in loaded:
            loaded[key] = load_model(request)
        return loaded[key]

    return load


def _relative(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The record with paths inside of the folder told from there, so that the folder can be moved."""
    inside = f"{folder}/"

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return value.removeprefix(inside)
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {key: plain(value) if key == "links" else value for key, value in values.items()}


def _sheet(folder: Path, runs: Mapping[str, Run]) -> None:
    """`chain.png`: a row for each link, its clip's frames or its pictures."""
    rows = []
    for number, (name, done) in enumerate(runs.items(), start=1):
        shown: list[Image] = []
        for key, entry in done.record.outputs.items():
            path = folder / f"{number}-{name}" / entry["file"]
            if "frames" in entry:
                clip = read_video(path)
                shown += [clip[frame] for frame in range(len(clip))]
            elif path.suffix == ".png" and not key.endswith("contact-sheet"):
                shown.append(read_image(path))
        rows.append(shown)
    rows_sheet(rows).save(folder / SHEET, overwrite=True)
