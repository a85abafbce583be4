"""Proof on ground truth: every method against its baselines and ablations, every embedded model against its gates."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from calotype.core.events import SILENT, Events
from calotype.errors import CalotypeError, InputError
from calotype.evaluation.report import Claim, Report, Row
from calotype.registry import EVALUATIONS, did_you_mean, plugins, resolve_evaluation

__all__ = ["NAMES", "Claim", "Report", "Row", "evaluate", "names"]

MODELS = ("recogniser", "toy-vae", "toy-t2i", "toy-i2v", "toy-subject", "toy-qsm")
METHODS = ("time-reversal-fusion", "anyv2v", "design-edit", "ovam", "harmonized-customization", "qsmdiff")
NAMES = (*METHODS, *MODELS)
"""What can be evaluated without other packages."""


def names() -> tuple[str, ...]:
    """What can be evaluated, the methods of other packages included."""
    return (*NAMES, *(slug for slug, plugin in plugins(EVALUATIONS).items() if not plugin.problem))


def evaluate(
    name: str,
    *,
    seed: int = 1_000_000,
    count: int | None = None,
    quick: bool = False,
    device: str = "auto",
    events: Events = SILENT,
    record: bool = False,
    noise: float | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Report:
    """Evaluate a method or an embedded model on scenes of the eval split.

    A package that adds a method can prove it, too: its function in the entry-point group `calotype.evaluations` is called with `seed`,
    `count`, `quick`, `device` and `events`, and returns a `Report`.

    Args:
        name: one of `names()`.
        seed: makes the scenes and the noise; a claim should hold on any.
        count: scenes; the experiment's own number by default, which takes at most 8 minutes on 2 cores.
        quick: a few scenes only, to see that it runs.
        device: `auto`, `cpu`, `cuda`, ...
        events: hears the progress.
        noise: qsmdiff: standard deviation of the field's noise in ppm; 0.006 by default.
        data: qsmdiff: a folder of the QSM challenge or of qsm-forward, whose heads are scored in place of synthetic ones.
        record: write `results/<name>.csv`, the source of the docs' tables; a model's figures also go into the gates file and its card.

    Returns:
        Rows and claims; `Report.render()` is the table, `Report.to_dict()` the JSON.

    Raises:
        InputError: an unknown name, `count` below 1, or an option that the evaluation doesn't have.
        MissingError: an embedded checkpoint is missing, or the package that brings the evaluation is broken.
        CalotypeError: another package's evaluation returned something else than a report.
    """
    if count is not None and count < 1:
        raise InputError(f"count is {count}; it must be 1 or more")
    if name not in names() and name not in plugins() and name not in plugins(EVALUATIONS):
        known = names()
        raise InputError(f"nothing called {name!r} can be evaluated; {did_you_mean(name, known)}there are {', '.join(known)}")
    if (noise is not None or data is not None) and name != "qsmdiff":
        raise InputError(f"noise and data are for qsmdiff; {name} takes neither")
    if data is not None and (count is not None or record):
        raise InputError("data holds the heads to be scored; leave out count and record")
    settings: dict[str, Any] = {"seed": seed, "count": count, "quick": quick, "device": device, "events": events}
    if name in MODELS:
        from calotype.embedded import evaluate as toy_models

        report = toy_models.evaluate(name, record=record, **settings)
    elif name not in METHODS:
        report = resolve_evaluation(name)(**settings)
        if not isinstance(report, Report):
            raise CalotypeError(f"the evaluation of {name} returned a {type(report).__name__}; a calotype.evaluation.Report is expected")
    else:
        extra = {} if name != "qsmdiff" else {"noise_ppm": noise, "data": data}
        report = import_module(f"calotype.evaluation.{name.replace('-', '_')}").evaluate(**settings, **extra)
    if record:
        options = (f" --count {count}" if count else "") + (f" --noise {noise:g}" if noise else "")
        report.record(command=f"calotype eval {name} --seed {seed}{options} --record")
    return report
