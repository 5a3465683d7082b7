"""A split that lies decoded on the device, where whole batches are cut out of it.

What is the same in every epoch is done once: decoding, and shrinking to what the net sees. The
random numbers of a photo's augmentation come from (seed, epoch, sample id) as those of the loader's
do, and are of the same distributions (`model/augment.py`); but they are other numbers, so it counts
as another augmentation, and a recipe says which it wants.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.augment import as_seen
from model.batch_augment import CHANCES, NOWHERE, Plan, packed, sampled
from model.dataset import Dataset
from model.order import Draw, augmentation_seed, drawn_factor
from model.recipe import Recipe, Size

_PIXEL = 4  # bytes: red, green, blue, class
# That it may take where the recipe leaves it open: a quarter of the smallest GPUs that are rented.
# The same for every GPU, as a run may go on with another one, and must draw the same numbers there.
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
    return _PIXEL * int(_sizes(data, _at_largest(recipe)).prod(axis=1).sum()) <= _MOST


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
        self._sizes = _sizes(data, largest)
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
