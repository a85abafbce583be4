"""The table of recipes. A new embedded model is one more line here."""

from __future__ import annotations

from typing import cast

from calotype.embedded.i2v import I2VRecipe
from calotype.embedded.qsm import QSMRecipe
from calotype.embedded.recogniser import RecogniserRecipe
from calotype.embedded.subject import SubjectRecipe
from calotype.embedded.t2i import T2IRecipe
from calotype.embedded.vae import VAERecipe
from calotype.errors import InputError
from calotype.train.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: cast(Recipe, recipe)
    for recipe in (RecogniserRecipe(), VAERecipe(), T2IRecipe(), I2VRecipe(), SubjectRecipe(), QSMRecipe())
}


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of: {', '.join(RECIPES)}")
    return RECIPES[name]
