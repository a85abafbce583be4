"""The core stands on torch alone, and is light. No modules import each other in a circle, and no string imports what lies above it.

What statements import from above is the linter's to find (`lint-imports`).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import calotype
from calotype import index, registry

ROOT = Path(calotype.__file__).parent
REPOSITORY = Path(__file__).parents[2]
RESOLVED: dict[str, list[str]] = {
    "resolve_method": [row.target for row in index.METHODS.values() if row.target],
    "resolve_training": [row.training for row in index.METHODS.values() if row.training],
    "resolve_evaluation": [],
    "resolve_artifact": list(index.ARTIFACTS.values()),
    "find_evaluation": [*(row.evaluation for row in index.METHODS.values() if row.evaluation), *index.EMBEDDED.values(), index.GATES],
    "EMBEDDED": list(index.EMBEDDED.values()),
    "GATES": [index.GATES],
    "SOURCES": list(index.SOURCES.values()),
}
"""By the name under which the registry or the index gives them, what a string of the index imports."""
PLUGGED = {("calotype.runs.kinds", "resolve_artifact")}
"""Who takes from above on purpose, as it takes what other packages add: kinds of artifacts."""


def test_core_imports_neither_models_nor_codecs() -> None:
    code = (
        "import sys, pkgutil, importlib, calotype.core as core\n"
        "for m in pkgutil.iter_modules(core.__path__): importlib.import_module('calotype.core.' + m.name)\n"
        "heavy = {'diffusers', 'transformers', 'accelerate', 'av', 'PIL', 'scipy', 'matplotlib', 'tyro', 'rich'}\n"
        "heavy |= {'nibabel', 'pydicom', 'monai', 'nilearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of calotype by its name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("calotype", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def module_of(dotted: str) -> str:
    """The longest beginning of a dotted name that is a module, "" if there is none."""
    while dotted and dotted not in trees():
        dotted = dotted.rpartition(".")[0]
    return dotted


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(tree: ast.Module) -> Iterator[str]:
    """What strings and `calotype.NAME` import, as far as a reader of the source can tell."""
    lazy: dict[str, str] = vars(calotype)["_LAZY"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"calotype(\.\w+)+(:\w+)?\.?", node.value):
            yield node.value.partition(":")[0].rstrip(".")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "calotype" and node.attr in lazy:
            yield lazy[node.attr]
        elif isinstance(node, ast.ImportFrom) and node.module == "calotype":
            yield from (lazy[alias.name] for alias in node.names if alias.name in lazy)


@cache
def rows() -> dict[str, int]:
    """The row of every room, 0 at the top, as the contract of the linter has them."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return {room: row for row, layer in enumerate(layers) for room in re.findall(r"\w+", layer)}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def upward(importer: str, target: str) -> bool:
    """Whether a module would import one of a row above its own. Modules beside the rooms, such as the index, are for all of them."""
    ours, theirs = rows().get(room_of(importer)), rows().get(room_of(target))
    return ours is not None and theirs is not None and theirs < ours


def test_every_room_has_a_row() -> None:
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert rooms - set(rows()) == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {module_of(target) for target in imported(tree)} - {name, ""} for name, tree in trees().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_no_string_imports_what_lies_above() -> None:
    found = [f"{name} names {target}" for name, tree in trees().items() for target in map(module_of, named(tree)) if upward(name, target)]
    assert found == []


def test_what_the_index_names_is_asked_for_from_above() -> None:
    assert {name for name in vars(registry) if name.startswith(("resolve_", "find_"))} <= set(RESOLVED), "a new one is named in RESOLVED"
    found = []
    for name, tree in trees().items():
        asked = {target.rpartition(".")[2] for target in imported(tree) if module_of(target) in ("calotype.registry", "calotype.index")}
        for what in sorted(asked & set(RESOLVED)):
            wrong = [target for target in RESOLVED[what] if upward(name, module_of(target.partition(":")[0]))]
            if wrong and (name, what) not in PLUGGED:
                found.append(f"{name} gets {', '.join(wrong)} by {what}")
    assert found == []


def test_the_strings_of_the_index_are_there() -> None:
    for target in [each for several in RESOLVED.values() for each in several]:
        module, _, name = target.partition(":")
        tops = trees()[module].body
        assert any(name in ast.dump(node) for node in tops), target


def test_the_walk_finds_what_it_looks_for() -> None:
    tree = ast.parse("def f():\n    import calotype\n    return calotype.QSMDiff, 'calotype.methods.ovam:word_mask', f'calotype.cli.{f}'")
    assert [room_of(module_of(target)) for target in named(tree)] == ["methods", "methods", "cli"]
    assert upward("calotype.core.noise", "calotype.methods.ovam")
    assert not upward("calotype.cli.app", "calotype.methods.ovam")
    for above, below in pairwise(
        ("cli", "embedded", "evaluation", "chains", "methods", "train", "backbones", "attention", "world", "core", "imaging")
    ):
        assert upward(f"calotype.{below}.x", f"calotype.{above}.y")
