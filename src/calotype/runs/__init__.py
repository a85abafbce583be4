"""Run folders: what was run, on what, with which result, so that it can be resumed after any interruption and done again bit for bit.

This room imports no method and no checkpoint: `run`, `resume` and `rerun` receive the callables that find and load them.
"""

from calotype.runs.comparing import Comparison, compare
from calotype.runs.record import ModelRequest, Record, read_record
from calotype.runs.running import Run, rerun, resume, run
from calotype.runs.signature import Parameter, call_parameters, field_notes

__all__ = [
    "Comparison",
    "ModelRequest",
    "Parameter",
    "Record",
    "Run",
    "call_parameters",
    "compare",
    "field_notes",
    "read_record",
    "rerun",
    "resume",
    "run",
]
