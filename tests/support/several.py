"""Ranks as processes of their own, forked from one that has never computed a gradient.

Once something in a process has given autograd threads of its own (an export does), forks of it
cannot compute one.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any

import cloudpickle
import torch

from model.launcher import environment, meeting_point
from model.ranks import Ranks

_fork_server = multiprocessing.get_context("forkserver")
_fork_server.set_forkserver_preload(["model.train"])


def in_ranks(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns in each of `count` joined ranks."""
    said: SimpleQueue[tuple[int, Any]] = _fork_server.SimpleQueue()
    with meeting_point() as port:
        processes = [
            _fork_server.Process(
                target=_one, args=(cloudpickle.dumps(work), environment(rank, count, port), said)
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return [found for _, found in sorted((said.get() for _ in processes), key=lambda pair: pair[0])]


def _one(work: bytes, told: dict[str, str], said: "SimpleQueue[tuple[int, Any]]") -> None:
    torch.set_num_threads(1)
    os.environ |= told
    ranks = Ranks.from_environment()
    with ranks.joined("cpu"):
        said.put((ranks.rank, cloudpickle.loads(work)(ranks)))
