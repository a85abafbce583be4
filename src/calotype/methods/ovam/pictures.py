"""Runs that are watched whole."""

from __future__ import annotations

from calotype.core.events import Events
from calotype.methods.ovam.words import WatchedModel


def whole_batch(model: WatchedModel, events: Events) -> WatchedModel:
    """The model without a bound on its rows, since attention is read from all rows of one call."""
    if model.max_rows is None:
        return model
    events.note("max_rows is left aside: attention is read from all rows of one call")
    return model.with_max_rows(None)
