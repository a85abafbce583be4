"""A method of a few lines, as a package of somebody else would add it: a folder in; a folder, a table and a value of its own kind out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from calotype.core.artifacts import DatasetFolder, Table
from calotype.core.events import SILENT, Events
from calotype.core.method import Method
from calotype.errors import InputError
from calotype.imaging.files import atomic_path
from calotype.runs.artifact import ArtifactKind, contents


@dataclass(frozen=True)
class Greeting:
    """A value that only this package knows."""

    words: str


def read(path: Path, *, name: str = "greeting", events: Events = SILENT) -> Greeting:
    """From a file that begins as it should."""
    found = Path(path).read_text()
    if not found.startswith("hello "):
        raise InputError(f"{name}: {path} holds no greeting; begin it with hello")
    return Greeting(found.removeprefix("hello "))


def write(value: Greeting, path: Path, metadata: Mapping[str, str]) -> None:
    """The same."""
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(f"hello {value.words}")


GREETING = ArtifactKind(
    name="greeting",
    type=Greeting,
    phrase="a greeting",
    suffix=".hello",
    read=read,
    write=write,
    digest=lambda value: hashlib.sha256(value.words.encode()).hexdigest(),
    metadata=contents(lambda value: f"{len(value.words)} letters"),
    distance=lambda first, second: f"{abs(len(first.words) - len(second.words))} letters apart",
)


@dataclass(frozen=True, kw_only=True)
class ToyUpper(Method):
    """Writes every text of a folder in capitals."""

    slug: ClassVar[str] = "toy-upper"
    role: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ()

    repeats: int = 1
    """How often each text is written."""

    def __call__(
        self, model: None, data: DatasetFolder, greeting: Greeting | None = None, *, seed: int = 0, events: Events = SILENT
    ) -> dict[str, Any]:
        """Write.

        Args:
            data: a folder of texts.
            greeting: what is written above each.
        """
        made, rows = DatasetFolder.temporary(), []
        for file in sorted(data.path.rglob("*.txt")):
            text = f"{greeting.words} " if greeting is not None else ""
            text += file.read_text().upper() * self.repeats
            target = made.path / file.relative_to(data.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            rows.append((file.name, len(text), len(text) / 3))
        return {"capitals": made, "lengths": Table(("file", "letters", "third"), tuple(rows)), "answer": Greeting(f"{len(rows)} texts")}


METHOD = ToyUpper
