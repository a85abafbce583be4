"""The table of recipes. A new embedded model is one more line here."""

from __future__ import annotations

from calotype.core.errors import InputError
from calotype.train.i2v import I2VRecipe
from calotype.train.qsm import QSMRecipe
from calotype.train.recipe import Recipe
from calotype.train.recogniser import RecogniserRecipe
from calotype.train.subject import SubjectRecipe
from calotype.train.t2i import T2IRecipe
from calotype.train.vae import VAERecipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (RecogniserRecipe(), VAERecipe(), T2IRecipe(), I2VRecipe(), SubjectRecipe(), QSMRecipe())
}


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of: {', '.join(RECIPES)}")
    return RECIPES[name]
