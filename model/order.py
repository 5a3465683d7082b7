"""Order is arithmetic: which sample comes when, and how it is augmented, is never remembered.

The samples of batch k in epoch e are a pure function of (seed, e, k), their augmentation of
(seed, e, sample id). Workers change speed, never content; resuming is a matter of knowing the step.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


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
                order = epoch_order(self.seed, epoch, self.samples)
            first = batch * self.batch_size
            yield [Draw(epoch, int(i)) for i in order[first : first + self.batch_size]]
