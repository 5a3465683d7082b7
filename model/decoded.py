"""Photos and masks that are decoded once, and then kept in memory as far as there is room."""

import mmap
from typing import Any

import numpy as np

from model.augment import as_seen, sizes_seen
from model.dataset import Dataset
from model.images import PIXEL, Image
from model.recipe import Recipe


class Decoded:
    """The samples of a split, each at the size at which the net sees it.

    Loader processes that are forked share what any of them has decoded; one that is spawned decodes
    for itself, and keeps nothing.
    """

    def __init__(self, data: Dataset, recipe: Recipe, room: int) -> None:
        """`room` in bytes; those that come first in the split are kept."""
        self._data = data
        self._recipe = recipe
        self.sizes = sizes_seen(data.sizes, recipe)
        self._ends = PIXEL * self.sizes.prod(axis=1).cumsum()
        self._kept = int(np.searchsorted(self._ends, room, side="right"))
        held = int(self._ends[self._kept - 1]) if self._kept else 0
        # Anonymous and shared: pages come into being when they are written.
        self._pixels = np.frombuffer(mmap.mmap(-1, held + 1), np.uint8)
        self._there = np.frombuffer(mmap.mmap(-1, self._kept + 1), np.bool_)

    def __getitem__(self, position: int) -> tuple[Image, Image]:
        """uint8 [H, W, 3] and uint8 [H, W]; InputError names a sample that cannot be decoded."""
        if position < self._kept and self._there[position]:
            return self._place(position)
        sample = self._data[position]
        photo, mask = as_seen(sample.photo, sample.mask, self._recipe)
        if position < self._kept:
            for place, pixels in zip(self._place(position), (photo, mask), strict=True):
                place[...] = pixels
            self._there[position] = True  # last: whoever sees it finds all pixels
        return photo, mask

    def _place(self, position: int) -> tuple[Image, Image]:
        """Where the pixels of photo and mask lie."""
        height, width = self.sizes[position].tolist()
        end, area = int(self._ends[position]), height * width
        photo, mask = np.split(self._pixels[end - PIXEL * area : end], [3 * area])
        return photo.reshape(height, width, 3), mask.reshape(height, width)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is spawned."""
        return self.__dict__ | {"_kept": 0, "_pixels": None, "_there": None}
