"""Which weights a run was done with."""

from __future__ import annotations

from typing import Any

from calotype.runs.entries import Record


def checkpoint_description(model: Any) -> dict[str, Any]:
    """What a loaded checkpoint is, without where it lies, and the hash over its weights; nothing of an object that is no checkpoint."""
    if getattr(model, "source", None) is None:
        return {}
    from calotype.backbones import checkpoint_hash, describe

    described = {key: value for key, value in describe(model).items() if key not in ("folder", "device", "name") and value is not None}
    return {**described, "sha256": checkpoint_hash(model)}


def other_weights(before: Record, after: Record) -> list[tuple[str, str, str]]:
    """The names of a run's checkpoints whose weights changed, each with both hashes."""
    then, now = ({"model": record.checkpoint, **record.checkpoints} for record in (before, after))
    hashes = [(request.name, then.get(key, {}).get("sha256"), now.get(key, {}).get("sha256")) for key, request in before.requests.items()]
    return [(name, old, new) for name, old, new in hashes if old and new and old != new]
