"""A training job: all that stays the same from its first step to its last."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import ValidationError

from model.checkpoint import Description
from model.dataset import Dataset, read_manifest
from model.device import pick_device, pick_memory_format, pick_precision
from model.errors import InputError, first_problem
from model.losses import Loss, build_loss, class_weights
from model.order import BatchOrder, WindowedOrder
from model.provenance import provenance
from model.ranks import ALONE, Ranks
from model.recipe import Recipe
from model.stream import Stream, room_of, window_of

_RECIPE = "recipe.json"


@dataclass(frozen=True)
class Job:
    """What to train, on what, and how; `origin` is what its checkpoints will say of it."""

    out: Path
    recipe: Recipe
    train: Dataset
    val: Dataset
    order: BatchOrder
    loss: Loss  # of a batch, which all ranks hold together
    own_loss: Loss  # of what this rank holds alone
    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    origin: Description
    ranks: Ranks

    @classmethod
    def open(cls, folder: Path, run_id: str, device: str, ranks: Ranks = ALONE) -> Self:
        """Read `recipe.json` and `dataset/` in `folder`; InputError where one is missing or bad.

        Several ranks share every batch in equal parts; InputError where that cannot be.
        """
        recipe = _read_recipe(folder / _RECIPE)
        train, val, order = _data(folder, recipe)
        if order.batch_size % ranks.world:
            raise InputError(
                f"A batch of {order.batch_size} images cannot be shared equally by {ranks.world} "
                f"processes: take --set batch_size=… as a multiple of {ranks.world}, or other "
                "--ranks."
            )
        if recipe.stream_gb is not None and ranks.world > 1:
            raise InputError("Shards that are streamed are read by one process: take --ranks 1.")
        where = pick_device(ranks.device(device))
        dtype = pick_precision(recipe.precision, where)
        weights = class_weights(recipe, train.manifest.pixels["train"][:-1])
        return cls(
            out=folder / "out",
            recipe=recipe,
            train=train,
            val=val,
            order=order,
            loss=build_loss(recipe, weights, ranks),
            own_loss=build_loss(recipe, weights),
            device=where,
            dtype=dtype,
            memory_format=pick_memory_format(recipe.channels_last),
            origin=Description(
                run_id=run_id,
                wandb_id=run_id,
                recipe=recipe,
                classes=train.manifest.classes,
                class_weights=weights,
                dataset_key=train.manifest.key,
                dataset_digest=train.manifest.digest,
                archives=train.manifest.archives,
                max_side=train.manifest.max_side,
                provenance=provenance(where, dtype, ranks.world),
                step=0,
                epoch=0,
                steps_per_epoch=order.steps_per_epoch,
                miou=None,
                iou={},
            ),
            ranks=ranks,
        )

    def must_fit(self, found: Description) -> None:
        """InputError for a checkpoint of another recipe or dataset.

        Going on with it would be neither the old run nor the new one.
        """
        wanted = self.origin
        for what, before, now in (
            ("recipe", found.recipe.decisive(), wanted.recipe.decisive()),
            ("dataset", found.dataset_digest, wanted.dataset_digest),
            ("set of shards", _shards(found), _shards(wanted)),
            ("list of classes", found.classes, wanted.classes),
        ):
            if before != now:
                raise InputError(
                    f"The checkpoint at step {found.step} was made with another {what}; "
                    "start a new run, or go on with what it was made with."
                )


def shared_by(folder: Path, most: int) -> int:
    """How many processes, `most` at the most, can share the batches of a job in equal parts.

    It says so where these are fewer. Raises InputError as `Job.open` does.
    """
    recipe = _read_recipe(folder / _RECIPE)
    if recipe.stream_gb is not None:
        if most > 1:
            print("shards that are streamed are read by one process", flush=True)
        return 1
    batch = min(recipe.batch_size, len(Dataset(folder / "dataset", "train")))
    ranks = max(n for n in range(1, most + 1) if batch % n == 0)
    if ranks < most:
        print(
            f"{ranks} of {most} processes share a batch of {batch} images, equally; a batch_size "
            f"that is a multiple of {most} would use all",
            flush=True,
        )
    return ranks


def _shards(of: Description) -> str | None:
    """What the order depends on where shards are streamed; else how photos lie in them is free."""
    return None if of.recipe.stream_gb is None else of.dataset_key


def _data(folder: Path, recipe: Recipe) -> tuple[Dataset, Dataset, BatchOrder]:
    """Both splits, and the order in which the first is trained on."""
    place, seed, batch, epochs = folder / "dataset", recipe.seed, recipe.batch_size, recipe.epochs
    room = room_of(recipe)
    if room is None:
        train, val = Dataset(place, "train"), Dataset(place, "val")
        return train, val, BatchOrder(seed, len(train), batch, epochs)
    manifest = read_manifest(place)
    stream = Stream(folder, manifest, room)
    train, val = Dataset(place, "train", stream), Dataset(place, "val", stream, asks=True)
    window = window_of(manifest, train.shards, recipe, room)
    return train, val, WindowedOrder(seed, train.shards, window, batch, epochs)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the job for this process; InputError where another one trains it."""
    try:
        file = (folder / _RECIPE).open("rb")
    except OSError:  # which is going to be said in its own words
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder} is being trained by another process; wait for its end."
            ) from None
        # Loader processes outlive a kill by some seconds, and must not keep the next attempt out.
        os.register_at_fork(after_in_child=file.close)
        yield


def _read_recipe(path: Path) -> Recipe:
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"The recipe {path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        where, said = first_problem(error)
        raise InputError(
            f"{path} is no recipe of this version: {said} ({where or 'whole file'})."
        ) from None
