"""A split that lies decoded on the device, where whole batches are cut out of it.

What is the same in every epoch is done once: decoding, and shrinking to what the net sees. The
random numbers of a photo's augmentation come from (seed, epoch, sample id) as those of the loader's
do, and are of the same distributions (`model/augment.py`); but they are other numbers, so it counts
as another augmentation, and a recipe says which it wants.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.augment import as_seen
from model.batch_augment import CHANCES, NOWHERE, Plan, packed, sampled
from model.dataset import Dataset
from model.device import usable_cores
from model.order import Draw, augmentation_seed, drawn_factor
from model.recipe import Recipe, Size

_PIXEL = 4  # bytes: red, green, blue, class
_SHARE = 0.3  # of a GPU's memory; the rest is the net's


def shall_be_resident(data: Dataset, recipe: Recipe, device: torch.device) -> bool:
    """Whether the split is to lie on `device`: if the recipe says so, or leaves it open and it fits
    on a GPU.

    The GPU's whole memory counts, not what is free of it now, so that a run that goes on does as
    before.
    """
    if recipe.augment_on != "auto":
        return recipe.augment_on == "device"
    if data.stream or device.type != "cuda":
        return False
    memory = torch.cuda.get_device_properties(device).total_memory
    pixels = int(_sizes(data, _at_largest(recipe)).prod(axis=1).sum())
    return _PIXEL * pixels <= _SHARE * memory


def _at_largest(recipe: Recipe) -> Recipe:
    """The recipe at the largest of its sizes."""
    size = recipe.image_size.scaled(max(recipe.multi_scale, default=1.0))
    return recipe.model_copy(update={"image_size": size})


def _sizes(data: Dataset, recipe: Recipe) -> npt.NDArray[np.int64]:
    """Height and width at which the net sees each photo, [photos, 2]."""
    own = (Size(sample.height, sample.width) for sample in data.samples)
    return np.array([recipe.seen_size(size) for size in own])


class Resident:
    """All photos and masks of a split, pixel by pixel, each as large as it is."""

    def __init__(self, data: Dataset, recipe: Recipe, device: torch.device) -> None:
        """Decode the split; InputError names a sample that cannot be decoded."""
        largest = _at_largest(recipe)

        def decoded(position: int) -> Tensor:
            sample = data[position]
            return packed(*as_seen(sample.photo, sample.mask, largest))

        self._recipe = recipe
        self._ids = [sample.id for sample in data.samples]
        self._sizes = _sizes(data, largest)
        areas = self._sizes.prod(axis=1)
        lasts = np.cumsum(areas)
        self._firsts = lasts - areas
        self._pixels = NOWHERE.to(device).repeat(int(lasts[-1]) + 1)
        with ThreadPoolExecutor(usable_cores()) as threads:  # OpenCV decodes without Python's lock
            photos = threads.map(decoded, range(len(data)))
            for first, last, photo in zip(self._firsts, lasts, photos, strict=True):
                self._pixels[first:last] = photo

    def batch(self, whole: Sequence[Draw], part: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """images uint8 [N, 3, H, W] and targets uint8 [N, H, W] of `part`, on the device.

        It is a rank's part of the batch `whole`, or all of it.
        """
        recipe = self._recipe
        factor = drawn_factor(recipe.seed, whole[0], recipe.multi_scale or (1.0,))
        positions = [draw.position for draw in part]
        chances = np.array([self._chances(draw) for draw in part])
        photos = self._sizes[positions]
        plan = Plan.of(recipe, recipe.image_size.scaled(factor), photos, chances)
        return sampled(self._pixels, self._firsts[positions], photos, plan)

    def _chances(self, draw: Draw) -> npt.NDArray[np.float64]:
        seed = augmentation_seed(self._recipe.seed, draw.epoch, self._ids[draw.position])
        return np.random.default_rng(seed).random(CHANCES)
