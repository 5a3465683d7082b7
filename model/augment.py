"""Augmentation: what becomes of each photo of a batch, by random numbers of its own.

A photo is resized, turned, cut out, flipped and recoloured. The numbers come from (seed, epoch,
sample id); what they mean is worked out here, once, and done by OpenCV in a loader process
(`model/augment_photo.py`) or by tensor operations on a GPU (`model/augment_batch.py`). The geometry
of a photo is one affine map, so its pixels are interpolated once, and only where they are seen.
What lies outside the photo is void: it is trained on by nobody.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from model.images import Image, resized_mask, resized_photo
from model.order import Draw, augmentation_seed, drawn_factor
from model.recipe import Recipe, Size

CHANCES = 11  # random numbers that a photo's augmentation takes
_JITTERED = 0.8  # of the photos change their colours
UNCHANGED = (1, 1, 1, 0)  # brightness, contrast, saturation and hue of the rest

Numbers = npt.NDArray[np.float64]
Sizes = npt.NDArray[np.int64]


class Plan(NamedTuple):
    """What becomes of N photos, worked out on the host: `window` is what they come out as.

    `canvas` is a photo after resizing, turned about its middle; `shown` says which pixel of the
    canvas a pixel of the window is, along each axis by a factor of 1 or -1 and a shift.
    """

    window: Size
    canvas: Numbers  # [N, 2] height and width
    shown: Numbers  # [N, 2, 2] of each axis, y first: factor and shift
    inverse: Numbers  # [N, 2, 3] from (y, x) on the canvas to (y, x) in the photo
    jitter: Numbers  # [N, 4] brightness, contrast, saturation; hue in turns

    @classmethod
    def of(cls, recipe: Recipe, photos: Sizes, chances: Numbers) -> Self:
        """Of photos of these heights and widths, [N, 2]; `chances` is [N, CHANCES]."""
        scale, angle, top, left, flip, flip_vertical, jittered, *colours = chances.T
        seen, size = sizes_seen(photos, recipe), recipe.image_size
        low, high = recipe.scale
        canvas = np.maximum(1, np.round(seen * (low + (high - low) * scale)[:, None]))
        padded = recipe.fit == "pad"
        window = Size(*canvas.max(axis=0).astype(int).tolist()) if padded else size
        room = canvas - window
        places = np.where(room >= 0, np.floor(np.stack([top, left], 1) * (room + 1)), -(-room // 2))
        if padded:  # on the right and at the bottom
            places = np.zeros_like(room)
        flipped = np.stack([flip_vertical < recipe.flip_vertical, flip < recipe.flip], 1)
        far = canvas if padded else np.array(window)
        shown = np.stack([np.where(flipped, -1, 1), places + np.where(flipped, far, 0)], 2)

        turn = np.radians(recipe.rotate * (2 * angle - 1))
        cos, sin = np.cos(turn), np.sin(turn)
        turned = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
        middle = canvas / 2
        shift = middle - (turned @ middle[:, :, None])[:, :, 0]
        inverse = np.concatenate([turned, shift[:, :, None]], 2) * (photos / canvas)[:, :, None]

        strength = recipe.jitter * (jittered < _JITTERED)
        most = np.stack([strength, strength, strength, strength / 4], 1)
        jitter = most * (2 * np.stack(colours, 1) - 1) + UNCHANGED
        return cls(window, canvas, shown, inverse, jitter)


def batch_recipe(recipe: Recipe, draws: Sequence[Draw]) -> Recipe:
    """The recipe at the image size of the batch of these draws, which is one of its scales."""
    return recipe.scaled(drawn_factor(recipe.seed, draws[0], recipe.multi_scale or (1.0,)))


def drawn_chances(seed: int, draws: Sequence[Draw], ids: Sequence[str]) -> Numbers:
    """[N, CHANCES] uniform in [0, 1): of each draw its own, whoever is beside it in the batch."""
    seeds = (augmentation_seed(seed, draw.epoch, id) for draw, id in zip(draws, ids, strict=True))
    return np.array([np.random.default_rng(own).random(CHANCES) for own in seeds])


def sizes_seen(sizes: Sizes, recipe: Recipe) -> Sizes:
    """Height and width at which the net sees photos of these sizes, [photos, 2]."""
    if recipe.fit == "crop":
        return sizes
    return np.array([recipe.seen_size(Size(*size)) for size in sizes.tolist()]).reshape(-1, 2)


def as_seen(photo: Image, mask: Image, recipe: Recipe) -> tuple[Image, Image]:
    """Both at the size at which the net sees whole photos."""
    own = Size(*mask.shape)
    seen = recipe.seen_size(own)
    if seen == own:
        return photo, mask
    return resized_photo(photo, *seen), resized_mask(mask, *seen)
