"""What a recorded run would touch on this machine outside of its own folder, which only the user can allow.

A record comes with a picture from anywhere. Its own copies in `inputs/`, the embedded models and the hub's cache are free; every other
place that it names is read, written or loaded only if the user says `--trust`, or gives the inputs in a folder of his own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calotype.core.events import Events
from calotype.core.method import Method, Place
from calotype.core.untrusted import short
from calotype.errors import InputError
from calotype.runs.entries import InputEntry, ModelRequest, Record
from calotype.runs.inputs import find

_SHOWN = 8


def named_places(method: Method, plain: Mapping[str, Any], models: Mapping[str, ModelRequest]) -> list[Place]:
    """The places that a run's arguments, settings and models name, but its inputs.

    Args:
        method: configured.
        plain: its plain arguments, decoded.
        models: what is loaded for the run, by what it is called.
    """
    found = [*method.places(plain), *(Place(name, "loads", model.name) for name, model in models.items())]
    return [place for place in found if place.use != "loads" or ModelRequest(place.path).is_folder]


def missing_inputs(record: Record, folder: Path | None, extra: Path | None) -> tuple[dict[str, Path], list[Place]]:
    """Where the recorded inputs are in the run's own folder and in the user's, and which others only the recorded path leads to.

    Raises:
        InputError: an input that is in neither, and of which no path is recorded.
    """
    there: dict[str, Path] = {}
    places: list[Place] = []
    for name, entry in record.inputs.items():
        try:
            there[name] = find(name, entry, folder, extra)
        except InputError:
            if not entry["path"]:
                raise
            places.append(Place(name, "reads", entry["path"]))
    return there, places


def trusted_inputs(
    record: Record, plain: Mapping[str, Any], method: Method, source: object, folder: Path | None, extra: Path | None, events: Events,
    *, trust: bool, flag: bool = True,
) -> dict[str, Path]:  # fmt: skip
    """Where a recorded run's inputs are, once the user has allowed all that the run touches.

    Args:
        record, plain, method: the run.
        source: what messages call it.
        folder: its run folder.
        extra: the folder with inputs that the user names.
        events: hears what a trusted record touches.
        trust: whether the user allows it.
        flag: whether `--inputs` can be given.

    Raises:
        InputError: `trust` is false and something is touched, or an input is nowhere.
    """
    there, missing = missing_inputs(record, folder, extra)
    allow([*named_places(method, plain, record.requests), *missing], source, events, trust=trust, flag=flag and bool(missing))
    entries: dict[str, InputEntry] = record.inputs
    return {name: there[name] if name in there else find(name, entries[name], folder, extra, trust=True) for name in entries}


def allow(places: Sequence[Place], source: object, events: Events, *, trust: bool, flag: bool = False) -> None:
    """Go on if the user trusts a record, with a note of what it touches; else refuse, with the same list.

    Args:
        places: what it touches.
        source: what messages call it.
        events: hears the note.
        trust: whether the user trusts it.
        flag: whether `--inputs` helps, too.

    Raises:
        InputError: there are such places, and `trust` is false.
    """
    if not places:
        return
    listed = ", ".join(f"{place.use} {short(place.path, 100)} ({short(place.argument, 40)})" for place in places[:_SHOWN])
    listing = f"{listed}{f' and {len(places) - _SHOWN} more' if len(places) > _SHOWN else ''}"
    if trust:
        events.note(f"the record is trusted: it {listing}")
        return
    instead = ", or give the files with --inputs DIR" if flag else ""
    raise InputError(f"{source}: the record names places outside of its folder: it {listing}; pass --trust if that is all right{instead}")
