"""Augmentation of a photo and its mask; the one file that knows albumentations."""

import math
import os
import random

import numpy as np

from model.images import OUTSIDE, Image, resized_mask, resized_photo
from model.manifest import VOID
from model.recipe import Recipe, Size

# albumentations asks the network for newer versions when it is imported, unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

JITTERED = 0.8  # of the photos change their colours


class Augmentation:
    """Resize, crop, turn, flip and recolour at random, the same way for the same seed.

    What lies outside the photo is void: it is trained on by nobody.
    """

    def __init__(self, recipe: Recipe, size: Size | None = None) -> None:
        """`size` is what comes out, the recipe's image size if not given; `fit` "pad" has none."""
        self._recipe = recipe.model_copy(update={"image_size": size or recipe.image_size})
        height, width = self._recipe.image_size
        low, high = recipe.scale
        steps: list[A.BasicTransform] = []
        if (low, high) != (1, 1):
            # Something must be left of the smallest photo.
            least = math.ceil(1 / low) + 1
            steps.append(
                A.PadIfNeeded(least, least, fill=OUTSIDE, fill_mask=VOID, border_mode=0, p=1)
            )
            steps.append(A.RandomScale(scale_limit=(low - 1, high - 1), p=1))
        if recipe.rotate:
            steps.append(
                A.Rotate(limit=recipe.rotate, fill=OUTSIDE, fill_mask=VOID, border_mode=0, p=1)
            )
        if recipe.fit != "pad":
            steps.append(
                A.PadIfNeeded(height, width, fill=OUTSIDE, fill_mask=VOID, border_mode=0, p=1)
            )
            steps.append(A.RandomCrop(height, width, p=1))
        steps.append(A.HorizontalFlip(p=recipe.flip))
        if recipe.flip_vertical:
            steps.append(A.VerticalFlip(p=recipe.flip_vertical))
        if recipe.jitter:
            strength = recipe.jitter
            steps.append(A.ColorJitter(strength, strength, strength, strength / 4, p=JITTERED))
        self._steps = A.Compose(steps)

    def __call__(self, photo: Image, mask: Image, seed: int) -> tuple[Image, Image]:
        """Augment uint8 [H, W, 3] and uint8 [H, W]."""
        photo, mask = as_seen(photo, mask, self._recipe)
        # One stream for all steps. `set_random_seed` would start every step at the same number, and
        # scale, angle, position and flip would all say the same.
        self._steps.set_random_state(np.random.default_rng(seed), random.Random(seed))
        done = self._steps(image=photo, mask=mask)
        return done["image"], done["mask"]


def as_seen(photo: Image, mask: Image, recipe: Recipe) -> tuple[Image, Image]:
    """Both at the size at which the net sees whole photos."""
    own = Size(*mask.shape)
    seen = recipe.seen_size(own)
    if seen == own:
        return photo, mask
    return resized_photo(photo, *seen), resized_mask(mask, *seen)
