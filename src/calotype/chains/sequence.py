"""Methods one after the other: what one link makes is what the next one is given.

A chain is a JSON file. Every link is a run of a method; `@NAME` stands for what an earlier link made:

    {"links": {
      "mask":  {"method": "ovam", "give": {"image": "clip.mp4", "words": "star"}},
      "still": {"method": "design-edit", "give": {"image": "clip.mp4", "masks": ["@mask.star-mask"], "remove": ["masks:0"]}},
      "clip":  {"method": "anyv2v", "give": {"video": "clip.mp4", "edited_first_frame": "@still"}},
      "back":  {"method": "time-reversal-fusion", "give": {"start": "@clip:last", "end": "@clip:first"}}}}

`@clip` is the result of the link `clip`, `@mask.star-mask` its result of that name, `@clip:first` and `@clip:last` are frames of a clip.
Files are looked for beside the chain. A link may also have `model`, `preset`, `settings` (fields of the method) and `seed`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.chains.record import LINK_NAME
from calotype.core.method import Method
from calotype.core.untrusted import parse_json, short, text, whole
from calotype.data.files import plain_file
from calotype.errors import InputError
from calotype.imaging.files import user_path
from calotype.registry import did_you_mean
from calotype.runs.artifact import ArtifactKind
from calotype.runs.presets import default_model, default_preset, preset_instance
from calotype.runs.record import MOST_SEED, parse_model
from calotype.runs.recorded import ResolveMethod
from calotype.runs.signature import Parameter, call_parameters, field_types
from calotype.runs.values import by_new_names, decode, encode

_KEYS = ("method", "give", "model", "preset", "settings", "seed")
_RESULT = r"[^/\\\x00-\x1f]{1,200}"


@dataclass(frozen=True)
class _Files:
    """Where the files of a chain are looked for."""

    folder: Path
    own: Mapping[str, Path] | None

    def find(self, value: str, kind: ArtifactKind, name: str) -> Path:
        """One file, or a folder of the frames of a clip or the slices of a volume."""
        if self.own is not None:
            if value not in self.own:
                raise InputError(f"{name}: the record names {short(value)}, which is none of the copies in its folder; it is not read")
            return self.own[value]
        path = self.folder / user_path(value)
        return path if os.path.isdir(path) and kind.folders else plain_file(path, name)


@dataclass(frozen=True)
class Reference:
    """What stands for a result of an earlier link.

    Example:
        >>> Reference.read("@clip:last")
        Reference(link='clip', result='', frame='last')
        >>> Reference.read("@mask.star-mask").file
        'mask.star-mask.safetensors'
    """

    link: str
    result: str = ""
    """Name of the result; empty where the link has one only."""
    frame: str = ""
    """"first" or "last" of a clip; empty for the whole."""

    @classmethod
    def read(cls, text: str) -> Reference:
        """From `@LINK`, `@LINK.RESULT`, either with `:first` or `:last`."""
        head, _, frame = text.removeprefix("@").partition(":")
        link, _, result = head.partition(".")
        return cls(link, result, frame)

    @property
    def file(self) -> str:
        """Name of the file in which it is handed on."""
        return f"{self.link}{f'.{self.result}' if self.result else ''}{f'-{self.frame}' if self.frame else ''}.safetensors"

    def __str__(self) -> str:
        return f"@{self.link}{f'.{self.result}' if self.result else ''}{f':{self.frame}' if self.frame else ''}"


@dataclass(frozen=True)
class Link:
    """One run of a chain."""

    name: str
    method: Method
    """Configured."""
    give: Mapping[str, Any]
    """The call's arguments: plain values, paths, and references in the place of files."""
    model: str
    preset: str
    seed: int | None = None
    """Of this link's noise; the chain's own if None."""

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The call's arguments by name."""
        return {parameter.name: parameter for parameter in call_parameters(type(self.method))}

    @property
    def plain(self) -> dict[str, Any]:
        """The arguments that are no files."""
        parameters = self.parameters
        return {name: value for name, value in self.give.items() if parameters[name].kind == "value"}

    @property
    def models(self) -> dict[str, str]:
        """The names of the checkpoints that it loads: `model`, and those that arguments name."""
        parameters = self.parameters
        return {"model": self.model, **{name: value for name, value in self.give.items() if parameters[name].kind == "model"}}

    @property
    def references(self) -> tuple[Reference, ...]:
        """What it is given of earlier links."""
        return tuple(value for values in map(_listed, self.give.values()) for value in values if isinstance(value, Reference))

    @property
    def files(self) -> tuple[Path, ...]:
        """The user's files."""
        return tuple(value for values in map(_listed, self.give.values()) for value in values if isinstance(value, Path))

    def with_files(self, places: Mapping[Path, Path]) -> Link:
        """The link with other places of its files."""

        def moved(value: Any) -> Any:
            return places.get(value, value) if isinstance(value, Path) else value

        given = {
            name: [moved(item) for item in value] if isinstance(value, list | tuple) else moved(value) for name, value in self.give.items()
        }
        return dataclasses.replace(self, give=given)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON from which `Chain.read` makes the same link, with every setting."""
        given = {
            name: [str(item) if isinstance(item, Reference | Path) else item for item in value]
            if isinstance(value, list | tuple)
            else str(value)
            if isinstance(value, Reference | Path)
            else encode(value, name)
            for name, value in self.give.items()
        }
        metadata = {"method": self.method.slug, "model": self.model, "preset": self.preset, "settings": encode(self.method, self.name)}
        return {**metadata, "give": given, **({} if self.seed is None else {"seed": self.seed})}


@dataclass(frozen=True)
class Chain:
    """Links, each of which may use what earlier ones made."""

    links: tuple[Link, ...]

    @classmethod
    def read(cls, path: Path | str, resolve_method: ResolveMethod) -> Chain:
        """The chain of a file, checked as far as that is possible before anything runs.

        Args:
            path: a JSON file.
            resolve_method: finds the class of a method by its slug.

        Raises:
            InputError: no JSON; a method, setting, argument or key that isn't known; a reference to no earlier link; a missing file.
        """
        source = plain_file(path, "chain")
        value = parse_json(source.read_bytes(), f"chain {source.name}")
        return cls.of(value, source.parent, resolve_method, source.name)

    @classmethod
    def of(
        cls, value: Any, folder: Path, resolve_method: ResolveMethod, name: str = "the chain", *, own: Mapping[str, Path] | None = None
    ) -> Chain:
        """The same from JSON that is read already; files are looked for in `folder`.

        Args:
            value: the JSON.
            folder: of the files.
            resolve_method: as `read`.
            name: what messages call it.
            own: for a recorded chain, the only files that it may name, with where they are.
        """
        links = value.get("links") if isinstance(value, Mapping) else None
        if not isinstance(links, Mapping) or not links:
            raise InputError(f"{name} has no links; it is an object such as {{'links': {{'mask': {{'method': 'ovam', 'give': {{...}}}}}}}}")
        made: list[Link] = []
        for key, metadata in links.items():
            if not re.fullmatch(LINK_NAME, key):
                raise InputError(f"{name}: the link name {short(key)!r} can't be used; take letters, digits, - and _")
            made.append(_link(key, metadata, _Files(folder, own), resolve_method, f"{name}: {key}", [link.name for link in made]))
        return cls(tuple(made))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that `of` takes."""
        return {"links": {link.name: link.to_json() for link in self.links}}


def _link(key: str, metadata: Any, files: _Files, resolve_method: ResolveMethod, name: str, earlier: Sequence[str]) -> Link:
    if not isinstance(metadata, Mapping):
        raise InputError(f"{name} is no object; give it a method and what it is given")
    for entry in metadata:
        if entry not in _KEYS:
            raise InputError(f"{name}: the key {short(entry)!r} is unknown; {did_you_mean(entry, _KEYS)}it takes {', '.join(_KEYS)}")
    if not isinstance(metadata.get("method"), str):
        raise InputError(f"{name}: method is missing; `calotype list` shows all")
    kind = resolve_method(metadata["method"])
    model = parse_model({"name": metadata.get("model") or default_model(kind)}, f"{name}: model").name
    preset = text(metadata.get("preset") or default_preset(kind, model), f"{name}: preset")
    seed = metadata.get("seed")
    if seed is not None:
        whole(seed, f"{name}: seed", 0, MOST_SEED)
    method = _configured(preset_instance(kind, preset), _object(metadata, "settings", name), name)
    known = {parameter.name: parameter for parameter in call_parameters(kind)}
    give = {
        argument: _given(known, argument, value, files, f"{name}: {argument}", earlier)
        for argument, value in _object(metadata, "give", name).items()
    }
    for parameter in known.values():
        if parameter.required and parameter.name not in give:
            raise InputError(f"{name}: {parameter.name} is missing; {metadata['method']} needs it")
    return Link(key, method, give, model, preset, seed)


def _object(metadata: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    value = metadata.get(key, {})
    if not isinstance(value, Mapping):
        raise InputError(f"{name}: {key} is {short(value)}; an object is expected")
    return value


def _configured(method: Method, settings: Mapping[str, Any], name: str) -> Method:
    types, settings = field_types(type(method)), by_new_names(type(method), settings)
    for entry in settings:
        if entry not in types:
            raise InputError(
                f"{name}: {method.slug} has no setting {short(entry)!r}; {did_you_mean(entry, types)}`calotype info` shows all"
            )
    values = {entry: decode(types[entry], value, f"{name}: {entry}") for entry, value in settings.items()}
    made: Method = dataclasses.replace(method, **values)  # type: ignore[type-var]
    return made


def _given(known: Mapping[str, Parameter], argument: str, value: Any, files: _Files, name: str, earlier: Sequence[str]) -> Any:
    """One argument: references and paths where files belong, plain values elsewhere."""
    if argument not in known:
        raise InputError(f"{short(name, 200)} is unknown; {did_you_mean(argument, known)}it takes {', '.join(known)}")
    parameter = known[argument]
    if parameter.kind == "value":
        return decode(parameter.annotation, value, name)
    if parameter.kind == "model":
        return parse_model({"name": value}, name).name
    if parameter.artifact is None or parameter.several != isinstance(value, list):
        raise InputError(f"{name} is {short(value)}; {'a list' if parameter.several else 'one file or reference'} is expected")
    found = [_file_or_reference(item, files, name, earlier, parameter.artifact) for item in _listed(value)]
    return found if isinstance(value, list) else found[0]


def _file_or_reference(value: Any, files: _Files, name: str, earlier: Sequence[str], kind: ArtifactKind) -> Path | Reference:
    if not isinstance(value, str) or not value or "\0" in value:
        raise InputError(f"{name}: {short(value)} is neither a file nor a reference such as @{earlier[-1] if earlier else 'mask'}")
    if not value.startswith("@"):
        return files.find(value, kind, name)
    reference = Reference.read(value)
    if reference.result and not re.fullmatch(_RESULT, reference.result):
        raise InputError(f"{name}: {short(value)} names no result; take a name such as @mask.star-mask")
    if reference.link not in earlier:
        there = f"the earlier links are {', '.join(earlier)}" if earlier else "it is the first link"
        raise InputError(f"{name}: {short(value)} names no earlier link; {there}")
    if reference.frame not in ("", "first", "last"):
        raise InputError(f"{name}: {short(value)} names the frame {short(reference.frame)!r}; take :first or :last")
    return reference


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)
