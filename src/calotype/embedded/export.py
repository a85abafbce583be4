"""From a finished training to the shipped folder: export, card, gates file, and the rule that a worse model is never shipped."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calotype.embedded.card import Card, Gate
from calotype.embedded.recipes import RECIPES
from calotype.errors import InputError
from calotype.imaging.files import write_json
from calotype.train.recipe import Recipe, Source

GATES_FILE = "gates.json"


def weights_mark(folder: Path) -> str | None:
    """A fingerprint of all weights in an exported folder, None where there are none."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def gates_of(name: str) -> tuple[Gate, ...]:
    """The bars of an embedded model; none for a model of somebody else."""
    return RECIPES[name].gates if name in RECIPES else ()


def read_gates(checkpoints: Path) -> dict[str, dict[str, Any]]:
    """What is known of each shipped model: `held_out`, `weights`, `figures`, and how it was trained."""
    path = checkpoints / GATES_FILE
    if not path.is_file():
        return {}
    try:
        known: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not a gates file ({error}); restore it from the repository") from error
    return known


def write_gates(checkpoints: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Replace one model's entry; the bars are written beside it, for people who read the file."""
    known = read_gates(checkpoints)
    bars = [{"metric": gate.metric, "bar": gate.bar, "rule": "at most" if gate.at_most else "at least"} for gate in gates_of(name)]
    known[name] = {**facts, "gates": bars}
    write_json(checkpoints / GATES_FILE, known)


def missing_gates(name: str, facts: Mapping[str, Any] | None) -> list[str]:
    """The metrics of a model that are below their bar or unmeasured."""
    figures: Mapping[str, float] = (facts or {}).get("figures") or {}
    return [gate.metric for gate in gates_of(name) if not gate.holds(figures.get(gate.metric))]


def export(recipe: Recipe, trainee: Any, source: Source, folder: Path) -> None:
    """Write the model's folder beside its place and swap it in."""
    temporary, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    for left in (temporary, old):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    recipe.export(trainee, source, temporary)
    _forget_paths(temporary)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _forget_paths(folder: Path) -> None:
    """Leave out of every config where its parts were loaded from on the machine that trained them."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            write_json(path, config)


def write_card(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """The model's README.md: what it is, how it was trained, what it reaches."""
    figures: Mapping[str, float] = facts.get("figures") or {}
    embedded = name in RECIPES
    card = RECIPES[name].card if embedded else Card(about="")
    lines = [
        "---",
        f"license: {'apache-2.0' if embedded else 'unknown'}",
        f"library_name: {card.library}",
        *(["tags: [toy-world]"] if embedded else []),
        "---",
        "",
        f"# {name}",
        "",
        card.about,
        "",
    ]
    megabytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    lines += ["| | |", "|---|---|"]
    rows = {
        "recipe": f"`calotype train {name}` (calotype.train, recipe `{name}`)",
        "data": f"the toy world, {card.data}, split `train`" if embedded else "the recipe's own",
        "steps": f"{facts['steps']:,} of {facts['batch_size']} samples ({facts['steps'] * facts['batch_size']:,} samples)",
        "time": f"{facts['seconds'] / 60:.1f} minutes of training",
        "device": facts["device"],
        "precision": f"{facts.get('precision', 'bfloat16')}; weights and optimiser in float32",
        "weights": f"{'8-bit' if any(folder.rglob('*.int8.safetensors')) else 'float16'} safetensors, {megabytes:.1f} MB, moving average",
        "held-out loss": f"{facts['held_out']:.5f} ({facts['held_out_count']:,} fixed samples of the split `tune`)",
        "licence": "Apache-2.0; trained from nothing on " + card.made_from
        if embedded
        else "as its data's owner says: write it here before you pass the folder on",
    }
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    if facts.get("earlier"):
        lines += ["", f"It went on from earlier weights of {facts['earlier']['steps']:,} steps."]
    lines += ["", "## Gates", ""] if embedded else []
    if figures:
        lines += [
            f"`calotype eval {name} --seed {facts.get('figures_seed', 0)}`, scenes of the split `eval`.",
            "",
            "| metric | value | bar | holds |",
            "|---|---|---|---|",
        ]
        bars = {gate.metric: gate for gate in gates_of(name)}
        for metric, value in figures.items():
            gate = bars.get(metric)
            bar = "" if gate is None else f"{'<=' if gate.at_most else '>='} {gate.bar:.3g}"
            holds = "" if gate is None else "yes" if gate.holds(value) else "no"
            lines.append(f"| {metric} | {value:.4g} | {bar} | {holds} |")
    elif embedded:
        lines.append(f"Not measured yet: `calotype eval {name}`.")
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def device_words(device: str) -> str:
    """The training device in words."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} thread(s), {platform.machine()}"
