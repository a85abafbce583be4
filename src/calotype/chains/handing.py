"""What one link of a chain made and a later one is given, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calotype.chains.sequence import Reference
from calotype.core.events import SILENT
from calotype.errors import InputError
from calotype.runs import inputs
from calotype.runs.entries import RECORD_NAME
from calotype.runs.hashing import checked_digest
from calotype.runs.kinds import adopted, is_glance, kind_named, kind_of
from calotype.runs.outputs import Result
from calotype.runs.record import own_copy, own_file, read_record
from calotype.runs.signature import Parameter

HANDED_ON = "handed-on"


def select(results: Mapping[str, Result], reference: Reference) -> Result:
    """What a reference names among a link's results.

    Raises:
        InputError: no such result, several to choose from, or a frame of what is no clip.
    """
    found = results[_name(list(results), reference)]
    if not reference.frame:
        return found
    kind = kind_of(found)
    if reference.frame not in kind.parts:
        raise InputError(f"{reference}: {reference.link} made {kind.phrase}, not a clip; leave out :{reference.frame}")
    return kind.parts[reference.frame](found)


def _name(results: list[str], reference: Reference) -> str:
    name = reference.result or (results[0] if len(results) == 1 else "")
    if name not in results:
        what = f"has no result {name!r}" if name else "made several results"
        raise InputError(f"{reference}: {reference.link} {what}; take one of {', '.join(f'@{reference.link}.{key}' for key in results)}")
    return name


def hand_on(results: Mapping[str, Result], wanted: list[Reference], folder: Path) -> None:
    """Write what later links are given; what its own file keeps to the bit is taken from the link's folder.

    Raises:
        InputError: a reference that names none of the results.
    """
    for reference in wanted:
        found = select(results, reference)
        if kind_of(found).tensors:
            inputs.write_exact(found, folder / HANDED_ON / reference.file)


def handed(reference: Reference, folder: Path, link: Path) -> Path | None:
    """Where a result lies to the bit, in a chain's folder alone; None if it isn't there, or is not what the link's record says.

    Args:
        reference: names it.
        folder: the chain's.
        link: the run folder of the link that made it.
    """
    place = own_file(folder, f"{HANDED_ON}/{reference.file}")
    if place is not None or reference.frame or own_file(folder, f"{link.name}/{RECORD_NAME}") is None:
        return place
    try:
        made = {name: entry for name, entry in read_record(link)[0].outputs.items() if not is_glance(name)}
        entry = made[_name(list(made), reference)]
        place = own_copy(folder, f"{link.name}/{entry.get('file', '')}") if entry.get("file") else None
        exact = place is not None and not kind_named(entry["kind"]).tensors and checked_digest(place) == entry["sha256"]
        return place if exact else None
    except InputError:
        return None


def resolved(value: Any, parameter: Parameter, folder: Path, links: Mapping[str, Path]) -> Any:
    """An argument for a run: what was handed on in the place of every reference.

    Args:
        value: the argument, or a list of them.
        parameter: which.
        folder: the chain's.
        links: the run folders of the links.

    Raises:
        InputError: a result that isn't there any more, or of another kind.
    """
    if isinstance(value, list):
        return [resolved(item, parameter, folder, links) for item in value]
    if not isinstance(value, Reference) or parameter.artifact is None:
        return value
    place = handed(value, folder, links[value.link])
    if place is None:
        raise InputError(f"{folder / HANDED_ON / value.file} is missing, so {value} is unknown; do the chain again with: calotype rerun")
    if place.parent.name == HANDED_ON:
        found = inputs.read_exact(place)
    else:
        record, _ = read_record(links[value.link])
        kind = next(kind_named(entry["kind"]) for entry in record.outputs.values() if entry.get("file") == place.name)
        found = kind.read(place, name=str(value), events=SILENT)
    parts = kind_of(found).parts
    return adopted(parameter.artifact, found, f"{value} is", f"; take {' or '.join(f'{value}:{part}' for part in parts)}" if parts else "")
