"""The gates of the embedded models: each recipe measures its own model on new scenes, and each bar becomes a claim."""

from __future__ import annotations

import time
from collections.abc import Mapping

from calotype.core.events import Events
from calotype.embedded import GATES, RECIPES, Gate
from calotype.evaluation.report import Claim, Report, Row

QUICK = 16


def gate_claims(gates: tuple[Gate, ...], figures: Mapping[str, float]) -> list[Claim]:
    """One claim per bar; an unmeasured figure doesn't hold.

    Example:
        >>> gate_claims((Gate("psnr_db", 29.0),), {"psnr_db": 30.0})[0].holds
        True
    """
    return [
        Claim(
            f"{gate.metric} {'at most' if gate.at_most else 'at least'}",
            figures.get(gate.metric, float("nan")),
            gate.bar,
            gate.holds(figures.get(gate.metric)),
        )
        for gate in gates
    ]


def evaluate(name: str, *, seed: int, count: int | None, quick: bool, device: str, events: Events, record: bool = False) -> Report:
    """See `calotype.evaluation.evaluate`; without a count each figure is measured on its own number of scenes.

    With `record` the figures also go into the gates file and the model's card, where the queue looks.
    """
    from calotype.embedded.api import CHECKPOINTS, measure_gates

    began = time.perf_counter()
    asked = count or (QUICK if quick else None)
    if record:
        figures: Mapping[str, float] = measure_gates(name, seed=seed, count=asked, device=device, events=events)
    else:
        figures = RECIPES[name].validate(CHECKPOINTS / name, seed=seed, count=asked, device=device, events=events)
    row = Row(name, "model", dict(figures), {}, asked or int(figures.get("count", 0)))
    return Report(name, seed, row.n, device, time.perf_counter() - began, [row], gate_claims(GATES.get(name, ()), figures))
