"""Models for the command line, and the listener under which they load and run."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, Literal

from calotype.cli import console
from calotype.cli.options import Common

if TYPE_CHECKING:
    from calotype.runs import ModelRequest

Device = str
Dtype = Literal["auto", "float32", "float16", "bfloat16"]


def load_model(request: ModelRequest) -> Any:
    """The checkpoint that a request names, through `calotype.load`."""
    import calotype

    values = dataclasses.asdict(request)
    return calotype.load(values.pop("name"), **values)


def look(request: ModelRequest) -> None:
    """Find a checkpoint before anything heavy is imported, so that a missing one is told at once."""
    if request.name:
        from calotype.backbones.hub import locate

        locate(request.name, variant=request.variant, revision=request.revision)


@contextmanager
def output(options: Common) -> Iterator[console.ConsoleEvents]:
    """A listener, with whatever other libraries print kept away from stdout."""
    _silence()
    with redirect_stdout(sys.stderr), console.listening(quiet=options.quiet) as events:
        yield events


def _silence() -> None:
    """Other libraries' progress bars and advice don't belong among ours."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
