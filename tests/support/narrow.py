"""The named recipes, narrow enough for a test on a CPU."""

from typing import Any

from model.recipe import Recipe
from model.recipes import RECIPES

# Nothing at random, so that a few photos can be learned by heart.
STILL = {
    "scale": (1, 1),
    "rotate": 0,
    "jitter": 0,
    "flip": 0,
    "flip_vertical": 0,
    "dropout": "none",
}


def narrow(name: str, **settings: Any) -> Recipe:
    """The recipe `name` with a narrow net on small images, and with `settings`."""
    recipe = RECIPES[name]
    small: dict[str, Any] = {"width": 8, "image_size": 32, "batch_size": 4, "min_miou": "none"}
    return recipe.override(small | settings)
