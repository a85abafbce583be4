"""The recipes of the embedded models, by name; the index says where each one is."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from calotype.embedded.card import Card, Gate
from calotype.errors import InputError
from calotype.index import EMBEDDED
from calotype.train.recipe import Recipe


class EmbeddedRecipe(Recipe, Protocol):
    """A recipe whose model this package ships: it also says what the model must reach, and what its card says."""

    gates: tuple[Gate, ...]
    """The bars on what `validate` measures, on the world's preset `small`."""
    card: Card


def _made(target: str) -> EmbeddedRecipe:
    module, _, name = target.partition(":")
    recipe: EmbeddedRecipe = getattr(import_module(module), name)()
    return recipe


RECIPES: dict[str, EmbeddedRecipe] = {name: _made(target) for name, target in EMBEDDED.items()}


def find(name: str) -> EmbeddedRecipe:
    """The recipe of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of: {', '.join(RECIPES)}")
    return RECIPES[name]
