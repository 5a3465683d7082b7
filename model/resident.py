"""A split that lies decoded on the device, where whole batches are cut out of it.

What is the same in every epoch is done once: decoding, and shrinking to what the net sees.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from model.augment import Plan, as_seen, batch_recipe, drawn_chances, sizes_seen
from model.augment_batch import NOWHERE, packed, sampled
from model.dataset import Dataset
from model.images import PIXEL
from model.order import Draw
from model.recipe import Recipe

# Bytes that it may take where the recipe leaves it open: a quarter of the smallest GPUs that are
# rented. The same for every GPU, as a run may go on with another one, and rounding is another here.
_MOST = 4 << 30


def shall_be_resident(data: Dataset, recipe: Recipe, device: torch.device) -> bool:
    """Whether the split is to lie on `device`: if the recipe says so, or leaves it open and it is
    small enough to lie on any GPU."""
    if recipe.augment_on != "auto":
        return recipe.augment_on == "device"
    # Photos lie there at one size; taken down from it they are not averaged, as the loader's are.
    resized = recipe.fit != "crop" and len(set(recipe.multi_scale)) > 1
    if data.stream or resized or device.type != "cuda":
        return False
    return PIXEL * int(sizes_seen(data.sizes, _at_largest(recipe)).prod(axis=1).sum()) <= _MOST


def _at_largest(recipe: Recipe) -> Recipe:
    """The recipe at the largest of its sizes."""
    return recipe.scaled(max(recipe.multi_scale, default=1.0))


class Resident:
    """All photos and masks of a split, pixel by pixel, each as large as it is."""

    def __init__(
        self,
        data: Dataset,
        recipe: Recipe,
        device: torch.device,
        *,
        threads: int,
        heed: Callable[[], object],
    ) -> None:
        """Decode the split; `heed` is called for every photo, and what it raises ends it.

        InputError names a sample that cannot be decoded.
        """
        largest = _at_largest(recipe)

        def decoded(position: int) -> Tensor:
            sample = data[position]
            return packed(*as_seen(sample.photo, sample.mask, largest))

        self._recipe = recipe
        self._ids = [sample.id for sample in data.samples]
        self._sizes = sizes_seen(data.sizes, largest)
        areas = self._sizes.prod(axis=1)
        lasts = np.cumsum(areas)
        self._firsts = lasts - areas
        self._pixels = NOWHERE.to(device).repeat(int(lasts[-1]) + 1)
        with ThreadPoolExecutor(threads) as pool:  # OpenCV decodes without Python's lock
            every = range(len(data))
            for some in (every[i : i + 8 * threads] for i in every[:: 8 * threads]):
                for position, photo in zip(some, pool.map(decoded, some), strict=True):
                    self._pixels[self._firsts[position] : lasts[position]] = photo
                    heed()

    def batch(self, whole: Sequence[Draw], part: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """images uint8 [N, 3, H, W] and targets uint8 [N, H, W] of `part`, on the device.

        It is a rank's part of the batch `whole`, or all of it.
        """
        recipe = batch_recipe(self._recipe, whole)
        positions = [draw.position for draw in part]
        chances = drawn_chances(recipe.seed, part, [self._ids[position] for position in positions])
        photos = self._sizes[positions]
        plan = Plan.of(recipe, photos, chances)
        return sampled(self._pixels, self._firsts[positions], photos, plan)
