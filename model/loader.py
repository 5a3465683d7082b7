"""Batches for training and validation, as tensors."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model.augment import Plan, batch_recipe, drawn_chances
from model.augment_photo import augmented
from model.dataset import Dataset
from model.decoded import Decoded
from model.device import usable_cores
from model.errors import InputError
from model.memory import free_memory
from model.order import BatchOrder, Draw, WindowedOrder
from model.ranks import ALONE, Ranks
from model.recipe import Recipe
from model.resident import Resident, shall_be_resident

# ImageNet's channel means and deviations in RGB: what encoders trained on it expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

_CPU = torch.device("cpu")
_SHARE = 4  # of the free memory one part may hold decoded photos


class Batch(NamedTuple):
    """images uint8 [N, 3, H, W]; targets uint8 [N, H, W] of class indices, 255 void."""

    images: Tensor
    targets: Tensor


def normalise(images: Tensor, kind: str) -> Tensor:
    """[N, 3, H, W] in 0..255 to float32 of zero mean and unit deviation.

    `kind` says by which figures: "imagenet", one mean and deviation a channel for all photos, or
    "per-image", each photo's own over all its pixels and channels.
    """
    images = images.to(torch.float32, copy=True)  # which is changed, and not copied again
    if kind == "per-image":
        deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True, correction=0)
        return images.sub_(mean).div_(deviation.clamp(min=1))  # a photo of one colour has none
    return images.sub_(_by_channel(_MEAN, images.device)).div_(_by_channel(_STD, images.device))


def _by_channel(shares: Iterable[float], device: torch.device) -> Tensor:
    """float32 [3, 1, 1] in 0..255, made where it is wanted: a copy to a GPU would wait for it."""
    return torch.stack([torch.full((1, 1), share, device=device) for share in shares]) * 255


class _Batches(TorchDataset[Batch | InputError]):
    """Augmented batches, or a rank's parts of them, looked up by the draws of the whole."""

    def __init__(self, data: Dataset, recipe: Recipe, ranks: Ranks) -> None:
        self._ids = [sample.id for sample in data.samples]
        self._recipe = recipe
        self._ranks = ranks
        sizes = {at.image_size: at for at in map(recipe.scaled, recipe.multi_scale or (1.0,))}
        room = free_memory() // _SHARE // ranks.world
        if recipe.fit == "crop":  # photos are seen as they are, however large a part of them
            self._decoded = dict.fromkeys(sizes, Decoded(data, recipe, room))
        else:
            room //= len(sizes)
            self._decoded = {size: Decoded(data, at, room) for size, at in sizes.items()}

    def __getitem__(self, draws: list[Draw]) -> Batch | InputError:
        recipe, part = batch_recipe(self._recipe, draws), self._ranks.part(draws)
        decoded = self._decoded[recipe.image_size]
        positions = [draw.position for draw in part]
        chances = drawn_chances(recipe.seed, part, [self._ids[position] for position in positions])
        plan = Plan.of(recipe, decoded.sizes[positions], chances)
        try:
            images, targets = augmented((decoded[position] for position in positions), plan)
        except InputError as error:
            return error  # raised in a worker it would come back as a traceback in a string
        return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(targets))


def training_batches(
    data: Dataset,
    recipe: Recipe,
    order: BatchOrder,
    workers: int,
    *,
    start: int = 0,
    device: torch.device = _CPU,
    ranks: Ranks = ALONE,
    heed: Callable[[], object] = lambda: None,
) -> Iterator[Batch]:
    """The batches of `order` from step `start`, for `device`.

    A split that lies there is augmented there; else `workers` processes do it, which start once and
    read ahead across epochs. One of several ranks has its part of each batch; with ``fit="pad"`` a
    part is padded by itself. `heed` is called while it takes long, and what it raises ends it.
    Raises InputError when a sample cannot be decoded.
    """
    if shall_be_resident(data, recipe, device):
        threads = max(1, usable_cores() // ranks.world)
        resident = Resident(data, recipe, device, threads=threads, heed=heed)
        for draws in order.batches(start):
            yield Batch(*resident.batch(draws, ranks.part(draws)))
        return
    loader: DataLoader[Batch | InputError] = DataLoader(
        _Batches(data, recipe, ranks),
        sampler=order.batches(start),
        batch_size=None,  # a key is a batch already
        num_workers=workers,
        # Forked, they share what they have decoded.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        pin_memory=device.type == "cuda",
        # Workers never draw random numbers of their own; this keeps the loader from drawing a
        # base seed out of the global state, which resuming restores.
        generator=torch.Generator().manual_seed(0),
    )
    batches: Iterable[Batch | InputError] = loader
    if data.stream and isinstance(order, WindowedOrder):
        batches = data.stream.paced(loader, order, start)
    for batch in batches:
        if isinstance(batch, InputError):
            raise batch
        yield batch
