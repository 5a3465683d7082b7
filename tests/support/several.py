"""Ranks as forks of this process, so that what a test has replaced is replaced in them, too."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch

from model.launcher import environment, meeting_point
from model.ranks import Ranks


def in_ranks(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns in each of `count` joined ranks."""
    fork = multiprocessing.get_context("fork")
    said = fork.SimpleQueue()

    def one(rank: int, port: int) -> None:
        torch.set_num_threads(1)
        os.environ |= environment(rank, count, port)
        ranks = Ranks.from_environment()
        with ranks.joined("cpu"):
            said.put((rank, work(ranks)))

    with meeting_point() as port:
        processes = [fork.Process(target=one, args=(rank, port)) for rank in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return [found for _, found in sorted((said.get() for _ in processes), key=lambda pair: pair[0])]
