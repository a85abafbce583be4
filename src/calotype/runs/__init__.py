"""Run folders: what was run, on what, with which result, so that it can be resumed after any interruption and done again bit for bit.

This room imports no method and no checkpoint: `run`, `resume` and `rerun` receive the callables that find and load them. Names are imported
on first use, so that a help page needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calotype.runs.comparing import Comparison, compare
    from calotype.runs.entries import ModelRequest, Record
    from calotype.runs.record import read_record
    from calotype.runs.running import Run, rerun, resume, run
    from calotype.runs.session import Session
    from calotype.runs.signature import Parameter, call_parameters, field_notes

_HOMES = {
    "Comparison": "comparing",
    "ModelRequest": "entries",
    "Parameter": "signature",
    "Record": "entries",
    "Run": "running",
    "Session": "session",
    "call_parameters": "signature",
    "compare": "comparing",
    "field_notes": "signature",
    "read_record": "record",
    "rerun": "running",
    "resume": "running",
    "run": "running",
}

__all__ = [
    "Comparison",
    "ModelRequest",
    "Parameter",
    "Record",
    "Run",
    "Session",
    "call_parameters",
    "compare",
    "field_notes",
    "read_record",
    "rerun",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"calotype.runs.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'calotype.runs' has no attribute {name!r}")
