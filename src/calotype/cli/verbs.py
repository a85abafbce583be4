"""What a verb of the command line is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One row of the overview; the module is imported when the verb is used, and its function called with the remaining arguments."""

    module: str
    usage: str
    summary: str
    group: str
