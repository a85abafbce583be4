"""How the suite checks types and shapes at run time: annotated calls of these modules, whole numbers taken where numbers are asked for."""

from __future__ import annotations

from pathlib import Path

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

_ROOMS = ("core", "metrics", "attention")
_LEFT_OUT = {"calotype.core.artifacts", "calotype.core.roles"}
"""Classes whose methods give `Self`, which beartype takes only where it decorates a whole class."""
_SOURCE = Path(__file__).parents[1] / "src" / "calotype"
PACKAGES = sorted({f"calotype.{room}.{path.stem}" for room in _ROOMS for path in (_SOURCE / room).glob("[!_]*.py")} - _LEFT_OUT)
