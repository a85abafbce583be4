"""The gates of the embedded models: each recipe measures its own model on new scenes, and each bar becomes a claim."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from calotype.core.events import SILENT, Events
from calotype.embedded.api import CHECKPOINTS, record_figures
from calotype.embedded.card import Gate
from calotype.embedded.recipes import EmbeddedRecipe
from calotype.evaluation.base import Evaluation
from calotype.evaluation.report import Claim, Report, Row


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


@dataclass(frozen=True)
class GateEvaluation(Evaluation):
    """Does an embedded model reach its bars? Without a count each figure is measured on its own number of scenes."""

    recipe: EmbeddedRecipe
    """The model's."""

    quick_count = 16

    def __call__(
        self, *, seed: int, count: int | None = None, quick: bool = False, device: str = "auto", events: Events = SILENT
    ) -> Report:
        """See `calotype.evaluation.Evaluation`."""
        name, began, asked = self.recipe.name, time.perf_counter(), count or (self.quick_count if quick else None)
        figures = dict(self.recipe.validate(CHECKPOINTS / name, seed=seed, count=asked, device=device, events=events))
        row = Row(name, "model", figures, {}, asked or int(figures.get("count", 0)))
        return Report(name, seed, row.n, device, time.perf_counter() - began, [row], gate_claims(self.recipe.gates, figures))

    def record(self, report: Report, *, command: str) -> None:
        """The figures also go into the gates file and the model's card, where the queue looks."""
        record_figures(self.recipe.name, report.rows[0].metrics, seed=report.seed)
        super().record(report, command=command)
