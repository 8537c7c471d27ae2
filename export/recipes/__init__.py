"""Recipes turn a checkpoint into the content of a bundle, one file per family of precisions."""

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.bundle.vocabulary import Precision

from ..settings import ExportSettings, Target
from .base import Content, Recipe
from .float32 import FLOAT32
from .half_precision import HALF_PRECISION
from .quantised import QUANTISED

__all__ = ["RECIPES", "Content", "Recipe", "recipe_for"]

RECIPES = (FLOAT32, HALF_PRECISION, QUANTISED)
# Browsers have no fast kernels for weights of 4 bits without a GPU, and none for bfloat16 at all.
FOR_TARGET: dict[Target, tuple[Precision, ...]] = {"web": ("float32", "float16", "int8")}


def recipe_for(precision: str, settings: ExportSettings) -> tuple[Recipe, Precision]:
    """Return the recipe of a precision, and that precision.

    Raises:
        InvalidInputError: if there is no such recipe, if it does not use a chosen setting, or if
            the target does not run the precision.
    """
    by_precision = {str(name): (recipe, name) for recipe in RECIPES for name in recipe.precisions}
    if precision not in by_precision:
        raise InvalidInputError(f"no precision {precision!r}; there are: {', '.join(by_precision)}")
    recipe, known = by_precision[precision]
    useless = [name for name in settings.chosen() if name not in recipe.options]
    if useless:
        raise InvalidInputError(
            f"{precision} has no use for {', '.join(useless)}; what can be chosen for it: "
            f"{', '.join(recipe.options)}"
        )
    if settings.target is not None and known not in FOR_TARGET[settings.target]:
        raise InvalidInputError(
            f"nothing is fast in {precision} on the target {settings.target}; what is: "
            f"{', '.join(FOR_TARGET[settings.target])}"
        )
    return recipe, known
