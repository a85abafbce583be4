"""A recorded run made ready to go on, or to be done again: its method, its arguments and its inputs, checked and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.core.events import Events
from calotype.core.method import Method, Place
from calotype.core.untrusted import short, text
from calotype.errors import InputError
from calotype.imaging.files import user_path
from calotype.runs import inputs
from calotype.runs.artifact import ArtifactKind
from calotype.runs.entries import InputEntry, ModelRequest, Record, plain_name
from calotype.runs.hashing import checked_digest
from calotype.runs.record import INPUTS, input_suffix
from calotype.runs.signature import Parameter, call_parameters
from calotype.runs.trust import named_places, trusted_inputs
from calotype.runs.values import decode, decode_dataclass

ResolveMethod = Callable[[str], type[Method]]
"""Finds the class of a method by its slug."""


class Unheard(Events):
    """Lets the user stop what was said already when the run began."""

    def __init__(self, inner: Events) -> None:
        self.inner = inner

    def check(self) -> None:
        self.inner.check()


@dataclass(frozen=True)
class Prepared:
    """A recorded run, of which everything is there."""

    record: Record
    """As this version writes it."""
    method: Method
    plain: dict[str, Any]
    """The plain arguments."""
    places: dict[str, Path]
    """Where each input is."""
    values: dict[str, Any]
    """The inputs, read."""


def prepared(
    record: Record, resolve_method: ResolveMethod, source: object, folder: Path | None, extra: Path | None, events: Events,
    *, trust: bool, flag: bool = True,
) -> Prepared:  # fmt: skip
    """Check and read everything that a recorded run needs.

    Args:
        record: the run.
        resolve_method: finds its method.
        source, folder, extra, events, trust, flag: see `calotype.runs.trust.trusted_inputs`.

    Raises:
        InputError: a method, a setting, an argument or an input that isn't there or doesn't fit, or a place that needs the user's trust.
    """
    method = configured(record, resolve_method)
    known = {parameter.name: parameter for parameter in call_parameters(type(method))}
    record = _with_files(record, known)
    plain = _plain_arguments(method, record, known)
    places = trusted_inputs(record, plain, method, source, folder, extra, events, trust=trust, flag=flag)
    inputs = {
        name: entry if entry["sha256"] else {**entry, "sha256": checked_digest(places[name])} for name, entry in record.inputs.items()
    }
    record = record.changed(inputs=inputs)
    media = {name: (kind_of_argument(known, name), place) for name, place in places.items()}
    values = checked_values(method, media, record.models, plain, Unheard(events))
    return Prepared(record, method, plain, places, values)


def recorded_places(record: Record, resolve_method: ResolveMethod) -> list[Place]:
    """What going on with a recorded run touches outside of its folder, but its inputs; nothing if it ended.

    Raises:
        InputError: a method, a setting or an argument that this version doesn't have.
    """
    if record.status == "finished":
        return []
    method = configured(record, resolve_method)
    known = {parameter.name: parameter for parameter in call_parameters(type(method))}
    return named_places(method, _plain_arguments(method, _with_files(record, known), known), record.requests)


def configured(record: Record, resolve_method: ResolveMethod) -> Method:
    """The method with its recorded settings.

    Raises:
        InputError: this version doesn't have it, or one of the settings.
    """
    method: Method = decode_dataclass(resolve_method(record.method), record.parameters, record.method)
    return method


def checked_values(
    method: Method,
    media: Mapping[str, tuple[ArtifactKind, Any]],
    models: Mapping[str, ModelRequest],
    plain: Mapping[str, Any],
    events: Events,
) -> dict[str, Any]:
    """The inputs, read as the method asks for, once the method has looked at all that it is given.

    Raises:
        InputError: an input, or a method's own look, refuses.
    """
    options = method.reading()
    values = {name: inputs.read(kind, value, name, events, options.get(name.partition(".")[0])) for name, (kind, value) in media.items()}
    method.check({**grouped(values), **models, **plain})
    return values


def grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """`name.0`, `name.1` back to lists; one key for every argument.

    Example:
        >>> grouped({"image": 1, "masks.0": 2, "masks.1": 3})
        {'image': 1, 'masks': [2, 3]}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        head, _, index = name.partition(".")
        if index:
            found.setdefault(head, []).append(value)
        else:
            found[head] = value
    return found


def kind_of_argument(known: Mapping[str, Parameter], name: str) -> ArtifactKind:
    """The kind of an input, `name` or `name.3`."""
    artifact = known[name.partition(".")[0]].artifact
    if artifact is None:
        raise InputError(f"{name}: no file belongs here; use the version that wrote the record")
    return artifact


def _with_files(record: Record, known: Mapping[str, Parameter]) -> Record:
    """The record with files that earlier versions kept as the text of a plain argument, without a hash, among its inputs."""
    arguments, files = dict(record.arguments), dict(record.inputs)
    for name in [name for name in arguments if name in known and known[name].artifact is not None and name not in files]:
        path = arguments.pop(name)
        if path in ("", None):
            continue
        place = user_path(text(path, name, expected="the path of a file"))
        entry: InputEntry = {
            "kind": known[name].kind, "file": f"{INPUTS}/{name}{input_suffix(place)}", "path": str(path),
            "name": plain_name(place.name), "sha256": "",
        }  # fmt: skip
        files[name] = entry
    return record.changed(arguments=arguments, inputs=files)


def _plain_arguments(method: Method, record: Record, known: Mapping[str, Parameter]) -> dict[str, Any]:
    """The plain arguments of a recorded run, and a look whether its inputs are those that the method takes.

    Raises:
        InputError: an argument that the method doesn't have or that doesn't fit, or one that it needs and that is missing.
    """
    counts: dict[str, int] = {}
    for name, entry in record.inputs.items():
        head, _, index = name.partition(".")
        parameter = known.get(head)
        fits = parameter is not None and parameter.artifact is not None and parameter.kind == entry["kind"]
        if not fits or parameter is None or parameter.several != bool(index) or (index and int(index) != counts.get(head, 0)):
            raise InputError(f"{name}: {method.slug} takes no such {entry['kind']} here; use the version that wrote the record")
        counts[head] = counts.get(head, 0) + 1
    for name in record.arguments:
        if name not in known or known[name].kind != "value":
            raise InputError(f"{short(name)}: {method.slug} has no such argument; use the version that wrote the record")
    for name in record.models:
        if name not in known or known[name].kind != "model":
            raise InputError(f"{short(name)}: {method.slug} takes no such checkpoint; use the version that wrote the record")
    for name, parameter in known.items():
        if parameter.required and name not in (*counts, *record.arguments, *record.models):
            raise InputError(f"{name}: the record lacks it and {method.slug} needs it; give another file of the same run")
    return {name: decode(known[name].annotation, value, name) for name, value in record.arguments.items()}
