"""The processes that train one net together: each computes its part of every batch.

They are known by torchrun's environment variables (RANK, WORLD_SIZE, LOCAL_RANK), whoever starts
them. A process that has none of these is alone: it has no process group, and nothing here costs it
anything. What is summed over pixels is summed over the pixels of all ranks before anything is
divided by it, so the loss and its gradient are those of the whole batch, whoever holds which photo.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel

from model.errors import InputError, TrainingError

# That one waits for another, who may write or download meanwhile; one that has died ends the job
# at once (`model/launcher.py`), and does not leave others waiting.
_PATIENCE = timedelta(hours=1)

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of the `world` processes of a training this one is; the first speaks for all."""

    rank: int = 0
    world: int = 1
    local: int = 0  # which of those on this computer, and so which GPU
    parent: int | None = None  # the process that started them, where they are several

    @classmethod
    def from_environment(cls) -> Self:
        """What whoever started this process says of it; alone where nobody says anything."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1 or "RANK" not in os.environ:
            return cls()
        rank = int(os.environ["RANK"])
        return cls(rank, world, int(os.environ.get("LOCAL_RANK", rank)), os.getppid())

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def orphaned(self) -> bool:
        """Whether who started this is gone, and with it who would end the others."""
        return self.parent is not None and os.getppid() != self.parent

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """Meet the others, and stay in touch with them until the end of the block.

        GPUs talk by NCCL; what is on the CPU, such as a flag, is agreed on without waiting for one.
        """
        if self.world == 1:
            yield
            return
        on_gpu = device != "cpu" and torch.cuda.is_available()
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
        yield
        dist.destroy_process_group()  # not after a failure: it could wait for who is not there

    def device(self, wanted: str) -> str:
        """The device of this rank, where `wanted` is what all were asked to take.

        Raises InputError for one that several cannot use, and TrainingError(DRIVER) where there
        are fewer GPUs than ranks.
        """
        if self.world == 1 or wanted == "cpu":
            return wanted
        if wanted not in ("auto", "cuda"):
            raise InputError(
                f"{self.world} processes cannot share the device {wanted!r}: take --ranks 1, or "
                "--device cuda, by which each has a GPU of its own."
            )
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if wanted == "auto" and not seen:
            return "cpu"
        if self.local >= seen:
            raise TrainingError(
                "DRIVER",
                f"{self.world} processes want a GPU each, and PyTorch sees {seen}: start again, on "
                f"another machine if it happens twice, or take --ranks {max(1, seen)}.",
            )
        torch.cuda.set_device(self.local)
        return f"cuda:{self.local}"

    def part(self, batch: Sequence[T]) -> Sequence[T]:
        """This rank's part of a batch of equal parts, in its order."""
        size = len(batch) // self.world
        return batch[self.rank * size : (self.rank + 1) * size]

    def positions(self, samples: int) -> Iterator[int | None]:
        """This rank's of `samples` positions; None where the others have one more than it has.

        So all take equally many turns, and may ask each other something in each.
        """
        for first in range(0, samples, self.world):
            position = first + self.rank
            yield position if position < samples else None

    def seed(self, seed: int, step: int) -> None:
        """Let torch's random numbers of this step be this rank's own, such as those of dropout.

        They are a function of seed, step and rank, so that a checkpoint, which the first writes,
        need not hold those of the others. One that is alone has one stream, which is restored.
        """
        if self.world > 1:
            stream = np.random.SeedSequence([seed, step, self.rank])
            torch.manual_seed(int(stream.generate_state(1)[0]))

    def parallel(self, net: nn.Module) -> nn.Module:
        """`net` with gradients that are the mean over ranks, as `total` and `gathered` expect."""
        return DistributedDataParallel(net) if self.world > 1 else net

    def take_from_first(self, net: nn.Module) -> None:
        """Give the net the weights, and the batch norms' averages, that it has at the first."""
        if self.world > 1:
            for tensor in net.state_dict().values():
                dense = tensor.contiguous()
                dist.broadcast(dense, src=0)
                tensor.copy_(dense)

    def total(self, own: Tensor) -> Tensor:
        """The sum over ranks, of the same shape; its gradient is that of `parallel`."""
        return own if self.world == 1 else _apply(_Total, own, self)

    def gathered(self, own: Tensor) -> Tensor:
        """The rows of all ranks, [P, …] to [P of all, …], in their order; its gradient as above."""
        return own if self.world == 1 else _apply(_Gathered, own, self)

    def any(self, flag: bool) -> bool:
        """Whether it is so at any of them; all come here, and all hear the same."""
        if self.world == 1:
            return flag
        said = torch.tensor(int(flag))
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)

    def meet(self) -> None:
        """Wait until all are here."""
        self.any(False)

    def merged(self, own: Mapping[int, T]) -> dict[int, T]:
        """What each has found, together; every one has it then."""
        if self.world == 1:
            return dict(own)
        parts: list[Mapping[int, T]] = [{}] * self.world
        dist.all_gather_object(parts, own)
        return {key: value for part in parts for key, value in part.items()}


ALONE = Ranks()


def lost_another(error: Exception) -> bool:
    """Whether it says no more than that another rank is gone, or cannot be talked to."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _apply(function: type[Function], own: Tensor, ranks: Ranks) -> Tensor:
    out: Tensor = function.apply(own, ranks)
    return out


# Every rank computes the same loss of all pixels, and from it the gradient of its own parameters by
# way of its own pixels only. The gradient of the whole is the sum of these, and of theirs
# `parallel` takes the mean: hence times the number of ranks, and nothing is sent on the way back.


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.world = ranks.world
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.world, None


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        rows = torch.zeros(ranks.world, dtype=torch.int64)
        rows[ranks.rank] = len(own)
        dist.all_reduce(rows)
        # All must send equally much; what is added to the shorter ones is cut off again.
        sent = own.new_zeros(int(rows.max()), *own.shape[1:])
        sent[: len(own)] = own
        parts = [torch.empty_like(sent) for _ in range(ranks.world)]
        dist.all_gather(parts, sent)
        ctx.world, ctx.rows = ranks.world, len(own)
        ctx.first = int(rows[: ranks.rank].sum())
        return torch.cat([part[:count] for part, count in zip(parts, rows.tolist(), strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own = gradients[0][ctx.first : ctx.first + ctx.rows]
        return own * ctx.world, None
