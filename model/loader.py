"""Batches for training and validation, as tensors."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model.augment import Augmentation
from model.dataset import Dataset
from model.errors import InputError
from model.images import Image
from model.order import BatchOrder, Draw, augmentation_seed
from model.recipe import Recipe

# ImageNet's channel means and deviations in RGB: what encoders trained on it expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Batch(NamedTuple):
    """images uint8 [N, 3, H, W]; targets uint8 [N, H, W] of class indices, 255 void."""

    images: Tensor
    targets: Tensor


def normalise(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to float32, zero mean and unit deviation by ImageNet's figures."""
    mean = torch.tensor(_MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(_STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def as_batch(pairs: Iterable[tuple[Image, Image]]) -> Batch:
    """Stack photos uint8 [H, W, 3] and masks uint8 [H, W] of one size."""
    photos, masks = zip(*pairs, strict=True)
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
    return Batch(images, torch.from_numpy(np.stack(masks)))


class _Batches(TorchDataset[Batch | InputError]):
    """Augmented batches, looked up by their draws."""

    def __init__(self, data: Dataset, recipe: Recipe) -> None:
        self._data = data
        self._seed = recipe.seed
        self._augment = Augmentation(recipe)

    def __getitem__(self, draws: list[Draw]) -> Batch | InputError:
        try:
            return as_batch(map(self._augmented, draws))
        except InputError as error:
            return error  # raised in a worker it would come back as a traceback in a string

    def _augmented(self, draw: Draw) -> tuple[Image, Image]:
        sample = self._data[draw.position]
        seed = augmentation_seed(self._seed, draw.epoch, sample.id)
        return self._augment(sample.photo, sample.mask, seed)


def training_batches(
    data: Dataset,
    recipe: Recipe,
    order: BatchOrder,
    workers: int,
    *,
    start: int = 0,
    pin_memory: bool,
) -> Iterator[Batch]:
    """The batches of `order` from step `start`; workers start once and read ahead across epochs.

    Raises InputError when a sample cannot be decoded.
    """
    loader: DataLoader[Batch | InputError] = DataLoader(
        _Batches(data, recipe),
        sampler=order.batches(start),
        batch_size=None,  # a key is a batch already
        num_workers=workers,
        pin_memory=pin_memory,
        # Workers never draw random numbers of their own; this keeps the loader from drawing a
        # base seed out of the global state, which resuming restores.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch
