"""One parser for all verbs: a dataclass's fields are the flags, the docstring below each is its help. tyro parses, rich prints the help."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
import types
import typing
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from calotype.errors import InputError
from calotype.imaging.files import json_line
from calotype.registry import did_you_mean
from calotype.runs.signature import field_default

if TYPE_CHECKING:
    from calotype.runs import Parameter

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every verb knows."""

    quiet: bool = False
    """Say nothing but errors and the result."""
    json: bool = False
    """Print exactly one JSON object on stdout; everything else goes to stderr."""


@dataclass(frozen=True)
class Flag:
    """One flag or positional argument."""

    name: str
    metavar: str
    default: Any
    help: str
    group: str
    takes_value: bool = True
    group_note: str = ""

    @property
    def required(self) -> bool:
        """Whether the user must give it."""
        return self.default is MISSING

    @property
    def several_numbers(self) -> bool:
        """Whether it takes several, which may be given with spaces or with commas between them."""
        return self.metavar in ("N...", "X...") or bool(re.fullmatch("[NX]( [NX])+", self.metavar))

    @property
    def several(self) -> bool:
        """Whether it takes any number of values, which may be given behind it or each behind a mention of its own."""
        return self.metavar.endswith("...")

    @property
    def positional(self) -> bool:
        """Whether it is given without its name."""
        return not self.name.startswith("-")


@dataclass(frozen=True)
class Help:
    """What a verb's help page says besides its flags."""

    usage: str
    """Such as "calotype run METHOD --start FILE"."""
    summary: str
    details: str = ""
    examples: tuple[str, ...] = ()


def input_metavar(parameter: Parameter) -> str:
    """What stands for an argument of a method's call on help pages."""
    if parameter.artifact is None:
        return {"model": "NAME"}.get(parameter.kind, "VALUE")
    return f"{'FILE' if parameter.artifact.suffix else 'FOLDER'}{'...' if parameter.several else ''}"


def parse(spec: type[T], arguments: Sequence[str], page: Help, *, groups: dict[str, str] | None = None) -> T:
    """The arguments as an instance of a dataclass.

    Args:
        spec: fields are flags (`--num-frames`); `tyro.conf.Positional` ones are positional; dataclass fields whose annotation has
            `tyro.conf.arg(name="")` are groups of flags, other dataclass fields prefix theirs (`--reinject.ratio`).
        arguments: without the verb.
        page: the help page.
        groups: titles of the groups by field name.

    Raises:
        InputError: an unknown flag (with the nearest ones), a missing one, or a value that does not fit; one line.
        SystemExit: 0 after `--help`.
    """
    import tyro

    flags = collect(spec, groups or {})
    if "--help" in arguments or "-h" in arguments:
        show_help(page, flags)
        raise SystemExit(0)
    given = _gathered(_known(list(arguments), flags, page), flags)
    captured = io.StringIO()
    try:
        with redirect_stderr(captured), redirect_stdout(captured):
            return tyro.cli(spec, args=given, prog=page.usage, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit:
        raise InputError(_condensed(captured.getvalue(), given, flags, page)) from None


def early_value(arguments: Sequence[str], name: str) -> str:
    """The value of a flag that is needed before the others can be read."""
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""


def _known(arguments: list[str], flags: Sequence[Flag], page: Help) -> list[str]:
    """The arguments, after a look for unknown and missing flags, which is what people get wrong most."""
    known = {flag.name: flag for flag in flags}
    switches = {f"--no-{flag.name[2:]}": flag for flag in flags if not flag.takes_value}
    help_line = f"`{_command(page)} --help` shows all"
    result: list[str] = []
    seen, latest = set(), None
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            result += _numbers(argument) if latest is not None and latest.several_numbers else [argument]
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        if name not in known and name not in switches:
            raise InputError(f"no option {name}; {did_you_mean(name, known)}{help_line}")
        seen.add(name)
        switch = latest = known.get(name) or switches[name]
        if not switch.takes_value and (name in known) == bool(switch.default):
            continue  # It is so already, by its default or by the preset.
        result += [name, *_numbers(value)] if equals and switch.several_numbers else [f"{name}{equals}{value}"]
    for flag in flags:
        if flag.required and not flag.positional and flag.name not in seen:
            raise InputError(f"{flag.name} {flag.metavar} is needed ({flag.help.rstrip('.')}); {help_line}")
    return result


def _gathered(arguments: Sequence[str], flags: Sequence[Flag]) -> list[str]:
    """The values of a flag that takes several and is repeated, behind its first mention. Of one that takes a single value the last counts.

    >>> flags = [Flag("--move", "TEXT...", (), "", ""), Flag("--seed", "N", 0, "", "")]
    >>> _gathered(["--move", "a", "b", "--seed", "1", "--move=c", "--seed", "2"], flags)
    ['--move', 'a', 'b', 'c', '--seed', '1', '--seed', '2']
    """
    several = {flag.name: flag.several for flag in flags if flag.takes_value}
    parts: list[list[str]] = [[]]
    for argument in arguments:
        if argument.startswith("--") and argument.partition("=")[0] in several:
            name, equals, value = argument.partition("=")
            parts.append([name, value] if equals and several[name] else [argument])
        elif argument.startswith("--"):
            parts.append([argument])
        else:
            parts[-1].append(argument)
    first: dict[str, list[str]] = {}
    for part in parts[1:]:
        name = part[0].partition("=")[0]
        if not several.get(name) or name not in first:
            first.setdefault(name, part)
        else:
            first[name].extend(part[1:])
            part.clear()
    return [argument for part in parts for argument in part]


def _numbers(text: str) -> list[str]:
    """Numbers with commas between them, one by one; any other text as it is.

    >>> _numbers(".2,.8"), _numbers("-160"), _numbers("a,b")
    (['.2', '.8'], ['-160'], ['a,b'])
    """
    parts = [part for part in text.split(",") if part]
    return parts if parts and all(re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", part) for part in parts) else [text]


def _command(page: Help) -> str:
    words = [word for word in page.usage.split() if not word.startswith(("-", "[", "<")) and not (word.isupper() and len(word) > 1)]
    return " ".join(words[:3])


def _condensed(text: str, given: Sequence[str], flags: Sequence[Flag], page: Help) -> str:
    """tyro's message on one line: which flag, what was given, what it takes."""
    help_line = f"`{_command(page)} --help` shows all"
    plain = " ".join(re.sub(r"[│╭╮╰╯─-]{2,}(?![a-z])|[│╭╮╰╯─]", " ", text).split())
    named = re.findall(r"(?:parsing|argument) '?(--[a-z0-9.-]+|[A-Z]+)'?", plain)
    flag = next((flag for flag in flags if flag.name.strip() in named), None)
    if flag is not None:
        value = _value_of(flag.name, given)
        return f"{flag.name} {f'was given {value!r} but ' if value is not None else ''}takes {_in_words(flag.metavar)}; {help_line}"
    surplus = re.search(r"Unrecognized (?:options|arguments)[^:]*:? (.*?)(?: For full| Perhaps|$)", plain)
    if surplus:
        return f"{surplus.group(1)!r} is too much here; {help_line}"
    missing = [flag for flag in flags if flag.required and flag.positional]
    if "Missing from" in plain and missing:
        return f"{' '.join(flag.metavar.strip() for flag in missing)} is needed, as in: {page.usage}"
    return f"{plain[:300]}; {help_line}"


def _value_of(name: str, given: Sequence[str]) -> str | None:
    for position, argument in enumerate(given):
        if argument == name:
            return given[position + 1] if position + 1 < len(given) and not given[position + 1].startswith("--") else None
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def _in_words(metavar: str) -> str:
    """What a flag takes, from its placeholder.

    Example:
        >>> _in_words("N"), _in_words("a|b")
        ('a whole number', 'one of a, b')
    """
    if "|" in metavar:
        return f"one of {metavar.replace('|', ', ')}"
    words = {
        "N": "a whole number",
        "X": "a number",
        "TEXT": "a text",
        "PATH": "a path",
        "FILE": "a file",
        "FOLDER": "a folder",
        "X X": "two numbers",
        "": "no value",
    }
    return words.get(metavar, metavar)


def collect(
    spec: type, titles: dict[str, str], group: str = "Options", prefix: str = "", default: Any = MISSING, group_note: str = ""
) -> list[Flag]:
    """Every flag of a dataclass, those of nested ones included; what every verb knows comes last."""
    from calotype.runs.signature import field_notes

    notes = field_notes(spec)
    hints = typing.get_type_hints(spec, include_extras=True)
    flags: list[Flag] = []
    for field in dataclasses.fields(spec):
        annotation, extras = _unwrap(hints[field.name])
        value = getattr(default, field.name) if default is not MISSING else field_default(field)
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            flat = any(getattr(extra, "name", None) == "" for extra in extras)
            inner_prefix = prefix if flat else f"{prefix}{field.name}."
            title = titles.get(field.name, titles.get(f"{prefix}{field.name}", f"{prefix}{field.name}"))
            flags += collect(annotation, titles, title, inner_prefix, value, "" if flat else notes.get(field.name, ""))
            continue
        positional = any("Positional" in str(extra) or "POSITIONAL" in str(extra) for extra in extras)
        help_text = next((extra.help for extra in extras if getattr(extra, "help", None)), None) or notes.get(field.name, "")
        metavar = next((extra.metavar for extra in extras if getattr(extra, "metavar", None)), None) or metavar_of(annotation)
        name = metavar if positional else f"--{prefix}{field.name}".replace("_", "-")
        flags.append(Flag(name, metavar, value, help_text, group, annotation is not bool, group_note))
    return sorted(flags, key=lambda flag: flag.name in ("--quiet", "--json"))


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *extras = typing.get_args(annotation)
        return inner, tuple(extras)
    return annotation, ()


def metavar_of(annotation: Any) -> str:
    """What a value of a type looks like on a help page.

    Example:
        >>> metavar_of(int | None), metavar_of(typing.Literal["a", "b"]), metavar_of(tuple[float, float])
        ('N', 'a|b', 'X X')
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return metavar_of(next(argument for argument in arguments if argument is not type(None)))
    if origin is typing.Literal:
        return "|".join(str(argument) for argument in arguments)
    if origin in (tuple, list, Sequence):
        if Ellipsis in arguments or origin is not tuple:
            return f"{metavar_of(arguments[0])}..."
        return " ".join(metavar_of(argument) for argument in arguments)
    names = {int: "N", float: "X", str: "TEXT", bool: ""}
    if annotation in names:
        return names[annotation]
    return "PATH" if getattr(annotation, "__name__", "") == "Path" else getattr(annotation, "__name__", "VALUE").upper()


def show_help(page: Help, flags: Sequence[Flag]) -> None:
    """Print a help page: usage, what it does, the flags by group with their defaults, examples."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from calotype.cli.console import results

    out = results()
    out.print(Text.assemble(("usage: ", "dim"), (page.usage, "bold")))
    out.print()
    out.print(Text(page.summary))
    if page.details:
        out.print()
        out.print(Text(page.details))
    width = min(34, max((len(_label(flag)) for flag in flags), default=0))
    for group in dict.fromkeys(flag.group for flag in flags):
        out.print()
        note = next(flag.group_note for flag in flags if flag.group == group)
        out.print(Text.assemble((group, "bold cyan"), (f"  {note.replace('`', '')}" if note else "", "dim")))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, width=min(out.width, 130) - 2)
        table.add_column(width=width, no_wrap=False, overflow="fold")
        table.add_column(ratio=1)
        for flag in (flag for flag in flags if flag.group == group):
            label = Text.assemble((flag.name, "bold"), (f" {flag.metavar}" if not flag.positional and flag.metavar else "", "green"))
            table.add_row(label, Text.assemble(flag.help.replace("`", ""), (_default_text(flag), "dim")))
        out.print(Padding(table, (0, 0, 0, 2)))
    if page.examples:
        out.print()
        out.print(Text("Examples", style="bold cyan"))
        for example in page.examples:
            out.print(Text(f"  {example}"))


def _label(flag: Flag) -> str:
    return flag.name if flag.positional else f"{flag.name} {flag.metavar}"


def _default_text(flag: Flag) -> str:
    if flag.required:
        return "" if flag.positional else " (needed)"
    if flag.default in (None, "", ()) or flag.default is False:
        return ""
    if flag.default is True:
        return f" [on; --no-{flag.name[2:]} turns it off]"
    return f" [{flag.default}]"


def print_json(value: Any) -> None:
    """The one object of `--json`."""
    sys.stdout.write(json_line(value) + "\n")
    sys.stdout.flush()
