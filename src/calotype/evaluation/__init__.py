"""Proof on ground truth: every method against its baselines and ablations, every embedded model against its gates."""

from __future__ import annotations

from calotype.core.errors import InputError
from calotype.core.events import SILENT, Events
from calotype.evaluation.report import Claim, Report, Row

__all__ = ["NAMES", "Claim", "Report", "Row", "evaluate"]

MODELS = ("recogniser", "toy-vae", "toy-t2i", "toy-i2v", "toy-subject")
METHODS = ("time-reversal-fusion", "anyv2v", "design-edit", "ovam", "harmonized-customization")
NAMES = (*METHODS, *MODELS)
"""What can be evaluated."""


def evaluate(
    name: str,
    *,
    seed: int = 1_000_000,
    count: int | None = None,
    quick: bool = False,
    device: str = "auto",
    events: Events = SILENT,
    record: bool = False,
) -> Report:
    """Evaluate a method or an embedded model on scenes of the eval split.

    Args:
        name: one of `NAMES`.
        seed: makes the scenes and the noise; a claim should hold on any.
        count: scenes; the experiment's own number by default, which takes at most 8 minutes on 2 cores.
        quick: a few scenes only, to see that it runs.
        device: `auto`, `cpu`, `cuda`, ...
        events: hears the progress.
        record: write `results/<name>.csv`, the source of the docs' tables; a model's figures also go into the gates file and its card.

    Returns:
        Rows and claims; `Report.render()` is the table, `Report.to_dict()` the JSON.

    Raises:
        InputError: an unknown name, or `count` below 1.
        MissingError: an embedded checkpoint is missing.
    """
    if count is not None and count < 1:
        raise InputError(f"count is {count}; it must be 1 or more")
    if name in MODELS:
        from calotype.evaluation import toy_models

        report = toy_models.evaluate(name, seed=seed, count=count, quick=quick, device=device, events=events, record=record)
    elif name == "time-reversal-fusion":
        from calotype.evaluation import time_reversal_fusion

        report = time_reversal_fusion.evaluate(seed=seed, count=count, quick=quick, device=device, events=events)
    elif name == "anyv2v":
        from calotype.evaluation import anyv2v

        report = anyv2v.evaluate(seed=seed, count=count, quick=quick, device=device, events=events)
    elif name == "ovam":
        from calotype.evaluation import ovam

        report = ovam.evaluate(seed=seed, count=count, quick=quick, device=device, events=events)
    elif name == "design-edit":
        from calotype.evaluation import design_edit

        report = design_edit.evaluate(seed=seed, count=count, quick=quick, device=device, events=events)
    elif name == "harmonized-customization":
        from calotype.evaluation import harmonized_customization

        report = harmonized_customization.evaluate(seed=seed, count=count, quick=quick, device=device, events=events)
    else:
        raise InputError(f"there is no evaluation of {name!r}; choose one of: {', '.join(NAMES)}")
    if record:
        report.record(command=f"calotype eval {name} --seed {seed}" + (f" --count {count}" if count else "") + " --record")
    return report
