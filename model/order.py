"""Order is arithmetic: which sample comes when, and how it is augmented, is never remembered.

The samples of batch k in epoch e are a pure function of (seed, e, k), their augmentation of
(seed, e, sample id). Workers change speed, never content; resuming is a matter of knowing the step.
Where shards come and go (`model/stream.py`), an epoch is not one permutation of all samples, but
one of the shards, and one of the samples in each window of shards.
"""

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
_KEPT = 4  # windows of an epoch: of the batch that is trained on, and of those read ahead


class Draw(NamedTuple):
    """One sample in one epoch: what a loader worker is asked for."""

    epoch: int
    position: int


def epoch_order(seed: int, epoch: int, samples: int) -> npt.NDArray[np.int64]:
    """The permutation of `range(samples)` that epoch `epoch` walks, int64 [samples]."""
    # Philox is counter based: its stream is fixed by the key on every platform and numpy version.
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(samples)


def augmentation_seed(seed: int, epoch: int, sample_id: str) -> int:
    """The seed of one sample's augmentation in one epoch, in [0, 2**32)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{sample_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def drawn_factor(seed: int, first: Draw, factors: Sequence[float]) -> float:
    """Which of the sizes a batch has, for training at many; `first` of its samples names it."""
    factors = tuple(dict.fromkeys(factors))
    if len(factors) == 1:
        return factors[0]
    key = np.random.SeedSequence([seed, first.epoch, first.position])
    return factors[int(np.random.Generator(np.random.Philox(key)).integers(len(factors)))]


class BatchOrder:
    """The batches of a whole training run.

    Every epoch has `samples // batch_size` full batches (one of all samples where there are fewer);
    what is left over in one epoch comes up in another, since each has its own permutation.
    """

    def __init__(self, seed: int, samples: int, batch_size: int, epochs: int) -> None:
        self.seed = seed
        self.samples = samples
        self.batch_size = min(batch_size, samples)
        self.steps_per_epoch = samples // self.batch_size
        self.total_steps = self.steps_per_epoch * epochs

    def batches(self, start: int = 0) -> Iterator[list[Draw]]:
        """The batches from step `start`, which may lie inside an epoch, to the last."""
        for step in range(start, self.total_steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if batch == 0 or step == start:
                order = self._epoch(epoch)
            first = batch * self.batch_size
            yield [Draw(epoch, int(i)) for i in order[first : first + self.batch_size]]

    def lasting(self, epochs: int) -> Self:
        """The same for so many epochs."""
        order = copy(self)
        order.total_steps = self.steps_per_epoch * epochs
        return order

    def _epoch(self, epoch: int) -> "npt.NDArray[np.int64] | Windows":
        """The positions of that epoch in their order, to be sliced."""
        return epoch_order(self.seed, epoch, self.samples)


class Windows:
    """The order of one epoch whose samples are mixed within windows of so many shards.

    The shards are permuted by (seed, epoch), and of every `window` of them in a row the samples by
    (seed, epoch, number of the window). So each shard is needed once an epoch, for one stretch of
    it. A window's order is worked out when it is asked for, and the last few are kept.
    """

    def __init__(
        self, seed: int, epoch: int, firsts: npt.NDArray[np.int64], window: int, samples: int
    ) -> None:
        self._key = seed, epoch
        self._firsts, self._lasts = firsts, np.append(firsts[1:], samples)
        shards = epoch_order(seed, epoch, len(firsts))
        self.shards = [shards[i : i + window] for i in range(0, len(shards), window)]
        counts = self._lasts - firsts
        self._ends = np.cumsum([counts[of].sum() for of in self.shards])
        self._worked_out: dict[int, npt.NDArray[np.int64]] = {}

    def __getitem__(self, places: slice) -> npt.NDArray[np.int64]:
        """The positions at these places of the epoch, int64; both ends must be given."""
        first, last = self.number_at(places.start), self.number_at(places.stop - 1)
        begin = int(self._ends[first - 1]) if first else 0
        stretch = np.concatenate([self._window(number) for number in range(first, last + 1)])
        return stretch[places.start - begin : places.stop - begin]

    def number_at(self, place: int) -> int:
        """The number of the window that holds this place of the epoch."""
        return int(np.searchsorted(self._ends, place, side="right"))

    def _window(self, number: int) -> npt.NDArray[np.int64]:
        if number not in self._worked_out:
            runs = [np.arange(self._firsts[i], self._lasts[i]) for i in self.shards[number]]
            # The last word tells it from other draws of (seed, epoch, number).
            key = np.random.SeedSequence([*self._key, number, 1])
            generator = np.random.Generator(np.random.Philox(key))
            _make_room(self._worked_out, _KEPT)
            self._worked_out[number] = generator.permutation(np.concatenate(runs))
        return self._worked_out[number]


def _make_room(kept: dict[int, T], most: int) -> None:
    """Forget what was worked out first, so that one more makes `most`."""
    while len(kept) >= most:
        del kept[next(iter(kept))]


class WindowedOrder(BatchOrder):
    """The same for a dataset of which only some shards are on the disk at a time.

    Two samples share a batch only where their shards share a window, or neighbouring ones.
    """

    def __init__(
        self, seed: int, shards: npt.NDArray[np.int64], window: int, batch_size: int, epochs: int
    ) -> None:
        """`shards` are those of the samples, int64 [samples], ascending."""
        super().__init__(seed, len(shards), batch_size, epochs)
        self._names, self._firsts = np.unique(shards, return_index=True)
        self._window = window
        self._epochs: dict[int, Windows] = {}

    def shards_of(self, step: int) -> list[int]:
        """The shards that the batch of this step reads."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = batch * self.batch_size
        positions = self._epoch(epoch)[first : first + self.batch_size]
        return self._named(np.unique(np.searchsorted(self._firsts, positions, side="right") - 1))

    def shards_from(self, step: int) -> Iterator[int]:
        """Those of all steps from this one on, in the order in which they are needed.

        A window's are named from its first step to its last.
        """
        while step < self.total_steps:
            epoch, batch = divmod(step, self.steps_per_epoch)
            windows = self._epoch(epoch)
            first = windows.number_at(batch * self.batch_size)
            last = windows.number_at(self.steps_per_epoch * self.batch_size - 1)
            for of in windows.shards[first : last + 1]:
                yield from self._named(of)
            step = (epoch + 1) * self.steps_per_epoch

    def _named(self, numbers: npt.NDArray[np.int64]) -> list[int]:
        return [int(name) for name in self._names[numbers]]

    def _epoch(self, epoch: int) -> Windows:
        if epoch not in self._epochs:
            _make_room(self._epochs, 2)  # who looks ahead is in the next one
            self._epochs[epoch] = Windows(
                self.seed, epoch, self._firsts, self._window, self.samples
            )
        return self._epochs[epoch]
