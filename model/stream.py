"""A dataset that is larger than the disk: shards come when their turn comes, and go afterwards.

The trainer has neither keys nor a network. It writes into `wanted`, in its job's folder, which
shards it needs now and next, a path a line; whoever runs the job brings them to their places, whole
and verified, as many as there is room for, and takes away what is not asked for. Since the order is
arithmetic, what is needed next is known, and need not be guessed from what was used last. A list
says all that is wanted, so that nothing has to be remembered by either side, whoever is killed.
Where all shards are there anyway, nothing is waited for, and the same is learned.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from model.errors import InputError, TrainingError
from model.indexed_tar import TarReader
from model.journal import write_atomically
from model.manifest import Manifest
from model.order import WindowedOrder
from model.recipe import Recipe

T = TypeVar("T")

WANTED = "wanted"  # in the job's folder
_LOOK = 0.01  # seconds between two looks for a shard
# Seconds for a shard to come; whoever brings them gives up sooner, with a reason.
_PATIENCE = 1200.0


def room_of(recipe: Recipe) -> int | None:
    """Bytes that shards may take on the disk together; None where all of them lie there."""
    return None if recipe.stream_gb is None else int(recipe.stream_gb * 1e9)


def window_of(manifest: Manifest, shards: npt.NDArray[np.int64], recipe: Recipe, room: int) -> int:
    """How many shards are mixed with each other: half of what there is room for.

    So the next window can come while one is trained on. `shards` are those of the training samples,
    int64 [samples]. Raises InputError where there is too little room for a batch.
    """
    largest = max(shard.size for shard in manifest.shards)
    fits, counts = room // largest, np.sort(np.unique(shards, return_counts=True)[1])
    if fits >= len(manifest.shards):
        return len(counts)
    # A batch reaches over so many whole shards, and ends in a window at each side.
    batch = min(recipe.batch_size, len(shards))
    whole = int(np.searchsorted(np.cumsum(counts), max(0, batch - 2), side="right"))
    if fits < whole + 2:
        raise InputError(
            f"stream_gb={recipe.stream_gb:g} is too little room: a batch of {batch} may need "
            f"{whole + 2} shards at once, of up to {largest / 1e6:.1f} MB; set at least "
            f"stream_gb={np.ceil((whole + 2) * largest / 1e7) / 100:g}, and better ten times that."
        )
    return min(int(fits - whole) // 2, len(counts))


class Stream:
    """What is asked for, and the wait for it; shared by the splits of a training."""

    def __init__(self, job: Path, manifest: Manifest, room: int) -> None:
        """Of the dataset in `job`, the folder of a training."""
        # Called while waiting for a shard; what it raises ends the wait.
        self.heed: Callable[[], object] = lambda: None
        self._job = job
        self._manifest = manifest
        self._room = room
        self._owner = os.getpid()
        self._ahead: list[int] = []
        self._asked: list[int] | None = None

    def paced(self, batches: Iterable[T], order: WindowedOrder, start: int) -> Iterator[T]:
        """The `batches` of `order` from step `start`, each asked for when its shards are there.

        Those that only it has read are given up before it is trained on.
        """
        self.ask(order.shards_from(start))
        coming = iter(batches)
        for step in range(start, order.total_steps):
            for number in order.shards_of(step):
                self._wait(number)
            batch = next(coming)
            self.ask(order.shards_from(step + 1))
            yield batch

    def ask(self, shards: Iterable[int]) -> None:
        """Want these, in the order in which they are needed, as far as there is room."""
        self._ahead = self._that_fit(shards)
        self._write(self._ahead)

    def ask_between(self, shards: Iterable[int]) -> None:
        """Want these first, and then what was asked for before."""
        self._write(self._that_fit(chain(shards, self._ahead)))

    def _that_fit(self, shards: Iterable[int]) -> list[int]:
        wanted: dict[int, None] = {}
        left = self._room
        for number in shards:
            if number not in wanted:
                left -= self._manifest.shards[number].size
                if left < 0:
                    break
                wanted[number] = None
        return [*wanted]

    def _write(self, numbers: list[int]) -> None:
        if numbers != self._asked:
            paths = (self._path(number).relative_to(self._job) for number in numbers)
            said = "".join(f"{path.as_posix()}\n" for path in paths)
            write_atomically(self._job / WANTED, said.encode())
            self._asked = numbers

    def open(self, number: int) -> TarReader:
        """That shard, once it is there; to be closed soon, since only then its room is free."""
        while True:
            path = self._wait(number)
            try:
                return TarReader(path)
            except InputError:
                if path.exists():
                    raise  # else it went in that very moment

    def _wait(self, number: int) -> Path:
        path = self._path(number)
        began = time.monotonic()
        while not path.exists():
            if os.getpid() == self._owner:
                self.heed()
                if time.monotonic() > began + _PATIENCE:
                    raise TrainingError(
                        "STORE",
                        f"{path} did not come within {_PATIENCE / 60:.0f} minutes; see that "
                        "whatever runs this job brings what `wanted` names, or fetch all shards.",
                    )
            # A loader process reads ahead, and waits for as long as somebody trains.
            elif (trainer := multiprocessing.parent_process()) and not trainer.is_alive():
                raise EOFError("The training that this process loads for has ended.")
            time.sleep(_LOOK)
        return path

    def __getstate__(self) -> dict[str, Any]:
        """For loader processes that are spawned, which heed nothing."""
        return self.__dict__ | {"heed": int}

    def _path(self, number: int) -> Path:
        return self._job / "dataset" / "shards" / self._manifest.shards[number].name
