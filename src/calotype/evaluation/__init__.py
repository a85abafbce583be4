"""Proof on ground truth: every method against its baselines and ablations, every embedded model against its gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from calotype.core.events import SILENT, Events
from calotype.errors import CalotypeError, InputError
from calotype.evaluation.base import Evaluation
from calotype.evaluation.report import Claim, Report, Row

__all__ = ["Claim", "Evaluation", "Report", "Row", "evaluate"]


def evaluate(
    found: Callable[..., Any],
    name: str,
    *,
    seed: int = 1_000_000,
    count: int | None = None,
    quick: bool = False,
    device: str = "auto",
    events: Events = SILENT,
    record: bool = False,
    **settings: Any,
) -> Report:
    """Evaluate a method or an embedded model on scenes of the eval split.

    Args:
        found: an `Evaluation` class, or a function (another package's) that is called with `seed`, `count`, `quick`, `device` and `events`
            and returns a `Report`; `calotype.registry.find_evaluation(name)` finds those that have a name.
        name: of what is evaluated, for messages and the file of results.
        seed: makes the scenes and the noise; a claim should hold on any.
        count: scenes; the experiment's own number by default, which takes at most 8 minutes on 2 cores.
        quick: a few scenes only, to see that it runs.
        device: `auto`, `cpu`, `cuda`, ...
        events: hears the progress.
        record: write `results/<name>.csv`, the source of the docs' tables; a model's figures also go into the gates file and its card.
        settings: fields of the evaluation, such as the noise of the fields that QSMDiff is evaluated on.

    Returns:
        Rows and claims; `Report.render()` is the table, `Report.to_dict()` the JSON.

    Raises:
        InputError: `count` below 1, or a setting that the evaluation doesn't have.
        MissingError: an embedded checkpoint is missing, or the package that brings the evaluation is broken.
        CalotypeError: another package's evaluation returned something else than a report.
    """
    if count is not None and count < 1:
        raise InputError(f"count is {count}; it must be 1 or more")
    declared = isinstance(found, type) and issubclass(found, Evaluation)
    own = {field.name: field.default for field in dataclasses.fields(found)} if declared else {}  # type: ignore[arg-type]
    unknown = [setting for setting in settings if setting not in own]
    if unknown:
        takes = f"it takes {', '.join(own)}" if own else "it takes no settings of its own"
        raise InputError(f"the evaluation of {name} has no setting {unknown[0]!r}; {takes}")
    evaluation = found(**settings) if declared else found
    if isinstance(evaluation, Evaluation):
        evaluation.check(count=count, record=record)
    report = evaluation(seed=seed, count=count, quick=quick, device=device, events=events)
    if not isinstance(report, Report):
        raise CalotypeError(f"the evaluation of {name} returned a {type(report).__name__}; a calotype.evaluation.Report is expected")
    if record:
        given = {"count": count, **{key: value for key, value in settings.items() if value != own[key]}}
        options = "".join(f" --{key.replace('_', '-')} {_text(value)}" for key, value in given.items() if value is not None)
        command = f"calotype eval {name} --seed {seed}{options} --record"
        if isinstance(evaluation, Evaluation):
            evaluation.record(report, command=command)
        else:
            report.record(command=command)
    return report


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
