"""Every method in the index is what it says: a frozen dataclass with documented fields, presets and a documented call."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import sys
import textwrap
from importlib import import_module

import pytest

import calotype
from calotype.backbones.layouts import known_roles
from calotype.core.method import Method
from calotype.evaluation import Evaluation
from calotype.index import CHECKED, EMBEDDED, METHODS, MODELS
from calotype.registry import find_evaluation, known_evaluations, resolve_training
from calotype.train.training import Training

BUILT = [slug for slug, row in METHODS.items() if row.target]
SYNONYMS = {
    "steps": "num_inference_steps",
    "n_steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "frames": "num_frames",
    "n_frames": "num_frames",
    "motion_bucket": "motion_bucket_id",
    "noise_aug": "noise_aug_strength",
    "neg_prompt": "negative_prompt",
    "random_seed": "seed",
    "generator": "seed",
    "frame_rate": "fps",
}


def target(slug: str) -> type[Method]:
    module, name = str(METHODS[slug].target).split(":")
    found = getattr(import_module(module), name)
    assert import_module(module).METHOD is found
    assert getattr(calotype, name) is found
    return found


def documented_fields(method: type) -> set[str]:
    """Names of the annotated fields that have a string right below them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0].body
    return {
        field.target.id
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


@pytest.mark.parametrize("slug", BUILT)
def test_the_row_names_the_class(slug: str) -> None:
    method = target(slug)
    assert issubclass(method, Method)
    assert method.slug == slug
    assert method.role in {"", *known_roles()}
    assert sys.modules[method.__module__].__doc__
    assert METHODS[slug].paper.removeprefix("arXiv ") in str(sys.modules[method.__module__].__doc__)


@pytest.mark.parametrize("slug", BUILT)
def test_it_is_frozen_and_every_field_has_a_default_and_a_docstring(slug: str) -> None:
    method = target(slug)
    assert dataclasses.is_dataclass(method)
    assert method.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(method))
    names = {field.name for field in dataclasses.fields(method)}
    assert names == documented_fields(method) & names
    assert all(
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING for field in dataclasses.fields(method)
    )


@pytest.mark.parametrize("slug", BUILT)
def test_presets_are_documented_class_methods_and_the_bare_class_is_the_first(slug: str) -> None:
    method = target(slug)
    for name in method.presets:
        preset = getattr(method, name)
        assert preset.__doc__
        assert isinstance(preset(), method)
    assert getattr(method, method.presets[0])() == method()
    assert len({repr(getattr(method, name)()) for name in method.presets}) == len(method.presets)


@pytest.mark.parametrize("slug", BUILT)
def test_the_call_takes_model_seed_and_events_and_is_documented(slug: str) -> None:
    call = target(slug).__call__
    parameters = inspect.signature(call).parameters
    assert list(parameters)[:2] == ["self", "model"]
    assert parameters["seed"].default == 0
    assert parameters["events"].kind is inspect.Parameter.KEYWORD_ONLY
    text = inspect.getdoc(call) or ""
    for heading in ("Args:", "Returns:", "Raises:"):
        assert heading in text
    assert all(f"{name}:" in text for name in parameters if name != "self")


@pytest.mark.parametrize("slug", BUILT)
def test_the_same_thing_has_the_same_name_everywhere(slug: str) -> None:
    method = target(slug)
    used = {field.name for field in dataclasses.fields(method)} | set(inspect.signature(method.__call__).parameters)
    assert {name: SYNONYMS[name] for name in used & SYNONYMS.keys()} == {}


@pytest.mark.parametrize("slug", [slug for slug, row in METHODS.items() if row.training])
def test_its_training_is_frozen_and_documented_with_ready_made_settings(slug: str) -> None:
    training = resolve_training(slug)
    assert issubclass(training, Training)
    assert training.slug == slug
    assert training.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(training))
    bases = [owner for owner in training.__mro__ if dataclasses.is_dataclass(owner)]
    assert {field.name for field in dataclasses.fields(training)} <= set().union(*map(documented_fields, bases))
    for name in training.presets:
        assert getattr(training, name).__doc__
        assert isinstance(getattr(training, name)(), training)
    assert getattr(training, training.presets[0])() == training()


@pytest.mark.parametrize("slug", BUILT)
def test_it_is_evaluated_by_a_class_whose_fields_are_documented_flags(slug: str) -> None:
    found = find_evaluation(slug)
    assert isinstance(found, type)
    assert issubclass(found, Evaluation)
    assert found.slug == slug
    assert sys.modules[found.__module__].__doc__
    assert (inspect.getdoc(found) or "").partition("\n\n")[0].endswith("?")
    if found.model:
        assert MODELS[found.model].folder is not None
        assert MODELS[found.model].role == target(slug).role
    else:
        assert not target(slug).role
    assert 1 <= found.quick_count <= found.default_count
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    flags = dataclasses.fields(found)  # type: ignore[arg-type]
    assert {field.name for field in flags} <= documented_fields(found)
    assert all(field.kw_only and field.default is not dataclasses.MISSING for field in flags)


def test_what_can_be_evaluated_is_every_method_and_every_embedded_model() -> None:
    assert known_evaluations() == (*BUILT, *EMBEDDED)
    assert {name for name, row in MODELS.items() if row.folder is not None} <= set(EMBEDDED)
    for name, recipe in EMBEDDED.items():
        module, _, kind = recipe.partition(":")
        assert getattr(import_module(module), kind).name == name


def test_every_model_row_names_a_role_that_there_is() -> None:
    assert {row.role for row in MODELS.values()} <= known_roles()


def test_a_removed_checkpoint_has_its_month_and_a_copy_that_can_be_named() -> None:
    removed = {name: row for name, row in MODELS.items() if row.removed}
    assert {"stabilityai/stable-diffusion-2-1", "runwayml/stable-diffusion-v1-5"} <= set(removed)
    for row in MODELS.values():
        assert bool(row.removed) == bool(row.mirror)
        assert set(row.verified) <= {"licence", "size"}
        assert "size" not in row.verified or row.megabytes
    for row in removed.values():
        copy = MODELS[row.mirror]
        assert re.fullmatch(r"20\d\d-[01]\d", row.removed)
        assert row.removed <= CHECKED
        assert not copy.removed
        assert (copy.role, copy.licence, copy.megabytes) == (row.role, row.licence, row.megabytes)


@pytest.mark.parametrize(
    ("alike", "millions"),
    [
        ("stable-diffusion-v1-5", 859.5 + 123.1 + 83.7),
        ("stable-diffusion-2-1", 865.9 + 340.4 + 83.7),
        ("xl-base", 2567.5 + 123.1 + 694.7 + 83.7),
    ],
)
def test_sizes_are_the_networks_numbers_in_16_bits(alike: str, millions: float) -> None:
    rows = [row for name, row in MODELS.items() if alike in name]
    assert rows
    assert all(row.megabytes == pytest.approx(2 * millions, rel=0.01) for row in rows)
