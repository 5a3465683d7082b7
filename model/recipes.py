"""The named recipes, one place to read them all."""

from model.errors import InputError, suggestion
from model.recipe import Recipe

_ALL = (
    Recipe(
        name="voc-segmentnet",
        summary="residual U-Net, fully convolutional, for PASCAL VOC's 21 classes (one GPU)",
    ),
    Recipe(
        name="tiny",
        summary="the dry run: a narrow net on small images, half a minute on a laptop's CPU",
        width=12,
        depth=3,
        lr=8e-3,
        epochs=12,
        batch_size=8,
        image_size=64,
        scale=(0.8, 1.25),
        rotate=15.0,
        jitter=0.1,
        min_miou=0.6,
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def named(name: str) -> Recipe:
    """The recipe of that name; InputError lists what there is."""
    if name in RECIPES:
        return RECIPES[name]
    raise InputError(f"There is no recipe {name!r}. {suggestion(name, RECIPES)}")
