"""The named recipes, narrow enough for a test on a CPU."""

from typing import Any

from model.recipe import Recipe
from model.recipes import RECIPES


def narrow(name: str, **settings: Any) -> Recipe:
    """The recipe `name` with a narrow net on small images, and with `settings`."""
    recipe = RECIPES[name]
    small: dict[str, Any] = {"width": 8, "image_size": 32, "batch_size": 4, "min_miou": "none"}
    return recipe.override(small | settings)


def still(name: str) -> dict[str, Any]:
    """Settings with which the recipe leaves nothing to chance, so that photos can be learned."""
    settings: dict[str, Any] = {
        "scale": (1, 1), "rotate": 0, "jitter": 0, "flip": 0, "flip_vertical": 0
    }  # fmt: skip
    return settings | ({"dropout": 0} if RECIPES[name].dropout else {})
